"""Histograms of many rows side by side: of each row only the bins that are ever occupied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH
from lightning_adapt.views.packed_counts import along
from lightning_adapt.views.tab.series import Series

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Occupied:
    """One kind of histogram of all rows.

    Args:
        firsts: First bin of each row.
        lengths: How many bins of each row follow from there.
        counts: Shape ``(steps, bins of all rows)``.
        outside: What lies below and above all bins, shape ``(steps, 2 · rows)``.
    """

    firsts: list[int]
    lengths: list[int]
    counts: Floats
    outside: Floats


def histograms(series: Series, at: Sequence[int]) -> list[Occupied]:
    """Histograms of every kind, at the positions ``at`` among the steps of ``series``."""
    wanted = {position: index for index, position in enumerate(at)}
    occupied = np.zeros((len(series.rows), len(HISTOGRAMS), WIDTH - 2), dtype=bool)
    for _, rows, counts in series.blocks(wanted):
        occupied[rows] |= counts[:, :, 1:-1] > 0
    found = [_empty(occupied[:, kind], len(at)) for kind in range(len(HISTOGRAMS))]
    windows = [_windows(kind) for kind in found]
    before, inside = None, []
    for position, rows, counts in series.blocks(wanted):
        step = wanted[position]
        if before is None or not np.array_equal(before, rows):  # all steps of a block come one after another
            before, inside = rows, [_inside(*window, rows) for window in windows]
        for index, (kind, (row, bins, places)) in enumerate(zip(found, inside, strict=True)):
            kind.counts[step, places] = counts[row, index, bins]
            kind.outside[step, 2 * rows] = counts[:, index, 0]
            kind.outside[step, 2 * rows + 1] = counts[:, index, -1]
    return found


def _empty(occupied: npt.NDArray[np.bool_], steps: int) -> Occupied:
    first = occupied.argmax(axis=1)
    stop = occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)
    length = np.where(occupied.any(axis=1), stop - first, 0)
    counts = np.zeros((steps, int(length.sum())), dtype=np.float32)
    outside = np.zeros((steps, 2 * len(first)), dtype=np.float32)
    return Occupied(first.tolist(), length.tolist(), counts, outside)


def _windows(kind: Occupied) -> tuple[Places, Places, Places]:
    """First bin, number of bins, and place of the first bin among those of all rows, of each row."""
    length = np.array(kind.lengths, dtype=np.int64)
    return np.array(kind.firsts, dtype=np.int64), length, np.cumsum(length) - length


def _inside(first: Places, length: Places, start: Places, rows: Places) -> tuple[Places, Places, Places]:
    """Of every bin that is kept of ``rows``: which of the rows, which count of its, and its place."""
    counted = length[rows]
    row, inside = np.repeat(np.arange(len(rows)), counted), along(counted)
    # The first count of a row is what lies below all bins.
    return row, 1 + first[rows][row] + inside, start[rows][row] + inside
