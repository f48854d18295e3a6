"""The memory of a judge: some figures of the last tables, never more than a few dozen of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health.figures import figure

MOST = 64
"""Tables kept: where more lie in a window, those in between are left out."""

LEAST = 4
"""Tables that a window reaches back at least, where there are so many: whoever reads every 100 steps, too."""


class History:
    """Some figures over the last ``span`` steps, or over the whole run.

    The newest table is always there; older ones are ``span / MOST`` steps apart at least. Of a whole run
    every second one is let go of whenever there are twice `MOST`.

    Args:
        span: Steps; ``None`` for the whole run.
        columns: Figures to remember.

    Example:
        >>> from lightning_adapt.dynamics import COLUMNS, RowInfo
        >>> history = History(span=10, columns=["grad_rms"])
        >>> for step in range(100):
        ...     history.add(DynamicsTable((RowInfo("w"),), np.full((1, len(COLUMNS)), float(step)), step))
        >>> history.steps
        [89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99]
        >>> history.past("grad_rms").shape
        (11, 1)
    """

    def __init__(self, span: int | None, columns: Sequence[str]) -> None:
        self.span, self.columns = span, tuple(sorted(set(columns)))
        self.steps: list[int] = []
        self._gap = 0.0 if span is None else span / MOST
        self._figures: dict[str, list[FloatArray]] = {name: [] for name in self.columns}

    def add(self, table: DynamicsTable) -> None:
        """Remember the figures of the newest table; one of an earlier step begins anew from there."""
        while self.steps and self.steps[-1] >= table.step:
            self._drop(-1)
        if len(self.steps) > 1 and self.steps[-1] - self.steps[-2] < self._gap:
            self._drop(-1)  # the newest so far, which is too close to the one before it to be kept
        self.steps.append(table.step)
        for name in self.columns:
            self._figures[name].append(figure(name, table))
        if self.span is None:
            if len(self.steps) >= 2 * MOST:
                self._thin()
        else:
            while len(self.steps) > LEAST and self.steps[1] <= table.step - self.span:
                self._drop(0)

    def past(self, name: str) -> FloatArray:
        """Shape ``(tables, rows)``, or ``(tables,)`` for figures of the whole table."""
        return np.stack(self._figures[name])

    def rename(self, index: Sequence[int]) -> None:
        """The table has other rows now: ``index`` has the old place of each, -1 for a new one."""
        places = np.array(index, dtype=np.int64)
        for name, figures in self._figures.items():
            self._figures[name] = [old if old.ndim == 0 else _moved(old, places) for old in figures]

    def state_dict(self) -> dict[str, Any]:
        """Lists and tensors."""
        import torch

        figures = {name: torch.from_numpy(np.stack(old)) for name, old in self._figures.items() if old}
        return {"steps": list(self.steps), "gap": self._gap, "figures": figures}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier `state_dict`; columns that it lacks are not known for those steps."""
        self.steps, self._gap = [int(step) for step in state["steps"]], float(state["gap"])
        known = {name: tensor.numpy() for name, tensor in state["figures"].items()}
        if any(name not in known for name in self.columns):
            self.steps = []
        self._figures = {name: [*known[name]] if self.steps else [] for name in self.columns}

    def _drop(self, at: int) -> None:
        del self.steps[at]
        for figures in self._figures.values():
            del figures[at]

    def _thin(self) -> None:
        for at in range(len(self.steps) - 2, 0, -2):
            self._drop(at)
        self._gap = (self.steps[-1] - self.steps[0]) / MOST


def _moved(old: FloatArray, places: Any) -> FloatArray:
    if not len(old):
        return np.full(len(places), np.nan)
    return np.where(places >= 0, old[places], np.nan)
