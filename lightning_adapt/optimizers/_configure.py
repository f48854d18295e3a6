"""From two names to what ``configure_optimizers`` returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypedDict

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_adapt._text import unknown_name
from lightning_adapt.optimizers import _schedules
from lightning_adapt.optimizers._accumulators import adadelta, adafactor, adagrad, rmsprop
from lightning_adapt.optimizers._adam import adam, adamax, adamw, nadam, radam
from lightning_adapt.optimizers._parameters import trainer_attribute
from lightning_adapt.optimizers._sgd import muon, sgd

_FACTORIES: dict[str, Callable[..., Optimizer]] = {
    factory.__name__: factory
    for factory in (adadelta, adafactor, adagrad, adam, adamax, adamw, muon, nadam, radam, rmsprop, sgd)
}


# These three have the shape of Lightning's own types, key by key, so that type checkers take one for the
# other; Lightning itself is not imported here.
class _SchedulerRequired(TypedDict):
    scheduler: LRScheduler | ReduceLROnPlateau


class SchedulerSetup(_SchedulerRequired, total=False):
    """What Lightning wants to know about a scheduler."""

    name: str | None
    interval: str
    frequency: int
    reduce_on_plateau: bool
    monitor: str | None
    strict: bool


class _SetupRequired(TypedDict):
    optimizer: Optimizer
    lr_scheduler: LRScheduler | ReduceLROnPlateau | SchedulerSetup


class OptimizerSetup(_SetupRequired, total=False):
    """What ``LightningModule.configure_optimizers`` may return."""

    monitor: str


def configure(
    module: nn.Module,
    optimizer: str = "adamw",
    *,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    final_lr_frac: float = 0.0,
    precision: str | None = None,
    **options: Any,
) -> OptimizerSetup:
    """Make an optimizer and its schedule by name: what ``configure_optimizers`` returns.

    Args:
        module: The module to train; a LightningModule is asked for its trainer's precision and number of
            steps.
        optimizer: Name in the catalog.
        schedule: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"inverse_sqrt"``.
        warmup_steps: Optimizer steps over which the learning rate rises linearly; 0 for none.
        total_steps: Optimizer steps of the whole run; None asks the trainer where the schedule needs it.
        final_lr_frac: Least fraction of the learning rate, in [0, 1].
        precision: Lightning's precision, such as ``"16-mixed"``; None asks the trainer.
        **options: Further arguments of the optimizer's factory, such as ``lr`` or ``overrides``.

    Returns:
        A dict with the optimizer and a scheduler that is stepped with every optimizer step.

    Raises:
        ValueError: If a name or an option is unknown, a number is out of range, or the number of steps is
            neither given nor known to a trainer.

    Example:
        >>> setup = configure(nn.Linear(2, 1), "adamw", schedule="cosine", warmup_steps=2, total_steps=9)
        >>> type(setup["optimizer"]).__name__, setup["lr_scheduler"]["interval"]
        ('AdamW', 'step')
    """
    if optimizer not in _FACTORIES:
        raise ValueError(unknown_name("optimizer", optimizer, _FACTORIES))
    factory = _FACTORIES[optimizer]
    known = [name for name in inspect.signature(factory).parameters if name != "params"]
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"options of {optimizer}", option, known))
    _schedules.check_schedule(schedule, warmup_steps, total_steps, final_lr_frac)
    if total_steps is None and schedule in _schedules.NEED_TOTAL_STEPS:
        total_steps = _steps_of_trainer(module, schedule)
    made = factory(module, precision=precision, **options)
    scheduler = _schedules.schedule(made, schedule, warmup_steps, total_steps, final_lr_frac)
    return {"optimizer": made, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1}}


def _steps_of_trainer(module: nn.Module, schedule: str) -> int:
    """Ask the module's trainer how many optimizer steps the run will have."""
    steps = trainer_attribute(module, "estimated_stepping_batches")
    if steps is None:
        raise ValueError(
            f"`total_steps` must be a number for schedule={schedule!r} without a trainer, got None; "
            "give it, or call configure inside configure_optimizers"
        )
    if not 1 <= steps < float("inf"):
        raise ValueError(
            f"`total_steps` must be a number for schedule={schedule!r} in a run "
            f"{'that trains nothing' if steps == 0 else 'without an end'}, got {steps} steps from the "
            "trainer; give total_steps, or set max_steps of the trainer"
        )
    return int(steps)
