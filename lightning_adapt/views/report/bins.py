"""Histograms of many rows side by side: of each row only the bins that are ever occupied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH
from lightning_adapt.views.tab.series import Series

Floats = npt.NDArray[np.float32]


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
    masks = [_windows(kind) for kind in found]
    columns = [np.cumsum(mask).reshape(mask.shape) - 1 for mask in masks]
    for position, rows, counts in series.blocks(wanted):
        step = wanted[position]
        for index, kind in enumerate(found):
            mask = masks[index][rows]
            kind.counts[step, columns[index][rows][mask]] = counts[:, index, 1:-1][mask]
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


def _windows(kind: Occupied) -> npt.NDArray[np.bool_]:
    first, length = np.array(kind.firsts)[:, None], np.array(kind.lengths)[:, None]
    bins = np.arange(WIDTH - 2)
    mask: npt.NDArray[np.bool_] = (bins >= first) & (bins < first + length)
    return mask
