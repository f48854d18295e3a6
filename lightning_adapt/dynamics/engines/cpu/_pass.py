"""One pass over the tensors of many rows, block by block."""

from __future__ import annotations

from array import array
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numba import cfunc, types
from numba.np.numpy_support import carray

from lightning_adapt.dynamics.engines.cpu import _counting, _exact, _exact_figures, _fast, _plan
from lightning_adapt.dynamics.engines.cpu._block import ADDED, SUM, TOP
from lightning_adapt.dynamics.engines.cpu._compiled import (
    ABSENT,
    BLOCK,
    BLOCKS,
    FLOAT32,
    SCALAR,
    SLOT,
    STRIP,
    doubles,
    doubles_at,
    exactly,
    floats,
    following,
    gather,
    integers,
    smallest_normal,
)
from lightning_adapt.dynamics.engines.cpu._job import (
    COUNT,
    FORM,
    JOB,
    NUMBERS,
    OF_NUMBERS,
    ROW,
    STRIDE,
    TASK,
    counts_of,
    figures_of,
    merge,
    of_thread,
    touched_in,
)
from lightning_adapt.dynamics.engines.cpu._team import Compiled, together
from lightning_adapt.dynamics.engines.descriptors import SCALARS, SLOTS
from lightning_adapt.dynamics.engines.packed import ADDED as SUMMED
from lightning_adapt.dynamics.histograms import HISTOGRAMS

_SLOTS = len(SLOTS)
_WORTH = 4 * BLOCK  # elements: for less the fast way does not pay
_FILLED = 8  # rows of what `_exact.elementwise` fills
_HISTOGRAMS = len(HISTOGRAMS)


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
    if sound:
        _counting.count(wide, n, kinds, numbers, form, 1, filled, bins, out[1])
        return
    _exact.elementwise(wide, n, kinds, numbers, form, filled)
    _exact_figures.add(
        wide, n, kinds, numbers, form, smallest_normal(kinds[SLOT.second_moment]), filled, out[0]
    )
    if stride == 1:
        _counting.count_filled(filled, n, kinds, form, 1, bins, out[1])


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
    _counting.count(kept, taken, kinds, numbers, form, stride, filled, bins, counts)


@exactly
def _task(
    addresses: Any, start: int, stop: int, row: Any, kept: Any, fast: Any, exact: Any, out: Any
) -> None:
    """Measure the elements from ``start`` to ``stop`` of a row."""
    suits = stop - start >= _WORTH and _plan.suits(*row[:3])
    plan = _plan.plan_of(row[0], row[1], row[2], suits)
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


@exactly
def _clear(kinds: Any, dirty: Any, narrow: Any, kept: Any) -> None:
    """Make what is absent read as 0."""
    for slot in range(_SLOTS):
        if kinds[slot] == ABSENT and dirty[slot]:
            narrow[slot], kept[slot] = np.float32(0), 0.0
        dirty[slot] = kinds[slot] != ABSENT


@exactly
def _put_numbers(job: Any, index: int, row: Any, numbers: Any) -> None:
    """The numbers of a row, among them those that follow from its own step count."""
    numbers[:] = doubles_at(job[JOB.numbers] + 8 * OF_NUMBERS * row[NUMBERS], OF_NUMBERS)
    if row[COUNT] == ABSENT:
        return
    place = integers(job[JOB.addresses] + 8 * _SLOTS * job[JOB.n_rows], job[JOB.n_rows], 1)[index, 0]
    narrow = row[COUNT] == FLOAT32
    steps = np.float64(floats(place, 1)[0]) if narrow else np.float64(doubles_at(place, 1)[0])
    if not steps >= 1:
        job[JOB.unbegun] = 1
    corrected = int(numbers[len(SCALARS)])
    for i in range(len(SCALARS)):
        if (corrected >> i) & 1:
            numbers[i] = 1 / (1 - numbers[i] ** steps)


@exactly
def _pieces(job: Any, cursor: int, room: Any) -> None:
    """Measure pieces of rows until none is left that no other thread has taken; merge after the last."""
    narrow, kept, dirty, found, own, exact, fast = room
    pieces = integers(job[JOB.pieces], job[JOB.n_pieces], 2)
    tasks = integers(job[JOB.tasks], job[JOB.n_tasks], len(TASK))
    rows = integers(job[JOB.rows], job[JOB.n_rows], ROW)
    addresses = integers(job[JOB.addresses], job[JOB.n_rows], _SLOTS)
    touched, thread, last = touched_in(job), following(cursor + 8 * JOB.thread), len(tasks)
    piece = following(cursor)
    while piece < len(pieces):
        for at in range(pieces[piece, 0], pieces[piece, 1]):
            task = tasks[at]
            index = task[TASK.row]
            _put_numbers(job, index, rows[index], own)
            numbers = doubles_at(own.ctypes.data, len(SCALARS))  # not counted, see `floats`
            kinds = rows[index, :_SLOTS]
            row = (kinds, numbers, rows[index, FORM], rows[index, STRIDE])
            _clear(kinds, dirty, narrow, kept)
            found[:] = 0.0  # which also keeps it alive: the compiler sees no use of an address
            figures, counts = figures_of(job, task[TASK.figures]), counts_of(job, task[TASK.counts], thread)
            figures[:SUMMED], figures[SUMMED:] = 0.0, -np.inf
            if row[3] > 0 and task[TASK.counts] != last:
                counts[:] = 0
                last = task[TASK.counts]
                if last < 0:
                    touched[of_thread(job, last, thread)] = 1
            _task(
                addresses[index],
                task[TASK.start],
                task[TASK.stop],
                row,
                kept,
                fast,
                exact,
                (figures, counts),
            )
        if following(cursor + 8 * JOB.done) == len(pieces) - 1:
            merge(job, tasks, rows)
        piece = following(cursor)


def _compile(version: str) -> Any:
    """The outermost function, which is kept on disk; all others are compiled into it.

    Args:
        version: Of every source compiled into it: Numba itself would only look at this file.
    """

    def run(address: Any) -> None:
        len(version)  # what a function closes over is part of its key on disk
        narrow, kept = np.empty((_SLOTS, BLOCK), np.float32), np.empty((_SLOTS, BLOCK))
        wide, filled = np.empty((_SLOTS, BLOCK)), np.empty((_FILLED, BLOCK))
        exact = (narrow.ctypes.data, wide, filled, np.empty((_HISTOGRAMS, BLOCK), np.int32))
        found, sound = np.empty((BLOCKS, ADDED + len(TOP))), np.zeros(BLOCKS, np.bool_)
        fast = _fast.Room(
            narrow.ctypes.data, found.ctypes.data, sound, np.empty(len(SUM)), np.empty(len(TOP))
        )
        job = carray(address, (len(JOB),), np.int64)
        dirty = np.ones(_SLOTS, np.bool_)
        _pieces(job, job.ctypes.data, (narrow, kept, dirty, found, np.empty(OF_NUMBERS), exact, fast))

    signature = types.void(types.voidptr)
    try:
        return cfunc(signature, error_model="numpy", cache=True)(run)
    except RuntimeError:  # there is no folder that may be written to
        return cfunc(signature, error_model="numpy")(run)


HERE = Path(__file__).parent


def version() -> str:
    """A hash of every source that is compiled into `run`."""
    sources = [*sorted(HERE.glob("*.py")), HERE.parent / "descriptors.py", HERE.parent / "packed.py"]
    sources.append(HERE.parents[1] / "histograms.py")
    return sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


@cache
def _compiled() -> Compiled:
    return Compiled(_compile(version()))


def run(job: array[int], threads: int) -> None:
    """Measure all pieces of the rows of a job, see `_job.job_of`, on so many threads."""
    together(_compiled(), job.buffer_info()[0], threads)
