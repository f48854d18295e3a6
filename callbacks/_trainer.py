"""The one place that knows the inside of Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_adapt.dynamics.step_hooks import has_step_hooks


def batch_step(trainer: Trainer) -> int:
    """Batches that stepped so far: the step that Lightning gives its own training metrics."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def batch_index(trainer: Trainer) -> int:
    """Index of the current batch in its epoch, as Lightning counts for learning-rate schedules."""
    return int(trainer.fit_loop.epoch_loop.batch_idx)


def cadence(trainer: Trainer) -> int:
    """The trainer's ``log_every_n_steps``; 0 when it logs nothing."""
    return int(getattr(trainer, "log_every_n_steps", 0) or 0)


def unwrap(optimizer: Any) -> Any:
    """The torch optimizer inside Lightning's wrapper, which only redirects ``step``.

    Any other optimizer that has one inside, such as Lookahead, makes steps of its own and is watched itself.
    """
    inner: Any = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
    # Only where it has the whole model, see `why_not_optimizer`: it then steps just its inner optimizer.
    return inner.optim if _is_zero_redundancy(inner) and inner.world_size == 1 else inner


def _is_zero_redundancy(optimizer: object) -> bool:
    # By name: torch builds without distributed cannot import the class.
    return any(base.__name__ == "ZeroRedundancyOptimizer" for base in type(optimizer).__mro__)


def why_not(trainer: Trainer) -> str | None:
    """Why nothing of this run can be watched, one sentence, or ``None``."""
    strategy = type(trainer.strategy).__name__
    if strategy not in ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"):
        return None
    return (
        f"OptimizerDynamicsMonitor must run with whole parameters, got {strategy}, which shards them; use "
        "DDP or a single device"
    )


def why_not_optimizer(optimizer: object, label: str) -> str | None:
    """Why this optimizer cannot be watched, one sentence, or ``None``."""
    if _is_zero_redundancy(optimizer):
        return (
            f"{label} must have all parameters on each rank to be watched, but it shards them; use the "
            "optimizer inside it"
        )
    if not has_step_hooks(optimizer):
        return (
            f"{label} must have `register_step_post_hook`, as every torch.optim.Optimizer has, to be "
            "watched; derive it from torch.optim.Optimizer and call its __init__"
        )
    return None


def optimizers(trainer: Trainer) -> list[Any]:
    """The trainer's optimizers, unwrapped; without the stand-in for a module that has none."""
    return [
        unwrap(optimizer) for optimizer in trainer.optimizers if type(optimizer).__name__ != "_MockOptimizer"
    ]


def labelled(trainer: Trainer) -> list[tuple[str, Any]]:
    """The trainer's optimizers with their names: the class, numbered where there are several of it."""
    found = optimizers(trainer)
    names = [type(optimizer).__name__ for optimizer in found]
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    labels = [f"{name}-{count}" if count else name for name, count in zip(names, earlier, strict=True)]
    return list(zip(labels, found, strict=True))


def loss_scale(trainer: Trainer) -> Tensor | float | None:
    """The gradient scaler's scale for this step, without waiting for the device; ``None`` without one."""
    plugin = trainer.precision_plugin
    scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
    if scaler is None or not scaler.is_enabled():
        return None
    scale = scale_of(scaler)
    return scale if scale is not None else float(scaler._init_scale)


def scale_of(scaler: torch.amp.GradScaler | None) -> Tensor | None:
    """The scale where the device has it; ``None`` without a scaler, or before it has scaled anything."""
    return getattr(scaler, "_scale", None)  # get_scale() would read it on the host


def any_rank(trainer: Trainer, wanted: bool) -> bool:
    """Whether any process wants it; all must ask."""
    return bool(trainer.strategy.reduce_boolean_decision(wanted, all=False))


def split_loggers(trainer: Trainer) -> tuple[list[Any], list[Any]]:
    """The trainer's TensorBoard loggers, which another thread may write to, and all others."""
    boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return boards, [logger for logger in trainer.loggers if logger not in boards]


def log_metrics(loggers: Iterable[Any], scalars: Mapping[str, float], step: int) -> None:
    """Give scalars to loggers."""
    for logger in loggers if scalars else ():
        if _is_plain_board(logger):
            from lightning_adapt.views.tensorboard import write_scalars

            write_scalars(logger.experiment, scalars, step)
        else:
            logger.log_metrics(dict(scalars), step=step)


def _is_plain_board(logger: Any) -> bool:
    """Whether its `log_metrics` is TensorBoard's own and would write each scalar under its own name."""
    own = getattr(getattr(logger, "log_metrics", None), "__func__", None) is TensorBoardLogger.log_metrics
    return own and not logger._prefix and getattr(rank_zero_only, "rank", 0) == 0  # Lightning sets it


def remember(trainer: Trainer, scalars: Mapping[str, float]) -> None:
    """Show scalars to callbacks such as early stopping."""
    figures = torch.tensor(list(scalars.values())).unbind()  # one tensor for each takes ten times as long
    # Who asks for `trainer.callback_metrics` makes it read all metrics, for the progress bar's on the host.
    trainer._logger_connector._callback_metrics.update(zip(scalars, figures, strict=True))
