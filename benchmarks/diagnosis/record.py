"""What one training leaves behind, kept in a file so that rules can be judged again without it."""

from __future__ import annotations

import gzip
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diagnosis.trial import Trial
from lightning_adapt.dynamics import DynamicsTable
from lightning_adapt.health import Facts


@dataclass(frozen=True)
class Truth:
    """What a right diagnosis says, known from how the training was made sick and not from its tables.

    Args:
        right: Parameters that are sick: all of them are to be named.
        allowed: Further ones of which it is not wrong to name them.
        onset: Step at which the sickness begins.
        cause: Of the finding; empty: any that tells the sickness.
    """

    right: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()
    onset: int = 0
    cause: str = ""


@dataclass(frozen=True)
class Note:
    """What the trainer knows of one batch.

    Args:
        step: The trainer's batch step.
        loss: NaN where the batch had none.
        gradients_kept: Whether it began with gradients of the step before.
        schedule_steps: How often the schedule was advanced so far.
    """

    step: int
    loss: float
    gradients_kept: bool | None
    schedule_steps: int | None


@dataclass
class Record:
    """One training.

    Args:
        trial: What was trained.
        tables: In the order in which they were read.
        notes: One a batch.
        truth: What a right diagnosis says.
        precision: The trainer's.
        total_steps: As the trainer estimates them.
        clip: Largest gradient norm, 0 without clipping.
        seconds: Wall time of the training.
        error: What ended it early.
    """

    trial: Trial
    tables: list[DynamicsTable] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    truth: Truth = Truth()
    precision: str = ""
    total_steps: int | None = None
    clip: float = 0.0
    seconds: float = 0.0
    error: str = ""

    @property
    def losses(self) -> list[float]:
        """One a batch."""
        return [note.loss for note in self.notes]

    def facts(self, table: DynamicsTable, since: int) -> Facts:
        """What a trainer tells beside a table.

        Args:
            table: One of them.
            since: Step of the last table that was looked at.
        """
        before = [note for note in self.notes if note.step <= table.step]
        news = [note for note in before if note.step > since]
        kept = [note.gradients_kept for note in news if note.gradients_kept is not None]
        return Facts(
            loss=before[-1].loss if before else None,
            clipped_frac=self._clipped(table),
            gradients_kept=any(kept) if kept else None,
            schedule_steps=before[-1].schedule_steps if before else None,
            total_steps=self.total_steps,
            precision=self.precision,
        )

    def _clipped(self, table: DynamicsTable) -> float | None:
        if not self.clip or table.skipped:
            return None
        norm = np.sqrt(np.nansum(table["numel"] * table["grad_rms"] ** 2))
        return float(norm >= 0.999 * self.clip)


def save(record: Record, folder: Path) -> Path:
    """Write a record under its trial's key."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.trial.key}.pkl.gz"
    partial = path.with_suffix(".partial")
    with gzip.open(partial, "wb", compresslevel=1) as file:
        pickle.dump(record, file)
    partial.rename(path)
    return path


def load(trial: Trial, folder: Path) -> Record | None:
    """The record of a trial; ``None`` where it has not been trained by this code."""
    path = folder / f"{trial.key}.pkl.gz"
    if not path.exists():
        return None
    with gzip.open(path, "rb") as file:
        record: Record = pickle.load(file)
    record.trial = trial
    return record
