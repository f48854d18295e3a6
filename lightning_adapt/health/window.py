"""What a rule sees: the newest table, and some of its figures as they were over the last steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import HISTOGRAMS, FloatArray
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health.facts import Facts
from lightning_adapt.health.figures import figure, hyperparameter
from lightning_adapt.health.history import History


class Window:
    """The newest table of one optimizer, and what was before it.

    Args:
        table: The newest table.
        facts: What the one who trains knows beside it.
        history: Of the columns that the rule looks back on; the newest table is in it already.
        span: Steps that the rule looks back on; ``None`` for the whole run.
        others: The last table of every other optimizer of the run.
    """

    def __init__(
        self,
        table: DynamicsTable,
        facts: Facts | None = None,
        history: History | None = None,
        span: int | None = 0,
        others: Sequence[DynamicsTable] = (),
    ) -> None:
        self.table, self.others = table, others
        self.facts = Facts() if facts is None else facts
        self.steps = np.array([table.step]) if history is None else np.array(history.steps)
        """Step of each table that is looked back on, oldest first, the newest last."""
        self.full = span is None or self.steps[-1] - self.steps[0] >= span
        """Whether it reaches back as far as the rule wants."""
        self._history = history

    def __getitem__(self, name: str) -> FloatArray:
        """A figure of the newest table: a column, shape ``(rows,)``, or one of `figures.DERIVED`."""
        return figure(name, self.table)

    def past(self, name: str) -> FloatArray:
        """A figure over time, oldest first: shape ``(tables, rows)``, or ``(tables,)`` for the whole run.

        Args:
            name: One of the rule's ``columns``.
        """
        if self._history is None:
            return self[name][None]
        return self._history.past(name)

    def hyper(self, name: str) -> FloatArray:
        """A hyperparameter of each row's group, shape ``(rows,)``; NaN where it is not known."""
        return hyperparameter(self.table, name)

    def counts(self, which: str) -> npt.NDArray[np.integer] | None:
        """Histogram counts ``(rows, bins)`` of effective_lr, second_moment or update; ``None`` without."""
        if self.table.histograms is None:
            return None
        index = [bins.name for bins in HISTOGRAMS].index(which)
        counts: npt.NDArray[np.integer] = self.table.histograms[:, index]
        return counts
