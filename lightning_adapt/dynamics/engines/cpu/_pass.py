"""One pass over the tensors of many rows, block by block."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from lightning_adapt.dynamics.engines.cpu import _exact, _fast
from lightning_adapt.dynamics.engines.cpu._block import ADDED, SUM, TOP
from lightning_adapt.dynamics.engines.cpu._compiled import (
    ABSENT,
    BLOCK,
    BLOCKS,
    SCALAR,
    SLOT,
    STRIP,
    doubles,
    exactly,
    following,
    gather,
    smallest_normal,
)
from lightning_adapt.dynamics.engines.descriptors import SLOTS
from lightning_adapt.dynamics.histograms import FloatArray, IntArray

_SLOTS = len(SLOTS)
_WORTH = 4 * BLOCK  # elements: for less the fast way does not pay
_FILLED = 8  # rows of what `_exact.elementwise` fills


@exactly
def _widen(addresses: Any, at: int, n: int, row: Any, room: Any) -> None:
    """A block as float64."""
    kinds, numbers = row[:2]
    narrow, wide, _, _ = room
    for slot in range(_SLOTS):
        doubles(addresses[slot], kinds[slot], at, n, wide[slot], narrow + 4 * BLOCK * slot)
    factor = numbers[SCALAR.gradient_factor]
    if factor != 1:
        for i in range(n):
            wide[SLOT.gradient, i] *= factor


@exactly
def _exact_block(addresses: Any, at: int, n: int, row: Any, sound: bool, room: Any, out: Any) -> None:
    """The figures of a block, unless it was ``sound``, and its histograms where they count every element."""
    kinds, numbers, form, stride = row
    if sound and stride != 1:
        return
    _, wide, filled, bins = room
    _widen(addresses, at, n, row, room)
    _exact.elementwise(wide, n, kinds, numbers, form, filled)
    if not sound:
        _exact.add(wide, n, kinds, numbers, form, smallest_normal(kinds[SLOT.second_moment]), filled, out[0])
    if stride == 1:
        _exact.count(filled, n, kinds, form, 1, bins, out[1])


@exactly
def _sample(
    addresses: Any, at: int, end: int, row: Any, kept: Any, taken: int, room: Any, counts: Any
) -> int:
    """Put every ``stride``-th element of a strip behind the ``taken`` in ``kept``, counting when it is full.

    Returns:
        How many are in ``kept`` now.
    """
    kinds, _, _, stride = row
    at += (-at) % stride
    while at < end:
        n = min((end - at + stride - 1) // stride, BLOCK - taken)
        for slot in range(_SLOTS):
            if kinds[slot] != ABSENT:
                gather(addresses[slot], kinds[slot], at, n, stride, kept[slot, taken:])
        at, taken = at + n * stride, taken + n
        if taken == BLOCK:
            _count(row, kept, taken, room, counts)
            taken = 0
    return taken


@exactly
def _count(row: Any, kept: Any, taken: int, room: Any, counts: Any) -> None:
    """Count what was kept."""
    _, _, filled, bins = room
    kinds, numbers, form, stride = row
    if numbers[SCALAR.gradient_factor] != 1:
        kept[SLOT.gradient, :taken] *= numbers[SCALAR.gradient_factor]
    _exact.elementwise(kept, taken, kinds, numbers, form, filled)
    _exact.count(filled, taken, kinds, form, stride, bins, counts)


@exactly
def _task(
    addresses: Any, start: int, stop: int, row: Any, kept: Any, fast: Any, exact: Any, out: Any
) -> None:
    """Measure the elements from ``start`` to ``stop`` of a row."""
    suits = stop - start >= _WORTH and _fast.suits(*row[:3])
    plan = _fast.plan_of(row[0], row[1], row[2], suits)
    fast.sound[:], fast.sums[:], fast.tops[:] = False, 0.0, -np.inf
    covered = taken = 0
    for strip in range(start, stop, STRIP):
        end = min(strip + STRIP, stop)
        if suits:
            covered += _fast.strip(addresses, strip, end, row, plan, fast)
        for i in range((end - strip + BLOCK - 1) // BLOCK):
            at = strip + i * BLOCK
            _exact_block(addresses, at, min(BLOCK, end - at), row, fast.sound[i], exact, out)
        if row[3] > 1:
            taken = _sample(addresses, strip, end, row, kept, taken, exact, out[1])
    _count(row, kept, taken, exact, out[1])
    if covered:
        _fast.put(covered, row[:3], plan, fast.sums, fast.tops, out[0])


def _compile(version: str) -> Any:
    """The outermost function, which is kept on disk; all others are compiled into it.

    Args:
        version: Of every source compiled into it: Numba itself would only look at this file.
    """

    def run(
        cursor: int,
        pieces: Any,
        tasks: Any,
        addresses: Any,
        kinds: Any,
        numbers: Any,
        forms: Any,
        strides: Any,
        figures: Any,
        counts: Any,
    ) -> None:
        len(version)  # what a function closes over is part of its key on disk
        narrow, kept = np.zeros((_SLOTS, BLOCK), np.float32), np.zeros((_SLOTS, BLOCK))
        wide, filled = np.empty((_SLOTS, BLOCK)), np.empty((_FILLED, BLOCK))
        exact = (narrow.ctypes.data, wide, filled, np.empty(BLOCK, np.int64))
        found, sound = np.empty((BLOCKS, ADDED + len(TOP))), np.zeros(BLOCKS, np.bool_)
        fast = _fast.Room(
            narrow.ctypes.data, found.ctypes.data, sound, np.empty(len(SUM)), np.empty(len(TOP))
        )
        piece = following(cursor)
        while piece < len(pieces):
            for task in range(pieces[piece, 0], pieces[piece, 1]):
                index, start, stop, place = tasks[task]
                narrow[:], kept[:] = np.float32(0), 0.0  # what is absent reads as 0
                row = (kinds[index], numbers[index], forms[index], strides[index])
                found[:] = 0.0  # which also keeps it alive: the compiler sees no use of an address
                _task(addresses[index], start, stop, row, kept, fast, exact, (figures[task], counts[place]))
            piece = following(cursor)

    try:
        return njit(nogil=True, error_model="numpy", cache=True)(run)
    except RuntimeError:  # there is no folder that may be written to
        return njit(nogil=True, error_model="numpy")(run)


HERE = Path(__file__).parent


def version() -> str:
    """A hash of every source that is compiled into `run`."""
    sources = [*sorted(HERE.glob("*.py")), HERE.parent / "descriptors.py", HERE.parent / "packed.py"]
    sources.append(HERE.parents[1] / "histograms.py")
    return sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


_run = _compile(version())


def run(
    cursor: IntArray,
    pieces: IntArray,
    tasks: IntArray,
    addresses: IntArray,
    kinds: IntArray,
    numbers: FloatArray,
    forms: IntArray,
    strides: IntArray,
    figures: FloatArray,
    counts: npt.NDArray[np.int32],
) -> None:
    """Measure pieces of rows until none is left that no other thread has taken.

    Args:
        cursor: Shape ``(1,)``: the next piece; the same array for all threads.
        pieces: Shape ``(pieces, 2)``: first task and end of each.
        tasks: Shape ``(tasks, 4)``: row, first element, end, which counts.
        addresses: Shape ``(rows, slots)``: of the first element of each tensor.
        kinds: Same shape: of each tensor.
        numbers: Shape ``(rows, scalars)``.
        forms: Shape ``(rows,)``: bits of the descriptor.
        strides: Shape ``(rows,)``: which elements the histograms count; 0 for none.
        figures: Shape ``(tasks, FIGURES)``: each task has figures of its own.
        counts: Shape ``(places, 3, WIDTH)``: no two pieces share a place.
    """
    _run(cursor.ctypes.data, pieces, tasks, addresses, kinds, numbers, forms, strides, figures, counts)
