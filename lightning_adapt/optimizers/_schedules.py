"""Learning-rate schedules: pure functions from the step to a factor on the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import cos, inf, pi, sqrt
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_adapt._text import unknown_name


def _warmup(step: int, warmup_steps: int) -> float:
    # (step + 1): a first step with learning rate 0 would be a forward and a backward pass for nothing.
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def _progress(step: int, warmup_steps: int, total_steps: float) -> float:
    """Share of the way from the end of warm-up to ``total_steps``, in [0, 1]."""
    return min(max(0.0, (step - warmup_steps) / max(1.0, total_steps - warmup_steps)), 1.0)


def constant(step: int, warmup_steps: int = 0, total_steps: float = inf, final_lr_frac: float = 0.0) -> float:
    """Rise linearly over ``warmup_steps``, then stay at 1.

    Args:
        step: Steps taken before, from 0.
        warmup_steps: Steps until the full learning rate; the first has ``1 / warmup_steps`` of it.
        total_steps: Not used.
        final_lr_frac: Not used.

    Returns:
        Factor on the learning rate.

    Example:
        >>> [constant(step, warmup_steps=4) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return _warmup(step, warmup_steps)


def linear(step: int, warmup_steps: int = 0, total_steps: float = inf, final_lr_frac: float = 0.0) -> float:
    """Rise over ``warmup_steps``, then fall in a straight line to ``final_lr_frac`` at ``total_steps``.

    Args:
        step: Steps taken before, from 0.
        warmup_steps: Steps until the full learning rate.
        total_steps: Step at which the end is reached, one after the last, so that no step is taken at the
            end's rate.
        final_lr_frac: Factor at the end, in [0, 1].

    Returns:
        Factor on the learning rate.

    Example:
        >>> [linear(step, total_steps=4) for step in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    fall = 1 - _progress(step, warmup_steps, total_steps)
    return _warmup(step, warmup_steps) * (final_lr_frac + (1 - final_lr_frac) * fall)


def cosine(step: int, warmup_steps: int = 0, total_steps: float = inf, final_lr_frac: float = 0.0) -> float:
    """Rise over ``warmup_steps``, then follow half a cosine down to ``final_lr_frac`` at ``total_steps``.

    Args:
        step: Steps taken before, from 0.
        warmup_steps: Steps until the full learning rate.
        total_steps: Step at which the end is reached, one after the last.
        final_lr_frac: Factor at the end, in [0, 1].

    Returns:
        Factor on the learning rate.

    Example:
        >>> [round(cosine(step, total_steps=4, final_lr_frac=0.1), 3) for step in range(5)]
        [1.0, 0.868, 0.55, 0.232, 0.1]

    References:
        Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983 (without restarts).
    """
    fall = (1 + cos(pi * _progress(step, warmup_steps, total_steps))) / 2
    return _warmup(step, warmup_steps) * (final_lr_frac + (1 - final_lr_frac) * fall)


def inverse_sqrt(
    step: int, warmup_steps: int = 0, total_steps: float = inf, final_lr_frac: float = 0.0
) -> float:
    """Rise over ``warmup_steps``, then fall as ``sqrt(warmup_steps / (step + 1))`` to ``final_lr_frac``.

    Args:
        step: Steps taken before, from 0.
        warmup_steps: Steps until the full learning rate; also how slowly it falls. 0 counts as 1.
        total_steps: Not used: the fall has no end.
        final_lr_frac: Least factor after warm-up, in [0, 1].

    Returns:
        Factor on the learning rate.

    Example:
        >>> [inverse_sqrt(step, warmup_steps=2) for step in (0, 1, 7)]
        [0.5, 1.0, 0.5]

    References:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 5.3.
    """
    if step < warmup_steps:
        return _warmup(step, warmup_steps)
    return max(final_lr_frac, sqrt(max(1, warmup_steps) / (step + 1)))


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "inverse_sqrt": inverse_sqrt,
    "linear": linear,
}
#: Schedules that cannot be drawn without knowing where they end.
NEED_TOTAL_STEPS = ("cosine", "linear")


def check_schedule(name: str, warmup_steps: int, total_steps: float | None, final_lr_frac: float) -> None:
    """Refuse a schedule that is not known or cannot be.

    Raises:
        ValueError: Naming the argument and the remedy. ``total_steps=None`` passes.
    """
    if name not in SCHEDULES:
        raise ValueError(unknown_name("schedule", name, SCHEDULES))
    if not isinstance(warmup_steps, int) or warmup_steps < 0:
        raise ValueError(
            f"`warmup_steps` must be a whole number >= 0, got {warmup_steps!r}; use 0 for no warm-up"
        )
    if not 0 <= final_lr_frac <= 1:
        raise ValueError(
            f"`final_lr_frac` must be in [0, 1], got {final_lr_frac!r}; it is a fraction of the learning rate"
        )
    if total_steps is not None and not 1 <= total_steps < inf:
        raise ValueError(
            f"`total_steps` must be a finite number >= 1, got {total_steps!r}; "
            "give the number of optimizer steps of the whole run, or set the trainer's max_steps"
        )


def schedule(
    optimizer: Optimizer,
    name: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    final_lr_frac: float = 0.0,
) -> LambdaLR:
    """Make a torch scheduler; step it once per optimizer step.

    Every group keeps its own learning rate, times one factor.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        name: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"inverse_sqrt"``.
        warmup_steps: Optimizer steps over which the learning rate rises linearly; 0 for none.
        total_steps: Optimizer steps of the whole run, warm-up included; needed by linear and cosine.
        final_lr_frac: Least fraction of the learning rate, in [0, 1].

    Returns:
        The scheduler.

    Raises:
        ValueError: If the schedule is unknown, a number is out of range or ``total_steps`` is missing.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
        >>> schedule(optimizer, "cosine", warmup_steps=4, total_steps=100).get_last_lr()
        [0.025]
    """
    check_schedule(name, warmup_steps, total_steps, final_lr_frac)
    if name in NEED_TOTAL_STEPS and total_steps is None:
        raise ValueError(
            f"`total_steps` must be a number for schedule={name!r}, got None; "
            "give the number of optimizer steps of the whole run"
        )
    # A partial and no closure: it can be pickled, and a checkpoint holds nothing of it but plain state.
    factor = partial(
        SCHEDULES[name],
        warmup_steps=warmup_steps,
        total_steps=inf if total_steps is None else total_steps,
        final_lr_frac=final_lr_frac,
    )
    return _OneFactor(optimizer, factor)


class _OneFactor(LambdaLR):
    """One factor for all groups; torch's own class fails when a group joins later, as in finetuning."""

    def get_lr(self) -> list[Any]:
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            rate = group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"]
            self.base_lrs.append(group.setdefault("initial_lr", rate))
            self.lr_lambdas.append(self.lr_lambdas[0])
        return super().get_lr()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lr_lambdas = self.lr_lambdas[:1] * len(state_dict["lr_lambdas"])
        super().load_state_dict(state_dict)
