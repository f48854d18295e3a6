"""How the rows of a batch are cut into tasks, and these into pieces that threads take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.engines.packed import ADDED, FIGURES
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH, FloatArray, IntArray

#: Elements of a task. Sums are taken task by task whatever the number of threads: results repeat bit for bit.
TASK = 1 << 18
#: What it costs to count an element, in units of measuring it.
_COUNTING = 16

Integers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Tasks:
    """The tasks of a batch; the arrays are shared by all readings, so nobody may write to them.

    Args:
        tasks: Shape ``(tasks, 4)``: row, first element, end, which counts.
        pieces: Shape ``(pieces, 2)``: first task and end of each.
        first: Shape ``(rows,)``: the first task of each row.
        places: How many counts there are; tasks of one row in one piece share theirs.
    """

    tasks: IntArray
    pieces: IntArray
    first: IntArray
    places: int

    def room(self, figures: FloatArray, counts: Integers | None) -> tuple[FloatArray, Integers]:
        """Figures of nothing for each task, and counts for each place.

        Where a row has only one of them, this is the memory that was given for the rows themselves.
        """
        rows = len(self.first)
        if len(self.tasks) > rows:
            figures = np.empty((len(self.tasks), FIGURES))
        figures[:, :ADDED], figures[:, ADDED:] = 0, -np.inf
        if counts is not None and self.places == rows:
            counts[:] = 0
        else:
            counts = np.zeros((self.places, len(HISTOGRAMS), WIDTH), dtype=np.int32)
        return figures, counts

    def merge(
        self, figures: FloatArray, counts: Integers, figures_of: FloatArray, counts_of: Integers | None
    ) -> None:
        """Put together what was measured in `room`: one row for each parameter."""
        if figures is not figures_of:
            np.add.reduceat(figures[:, :ADDED], self.first, out=figures_of[:, :ADDED])
            np.maximum.reduceat(figures[:, ADDED:], self.first, out=figures_of[:, ADDED:])
        if counts_of is not None and counts is not counts_of:
            start = self.tasks[self.first, 3]
            stop = np.append(start[1:], len(counts))
            counts_of[:] = counts[start]
            for row in np.flatnonzero(stop - start > 1):  # reduceat would be ten times slower
                counts[start[row] : stop[row]].sum(axis=0, out=counts_of[row])


@lru_cache(maxsize=256)  # the same for every reading of a run
def tasks_of(sizes: tuple[int, ...], strides: tuple[int, ...], threads: int) -> Tasks:
    """Cut rows into tasks.

    Args:
        sizes: Elements of each row.
        strides: Which of them the histograms count.
        threads: That will share the work.
    """
    cut = [(i, at, min(at + TASK, n), 0) for i, n in enumerate(sizes) for at in range(0, max(n, 1), TASK)]
    tasks = np.array(cut, dtype=np.int64)
    pieces = _pieces(tasks, np.array(strides) == 1, threads)
    new = np.append(True, tasks[1:, 0] != tasks[:-1, 0])
    first = np.flatnonzero(new)
    new[pieces[:, 0]] = True
    tasks[:, 3] = np.cumsum(new) - 1
    return Tasks(tasks, pieces, first, int(new.sum()))


def _pieces(tasks: IntArray, counted: npt.NDArray[np.bool_], threads: int) -> IntArray:
    """Some pieces for each thread; a single one when threads would not pay."""
    work = np.cumsum((tasks[:, 2] - tasks[:, 1]) * np.where(counted[tasks[:, 0]], _COUNTING, 1))
    if threads == 1 or work[-1] < TASK:
        return np.array([[0, len(tasks)]])
    size = max(TASK, int(work[-1]) // (8 * threads))
    ends = np.unique(np.append(np.searchsorted(work, np.arange(size, work[-1], size)) + 1, len(tasks)))
    return np.stack([np.append(0, ends[:-1]), ends], axis=1)
