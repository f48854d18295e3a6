"""How the rows of a batch are cut into tasks, and these into pieces that threads take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.engines.cpu._compiled import BLOCK
from lightning_adapt.dynamics.histograms import IntArray

#: Elements of a task at most; a row is cut into equal ones, as few as can be. Sums are taken task by task
#: whatever the number of threads: results repeat bit for bit.
TASK = 1 << 16
#: What it costs to count an element, in units of measuring it.
_COUNTING = 15


@dataclass(frozen=True)
class Tasks:
    """The tasks of a batch; the arrays are shared by all readings, so nobody may write to them.

    Args:
        tasks: Shape ``(tasks, 5)``: row, first element, end, which figures, which counts. Those of a row's
            first task are the row's own; what comes after these is added to them in the end. Tasks of one row
            in one piece share their counts. Below 0 are counts of a row in more pieces than there are
            threads: each thread has its own of these.
        pieces: Shape ``(pieces, 2)``: first task and end of each.
        figures: How many figures there are beside those of the rows.
        counts: How many counts there are beside those of the rows, but for those of threads.
        shared: How many rows have counts of threads.
        threads: That share the work.
        addresses: Of ``pieces`` and ``tasks``.
    """

    tasks: IntArray
    pieces: IntArray
    figures: int
    counts: int
    shared: int
    threads: int
    addresses: tuple[int, int]


@lru_cache(maxsize=256)  # the same for every reading of a run
def tasks_of(sizes: tuple[int, ...], strides: tuple[int, ...], threads: int) -> Tasks:
    """Cut rows into tasks.

    Args:
        sizes: Elements of each row.
        strides: Which of them the histograms count.
        threads: That will share the work.
    """
    cut = [(row, at, end) for row, size in enumerate(sizes) for at, end in _ends(size)]
    tasks = np.array([(row, at, end, row, row) for row, at, end in cut], dtype=np.int64)
    pieces = _pieces(tasks, np.array(strides), threads)
    shared = _shared(tasks, pieces, threads)
    thread_counts = np.cumsum(shared)  # numbers them from 1
    begins, figures, counts = set(pieces[:, 0].tolist()), len(sizes), len(sizes)
    for at in range(len(tasks)):
        row = int(tasks[at, 0])
        first = at == 0 or row != int(tasks[at - 1, 0])
        if not first:
            tasks[at, 3], figures = figures, figures + 1
        if shared[row]:
            tasks[at, 4] = -thread_counts[row]
        elif not first:
            tasks[at, 4] = counts if at in begins else tasks[at - 1, 4]
            counts += at in begins
    addresses = address_of(pieces), address_of(tasks)
    beside = figures - len(sizes), counts - len(sizes)
    return Tasks(tasks, pieces, *beside, int(shared.sum()), threads, addresses)


def _shared(tasks: IntArray, pieces: IntArray, threads: int) -> npt.NDArray[np.bool_]:
    """Which rows are in more pieces than there are threads."""
    rows, piece = tasks[:, 0], np.repeat(np.arange(len(pieces)), pieces[:, 1] - pieces[:, 0])
    starts = np.append(0, 1 + np.flatnonzero(rows[1:] != rows[:-1]))
    lasts = np.append(starts[1:], len(tasks)) - 1
    shared: npt.NDArray[np.bool_] = piece[lasts] - piece[starts] >= threads
    return shared


def _ends(size: int) -> list[tuple[int, int]]:
    """Where the tasks of a row begin and end: as few as can be, of one size, in whole blocks."""
    tasks = max(-(-size // TASK), 1)
    each = max(-(-size // (tasks * BLOCK)) * BLOCK, 1)
    return [(at, min(at + each, size)) for at in range(0, max(size, 1), each)]


def _pieces(tasks: IntArray, strides: IntArray, threads: int) -> IntArray:
    """Some pieces for each thread; a single one when threads would not pay."""
    counted = np.divide(_COUNTING, strides, out=np.zeros(len(strides)), where=strides > 0)
    work = np.cumsum((tasks[:, 2] - tasks[:, 1]) * (1 + counted[tasks[:, 0]]))
    if threads == 1 or work[-1] < TASK:
        return np.array([[0, len(tasks)]])
    size = max(TASK, int(work[-1]) // (8 * threads))
    ends = np.unique(np.append(np.searchsorted(work, np.arange(size, work[-1], size)) + 1, len(tasks)))
    return np.stack([np.append(0, ends[:-1]), ends], axis=1)


def address_of(array: npt.NDArray[Any]) -> int:
    """Where an array lies; ``array.ctypes`` takes five times as long."""
    address: int = array.__array_interface__["data"][0]
    return address
