"""What happens in a training beside the tables, noted batch by batch and read without waiting."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_adapt.callbacks import _trainer
from lightning_adapt.callbacks._gradients_kept import GradientsKept
from lightning_adapt.callbacks._guard import Guard
from lightning_adapt.callbacks._numbers import Numbers
from lightning_adapt.dynamics.canonical import Scalar
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health import Facts

MOST_LOSSES = 1000
"""Batches whose loss is remembered."""

UNDER_A_SCALER = 3
"""Losses in a row that are not finite before they mean something, where a scaler skips such steps."""

_CLOSE = 1e-3
"""A norm this close to the limit, relatively, was clipped to it."""


@dataclass(frozen=True)
class _Batch:
    step: int
    loss: Tensor | None
    kept: Mapping[str, Scalar]
    schedule_steps: int | None


@dataclass(frozen=True)
class Flight:
    """Notes on their way to the host."""

    batches: list[_Batch]
    numbers: Numbers


class Notes:
    """Notes of one run.

    Args:
        trainer: Of the run.
        module: What it trains.
        guard: Runs what is done inside optimizer steps.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, guard: Guard) -> None:
        # A gradient scaler skips the step of a loss that is inf; several in a row mean more.
        self._patience = 1 if _trainer.loss_scale(trainer) is None else UNDER_A_SCALER
        self._trainer, self._module = trainer, module
        self._kept = GradientsKept(_trainer.labelled(trainer), guard)
        self._total_steps = _total_steps(trainer) if module.automatic_optimization else None
        self._batches: list[_Batch] = []
        self._any_kept: dict[str, bool] = {}
        self._schedule: deque[tuple[int, int | None]] = deque(maxlen=MOST_LOSSES)
        self.losses: deque[tuple[int, float]] = deque(maxlen=MOST_LOSSES)
        """Step and loss of the last batches that have arrived."""
        self._nonfinite = 0

    def end(self) -> None:
        """Let go of the optimizers."""
        self._kept.end()

    def before_backward(self) -> None:
        """A backward pass is about to begin."""
        self._kept.before_backward()

    def batch_end(self, outputs: Any) -> None:
        """Note a batch that is over."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        loss = loss.detach() if isinstance(loss, Tensor) and loss.numel() == 1 else None
        step = _trainer.batch_step(self._trainer)
        self._batches.append(_Batch(step, loss, self._kept.take(), _schedule_steps(self._trainer)))

    @property
    def waiting(self) -> int:
        """Batches noted and not sent."""
        return len(self._batches)

    def send(self) -> Flight:
        """Start the copy to the host of all that was noted."""
        batches, self._batches = self._batches, []
        losses = [math.nan if batch.loss is None else batch.loss for batch in batches]
        return Flight(batches, Numbers([*losses, *(x for batch in batches for x in batch.kept.values())]))

    def arrive(self, flight: Flight) -> tuple[int, float] | None:
        """Take in what has arrived; waits if need be.

        Returns:
            Step and loss where the loss turned inf or NaN, if it did; under a gradient scaler, where it was
            so for the third time in a row.
        """
        lost = None
        numbers = flight.numbers.read()
        losses, kept = numbers[: len(flight.batches)], iter(numbers[len(flight.batches) :])
        automatic = self._module.automatic_optimization
        normalized = self._trainer.accumulate_grad_batches if automatic else 1
        for batch, loss in zip(flight.batches, losses, strict=True):
            self._schedule.append((batch.step, batch.schedule_steps))
            if batch.loss is not None:
                self.losses.append((batch.step, loss * normalized))
                self._nonfinite = 0 if math.isfinite(loss) else self._nonfinite + 1
                if self._nonfinite == self._patience:
                    lost = lost or self.losses[-1]
            for label in batch.kept:
                self._any_kept[label] = self._any_kept.get(label, False) or next(kept) > 0
        return lost

    def facts(self, table: DynamicsTable) -> Facts:
        """What is known beside ``table``, from all that has arrived."""
        losses = [loss for step, loss in self.losses if step == table.step]
        schedule = [steps for step, steps in self._schedule if step <= table.step]
        return Facts(
            loss=sum(losses) / len(losses) if losses else None,
            clipped_frac=_clipped_frac(self._trainer, table),
            gradients_kept=self._any_kept.pop(table.optimizer, None),
            schedule_steps=schedule[-1] if schedule else None,
            total_steps=self._total_steps,
            precision=str(self._trainer.precision),
        )


def _total_steps(trainer: Trainer) -> int | None:
    with suppress(Exception):  # an estimate, of a loader that may not know its length
        steps = trainer.estimated_stepping_batches
        return int(steps) if 0 < steps < math.inf else None
    return None


def _schedule_steps(trainer: Trainer) -> int | None:
    for config in trainer.lr_scheduler_configs:
        last = getattr(config.scheduler, "last_epoch", None)
        if not config.reduce_on_plateau and isinstance(last, int):
            return last
    return None


def _clipped_frac(trainer: Trainer, table: DynamicsTable) -> float | None:
    """1 when the gradients lie on the limit that they are clipped to, else 0; costs no measurement."""
    limit = trainer.gradient_clip_val
    if not limit or table.skipped:
        return None
    if str(trainer.gradient_clip_algorithm or "norm") == "value":
        sizes = table["grad_absmax"]
        size = float(sizes[~np.isnan(sizes)].max(initial=0.0))
    else:
        size = math.sqrt(float(np.nansum(table["numel"] * table["grad_rms"] ** 2)))
    return float(size >= (1 - _CLOSE) * limit)
