"""The one place that knows the inside of Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor


def batch_step(trainer: Trainer) -> int:
    """Batches that stepped so far: the step that Lightning gives its own training metrics."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def cadence(trainer: Trainer) -> int:
    """The trainer's ``log_every_n_steps``; 0 when it logs nothing."""
    return int(getattr(trainer, "log_every_n_steps", 0) or 0)


def unwrap(optimizer: Any) -> Any:
    """The torch optimizer inside Lightning's, ZeroRedundancyOptimizer's or DeepSpeed's wrapper."""
    inner = getattr(optimizer, "_optimizer", optimizer)
    for name in ("optim", "optimizer"):
        candidate = getattr(inner, name, None)
        if isinstance(candidate, torch.optim.Optimizer):
            return candidate
    return inner


def optimizers(trainer: Trainer) -> list[Any]:
    """The trainer's optimizers, unwrapped; without the stand-in for a module that has none."""
    return [
        unwrap(optimizer) for optimizer in trainer.optimizers if type(optimizer).__name__ != "_MockOptimizer"
    ]


def loss_scale(trainer: Trainer) -> Tensor | float | None:
    """The gradient scaler's scale for this step, without waiting for the device; ``None`` without one."""
    plugin = trainer.precision_plugin
    scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
    if scaler is None or not scaler.is_enabled():
        return None
    scale = getattr(scaler, "_scale", None)  # get_scale() would read it on the host
    return scale if scale is not None else float(scaler._init_scale)


def log(trainer: Trainer, scalars: Mapping[str, float], step: int) -> None:
    """Give scalars to every logger, and to callbacks such as early stopping."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(scalars), step=step)
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scalars.items()})


def summary_writers(trainer: Trainer) -> list[Any]:
    """The writers behind the trainer's TensorBoard loggers."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
