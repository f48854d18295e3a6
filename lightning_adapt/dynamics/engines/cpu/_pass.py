"""One pass over the tensors of many rows, block by block."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from lightning_adapt.dynamics.engines.cpu import _exact, _fast
from lightning_adapt.dynamics.engines.cpu._block import SUM, TOP
from lightning_adapt.dynamics.engines.cpu._compiled import (
    ABSENT,
    BLOCK,
    FLOAT16,
    FLOAT64,
    SCALAR,
    SLOT,
    STRIP,
    doubles,
    exactly,
    floats,
    gather,
)
from lightning_adapt.dynamics.engines.descriptors import SLOTS
from lightning_adapt.dynamics.histograms import FloatArray, IntArray

_SLOTS = len(SLOTS)
_FILLED = 8  # rows of what `_exact.elementwise` fills


@exactly
def _tiny(kind: int) -> float:
    """Smallest normal number."""
    if kind == FLOAT64:
        return 2.0**-1022
    return 2.0**-14 if kind == FLOAT16 else 2.0**-126


@exactly
def _fast_strip(addresses: Any, at: int, n: int, row: Any, threshold: Any, room: Any, out: Any) -> bool:
    """Try the fast way; ``False`` and nothing added where the strip is not for it."""
    kinds, numbers, form, _ = row
    narrow, bits, _, _, sums, tops = room
    p = floats(addresses[0], kinds[0], at, n, narrow[0], bits[0])
    b = floats(addresses[1], kinds[1], at, n, narrow[1], bits[1])
    g = floats(addresses[2], kinds[2], at, n, narrow[2], bits[2])
    m = floats(addresses[3], kinds[3], at, n, narrow[3], bits[3])
    s = floats(addresses[4], kinds[4], at, n, narrow[4], bits[4])
    v = floats(addresses[5], kinds[5], at, n, narrow[5], bits[5])
    tiny = np.float32(_tiny(kinds[SLOT.second_moment]))
    return bool(_fast.add(p, b, g, m, s, v, kinds, numbers, form, threshold, tiny, sums, tops, out))


@exactly
def _widen(addresses: Any, at: int, n: int, row: Any, room: Any) -> None:
    """A block as float64."""
    kinds, numbers = row[:2]
    narrow, bits, wide = room[:3]
    for slot in range(_SLOTS):
        doubles(addresses[slot], kinds[slot], at, n, wide[slot], narrow[slot], bits[slot])
    factor = numbers[SCALAR.gradient_factor]
    if factor != 1:
        for i in range(n):
            wide[SLOT.gradient, i] *= factor


@exactly
def _exact_block(addresses: Any, at: int, n: int, row: Any, room: Any, out: Any) -> None:
    """The figures of one block; its histograms too, where they count every element."""
    kinds, numbers, form, stride = row
    wide, filled = room[2:4]
    _widen(addresses, at, n, row, room)
    _exact.elementwise(wide, n, kinds, numbers, form, filled)
    _exact.add(wide, n, kinds, numbers, form, _tiny(kinds[SLOT.second_moment]), filled, out[0])
    if stride == 1:
        _exact.count(filled, n, kinds, form, 1, out[1])


@exactly
def _keep(addresses: Any, at: int, n: int, row: Any, kept: Any, taken: int) -> int:
    """Put every ``stride``-th element of a block behind the ``taken`` in ``kept``; how many there are now."""
    kinds, _, _, stride = row
    first = (-at) % stride
    if first >= n:
        return taken
    for slot in range(_SLOTS):
        if kinds[slot] != ABSENT:
            gather(addresses[slot], kinds[slot], at + first, at + n, stride, kept[slot, taken:])
    return int(taken + (n - first + stride - 1) // stride)


@exactly
def _count(row: Any, kept: Any, taken: int, filled: Any, counts: Any) -> None:
    """Count what was kept."""
    kinds, numbers, form, stride = row
    if numbers[SCALAR.gradient_factor] != 1:
        kept[SLOT.gradient, :taken] *= numbers[SCALAR.gradient_factor]
    _exact.elementwise(kept, taken, kinds, numbers, form, filled)
    _exact.count(filled, taken, kinds, form, stride, counts)


def _compile(version: str) -> Any:
    """The outermost function, which is kept on disk; all others are compiled into it.

    Args:
        version: Of every source compiled into it: Numba itself would only look at this file.
    """

    def run(
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
        narrow, kept = np.zeros((_SLOTS, STRIP), np.float32), np.zeros((_SLOTS, BLOCK))
        wide, filled = np.empty((_SLOTS, BLOCK)), np.empty((_FILLED, BLOCK))
        sums, tops = np.empty(len(SUM)), np.empty(len(TOP))
        room = (narrow, narrow.view(np.int32), wide, filled, sums, tops)
        for task in range(len(tasks)):
            index, start, stop = tasks[task]
            narrow[:], kept[:] = np.float32(0), 0.0  # what is absent reads as 0
            row = (kinds[index], numbers[index], forms[index], strides[index])
            out = (figures[task], counts[task])
            threshold = np.float32(-1)
            # Counting every element takes float64 anyway.
            if strides[index] != 1 and _fast.suits(kinds[index], numbers[index], forms[index]):
                threshold = _fast.floor_threshold(kinds[index], numbers[index])
            taken = 0
            for strip in range(start, stop, STRIP):
                end = min(strip + STRIP, stop)
                fast = threshold >= 0 and _fast_strip(
                    addresses[index], strip, end - strip, row, threshold, room, out[0]
                )
                for at in range(strip, end, BLOCK):
                    n = min(BLOCK, end - at)
                    if not fast:
                        _exact_block(addresses[index], at, n, row, room, out)
                    if strides[index] > 1:
                        taken = _keep(addresses[index], at, n, row, kept, taken)
                        # Full up to what one more block may bring, or the last block.
                        if taken > BLOCK - BLOCK // strides[index] - 2 or at + n == stop:
                            _count(row, kept, taken, room[3], out[1])
                            taken = 0

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
    tasks: IntArray,
    addresses: IntArray,
    kinds: IntArray,
    numbers: FloatArray,
    forms: IntArray,
    strides: IntArray,
    figures: FloatArray,
    counts: npt.NDArray[np.int32],
) -> None:
    """Measure pieces of rows, each into figures of its own; other threads may run meanwhile.

    Args:
        tasks: Shape ``(tasks, 3)``: row, first element, end.
        addresses: Shape ``(rows, slots)``: of the first element of each tensor.
        kinds: Same shape: of each tensor.
        numbers: Shape ``(rows, scalars)``.
        forms: Shape ``(rows,)``: bits of the descriptor.
        strides: Shape ``(rows,)``: which elements the histograms count; 0 for none.
        figures: Shape ``(tasks, FIGURES)``.
        counts: Shape ``(tasks, 3, WIDTH)``.
    """
    _run(tasks, addresses, kinds, numbers, forms, strides, figures, counts)
