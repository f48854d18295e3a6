"""Where tables go: scalars to every logger, everything else to TensorBoard, off the training thread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from lightning_adapt.callbacks import _trainer
from lightning_adapt.callbacks._writer import Writer
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.views.scalars import ScalarPlan

_MOST, _LONGEST = 24, 200


def trained(trainer: Trainer) -> dict[str, Any]:
    """What is trained, for whoever reads the run later: class of the model, its settings, precision."""
    module = trainer.lightning_module
    settings = {str(key)[:_LONGEST]: value for key, value in module.hparams.items() if _is_plain(value)}
    return {
        "model": f"{type(module).__module__}.{type(module).__qualname__}",
        "settings": dict(list(settings.items())[:_MOST]),
        "precision": str(trainer.precision),
    }


def _is_plain(value: object) -> bool:
    """Whether JSON can say it, in one line."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) or (isinstance(value, str) and len(value) <= _LONGEST)


class Output:
    """Writes the tables of one run.

    TensorBoard is written on a thread of its own; loggers that are not made for that, and the metrics that
    callbacks such as early stopping look at, are served at once.

    Args:
        trainer: Of the run.
        most: Readings that may wait to be written.
    """

    def __init__(self, trainer: Trainer, most: int = 16) -> None:
        self._trainer = trainer
        self._writer = Writer(most)
        self._boards, self._others = _trainer.split_loggers(trainer)
        self._views: list[Any] = []
        if self._boards:
            from lightning_adapt.views.tensorboard import TensorBoardView

            known = trained(trainer)
            self._views = [TensorBoardView(board.experiment, trained=known) for board in self._boards]

    @property
    def seconds(self) -> float:
        """Computing time of the writer so far."""
        return self._writer.seconds

    @property
    def dropped(self) -> int:
        """Readings that were not written because the writer could not keep up."""
        return self._writer.dropped

    def write(self, table: DynamicsTable, plan: ScalarPlan, beside: Mapping[str, float]) -> None:
        """Write one table with its scalars; TensorBoard goes without it when too many wait, which is counted.

        Args:
            table: What was read.
            plan: Which scalars to take from it.
            beside: Scalars of the monitor itself.
        """
        scalars = {**plan.scalars(table), **beside}

        def job() -> None:
            _trainer.log_metrics(self._boards, scalars, table.step)
            for view in self._views:
                view.write(table, plan)

        if self._views:
            self._writer.put(job)
        _trainer.log_metrics(self._others, scalars, table.step)
        _trainer.remember(self._trainer, scalars)

    def tell(self, scalars: Mapping[str, float], step: int) -> None:
        """Give scalars that belong to no table to every logger, at once."""
        _trainer.log_metrics([*self._boards, *self._others], scalars, step)
        _trainer.remember(self._trainer, scalars)

    def drain(self) -> None:
        """Wait until everything is written."""
        self._writer.drain()
