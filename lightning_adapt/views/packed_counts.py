"""Histogram counts as few bytes: only the occupied run of each histogram, compressed.

A block of rows is ``first`` and ``length`` (int16, one each for every row and histogram), then the counts of
all runs one after another (int32); all of it little-endian and through zlib. Writing an event file costs
time for every byte, and most bins are empty.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH

BLOCK = 128
"""Rows that are packed together: one row can be read without those of all others."""

Counts = npt.NDArray[np.int32]
_KINDS = len(HISTOGRAMS)


def pack(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Pack counts of shape ``(rows, histograms, bins)``."""
    flat = counts.reshape(-1, WIDTH)
    first, length = _runs(flat)
    head = np.concatenate([first, length]).astype("<i2").tobytes()
    runs = flat.reshape(-1)[_inside(first, length)].astype("<i4").tobytes()
    return np.frombuffer(zlib.compress(head + runs, 1), dtype=np.uint8)


def unpack(packed: npt.NDArray[np.uint8], rows: int) -> Counts:
    """The inverse of `pack`.

    Raises:
        ValueError: If ``packed`` is not of so many rows.
    """
    first, length, runs = _parts(packed, rows)
    counts = np.zeros(rows * _KINDS * WIDTH, dtype=np.int32)
    counts[_inside(first, length)] = runs
    return counts.reshape(rows, _KINDS, WIDTH)


def unpack_row(packed: npt.NDArray[np.uint8], rows: int, row: int) -> Counts:
    """The counts of one of ``rows`` packed rows, shape ``(histograms, bins)``; the others stay packed.

    Raises:
        ValueError: If ``packed`` is not of so many rows.
    """
    first, length, runs = _parts(packed, rows)
    counts = np.zeros((_KINDS, WIDTH), dtype=np.int32)
    begin = int(length[: row * _KINDS].sum(dtype=np.int64))
    for kind in range(_KINDS):
        start, size = int(first[row * _KINDS + kind]), int(length[row * _KINDS + kind])
        counts[kind, start : start + size] = runs[begin : begin + size]
        begin += size
    return counts


def _runs(flat: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the occupied bins of each histogram begin, and how many there are up to the last one."""
    occupied = flat > 0
    first = occupied.argmax(axis=1)
    stop = flat.shape[1] - occupied[:, ::-1].argmax(axis=1)
    return first, np.where(occupied.any(axis=1), stop - first, 0)


def _inside(first: npt.NDArray[np.integer], length: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Where the bins of all runs lie, among all bins of all histograms one after another."""
    begins = np.arange(len(length)) * WIDTH + first
    return np.repeat(begins, length) + along(length)


def along(length: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """0, 1, 2, … along each of many runs, one after another.

    Example:
        >>> along(np.array([2, 0, 3])).tolist()
        [0, 1, 0, 1, 2]
    """
    ends = np.cumsum(length, dtype=np.int64)
    places: npt.NDArray[np.int64] = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - length, length)
    return places


def _parts(
    packed: npt.NDArray[np.uint8], rows: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16], Counts]:
    try:
        content = zlib.decompress(np.ascontiguousarray(packed, dtype=np.uint8).tobytes())
    except zlib.error as error:
        raise ValueError(f"histogram counts cannot be unpacked: {error}") from error
    size = rows * _KINDS
    head = np.frombuffer(content[: 4 * size], dtype="<i2")
    runs = np.frombuffer(content[4 * size : len(content) // 4 * 4], dtype="<i4")
    if len(head) != 2 * size or head[size:].sum(dtype=np.int64) != len(runs):
        raise ValueError(f"histogram counts do not fit their {rows} described rows")
    first, length = head[:size], head[size:]
    if ((first < 0) | (length < 0) | (first + length > WIDTH)).any():
        raise ValueError(f"histogram counts lie outside of their {WIDTH} bins")
    return first, length, runs
