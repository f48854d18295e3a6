"""One pass over the tensors of many rows, block by block."""

from __future__ import annotations

from array import array
from collections import namedtuple
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
    SCALAR,
    SLOT,
    STRIP,
    counts_at,
    doubles,
    doubles_at,
    exactly,
    following,
    gather,
    integers,
    smallest_normal,
)
from lightning_adapt.dynamics.engines.cpu._tasks import Tasks
from lightning_adapt.dynamics.engines.cpu._team import Compiled, together
from lightning_adapt.dynamics.engines.descriptors import SCALARS, SLOTS
from lightning_adapt.dynamics.engines.packed import ADDED as SUMMED
from lightning_adapt.dynamics.engines.packed import FIGURES
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH

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


ROW = _SLOTS + 3
"""Whole numbers of a row: kinds of its tensors, form of its step, stride of its histograms, which numbers."""
_FORM, _STRIDE, _NUMBERS = range(_SLOTS, ROW)
JOB: Any = namedtuple(
    "JOB",
    "cursor done thread pieces tasks n_pieces n_tasks n_threads n_shared rows addresses numbers n_rows "
    "figures counts more_figures more_counts thread_counts touched",
)
"""What `run` is given: the next piece, how many are done, the next thread, then addresses and sizes."""
_JOB: Any = JOB(*range(len(JOB._fields)))
_TASK: Any = namedtuple("TASK", "row start stop figures counts")(*range(5))


@exactly
def _figures(job: Any, place: int) -> Any:
    """Figures of a row, or those beside them."""
    rows = job[_JOB.n_rows]
    own = place < rows
    address = job[_JOB.figures] if own else job[_JOB.more_figures]
    return doubles_at(address + 8 * FIGURES * (place if own else place - rows), FIGURES)


@exactly
def _counts(job: Any, place: int, thread: int) -> Any:
    """Counts of a row, or those beside them, or (below 0) those that a thread has for a row."""
    rows = job[_JOB.n_rows]
    if place < 0:
        return counts_at(job[_JOB.thread_counts], _of_thread(job, place, thread), _HISTOGRAMS, WIDTH)
    if place < rows:
        return counts_at(job[_JOB.counts], place, _HISTOGRAMS, WIDTH)
    return counts_at(job[_JOB.more_counts], place - rows, _HISTOGRAMS, WIDTH)


@exactly
def _of_thread(job: Any, place: int, thread: int) -> Any:
    return (-1 - place) * job[_JOB.n_threads] + thread


@exactly
def _touched(job: Any) -> Any:
    """Which threads have counts of which row."""
    return integers(job[_JOB.touched], job[_JOB.n_shared] * job[_JOB.n_threads], 1)


@exactly
def _clear(kinds: Any, dirty: Any, narrow: Any, kept: Any) -> None:
    """Make what is absent read as 0."""
    for slot in range(_SLOTS):
        if kinds[slot] == ABSENT and dirty[slot]:
            narrow[slot], kept[slot] = np.float32(0), 0.0
        dirty[slot] = kinds[slot] != ABSENT


@exactly
def _pieces(job: Any, cursor: int, room: Any) -> None:
    """Measure pieces of rows until none is left that no other thread has taken; merge after the last."""
    narrow, kept, dirty, found, exact, fast = room
    pieces = integers(job[_JOB.pieces], job[_JOB.n_pieces], 2)
    tasks = integers(job[_JOB.tasks], job[_JOB.n_tasks], len(_TASK))
    rows = integers(job[_JOB.rows], job[_JOB.n_rows], ROW)
    addresses = integers(job[_JOB.addresses], job[_JOB.n_rows], _SLOTS)
    touched, thread, last = _touched(job), following(cursor + 8 * _JOB.thread), len(tasks)
    piece = following(cursor)
    while piece < len(pieces):
        for at in range(pieces[piece, 0], pieces[piece, 1]):
            task = tasks[at]
            index = task[_TASK.row]
            which = rows[index, _NUMBERS]
            numbers = doubles_at(job[_JOB.numbers] + 8 * which * len(SCALARS), len(SCALARS))
            kinds = rows[index, :_SLOTS]
            row = (kinds, numbers, rows[index, _FORM], rows[index, _STRIDE])
            _clear(kinds, dirty, narrow, kept)
            found[:] = 0.0  # which also keeps it alive: the compiler sees no use of an address
            figures, counts = _figures(job, task[_TASK.figures]), _counts(job, task[_TASK.counts], thread)
            figures[:SUMMED], figures[SUMMED:] = 0.0, -np.inf
            if row[3] > 0 and task[_TASK.counts] != last:
                counts[:] = 0
                last = task[_TASK.counts]
                if last < 0:
                    touched[_of_thread(job, last, thread)] = 1
            _task(
                addresses[index],
                task[_TASK.start],
                task[_TASK.stop],
                row,
                kept,
                fast,
                exact,
                (figures, counts),
            )
        if following(cursor + 8 * _JOB.done) == len(pieces) - 1:
            _merge(job, tasks, rows)
        piece = following(cursor)


@exactly
def _merge(job: Any, tasks: Any, rows: Any) -> None:
    """Add what stands beside the rows to the rows."""
    n, merged = len(rows), len(rows) - 1
    for at in range(len(tasks)):
        row, place = tasks[at, _TASK.row], tasks[at, _TASK.counts]
        own = tasks[at, _TASK.figures] < n
        if not own:
            into, figures = _figures(job, row), _figures(job, tasks[at, _TASK.figures])
            into[:SUMMED] += figures[:SUMMED]
            into[SUMMED:] = np.maximum(into[SUMMED:], figures[SUMMED:])
        if place > merged and rows[row, _STRIDE] > 0:
            counted, counts = _counts(job, row, 0), _counts(job, place, 0)
            counted += counts
            merged = place
        elif place < 0 and own and rows[row, _STRIDE] > 0:
            _merge_threads(job, row, place)


@exactly
def _merge_threads(job: Any, row: int, place: int) -> None:
    """Add up the counts that threads have for a row."""
    touched, counted = _touched(job), _counts(job, row, 0)
    counted[:] = 0
    for thread in range(job[_JOB.n_threads]):
        if touched[_of_thread(job, place, thread), 0]:
            touched[_of_thread(job, place, thread)] = 0  # as it was before
            counts = _counts(job, place, thread)
            counted += counts


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
        job = carray(address, (len(_JOB),), np.int64)
        dirty = np.ones(_SLOTS, np.bool_)
        _pieces(job, job.ctypes.data, (narrow, kept, dirty, found, exact, fast))

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


_COUNTS_SIZE = 4 * _HISTOGRAMS * WIDTH


def room_beside(cut: Tasks, *, histograms: bool) -> array[int]:
    """Memory for what stands beside the rows until it is merged, see `Tasks`; all 0."""
    counts = _COUNTS_SIZE * cut.counts + (_COUNTS_SIZE + 8) * cut.shared * cut.threads
    return array("b", (0,)) * (8 * FIGURES * cut.figures + (counts if histograms else 0))


def run(
    cut: Tasks,
    beside: array[int],
    rows: array[int],
    addresses: array[int],
    numbers: array[float],
    figures: int,
    counts: int,
) -> None:
    """Measure all pieces of rows.

    Args:
        cut: The pieces, and the tasks they are made of.
        beside: From `room_beside`.
        rows: `ROW` for each row.
        addresses: Of the tensors of each row, one for each of `SLOTS`.
        numbers: `SCALARS` once for all rows that have the same.
        figures: Address of `FIGURES` for each row, float64.
        counts: Address of the histograms of each row, int32; anything where no row has a stride.
    """
    figures_beside = beside.buffer_info()[0]
    counts_beside = figures_beside + 8 * FIGURES * cut.figures
    of_threads = counts_beside + _COUNTS_SIZE * cut.counts
    touched = of_threads + _COUNTS_SIZE * cut.shared * cut.threads
    job = array("q", (0, 0, 0, *cut.addresses, len(cut.pieces), len(cut.tasks), cut.threads, cut.shared))
    job.extend(
        (rows.buffer_info()[0], addresses.buffer_info()[0], numbers.buffer_info()[0], len(rows) // ROW)
    )
    job.extend((figures, counts, figures_beside, counts_beside, of_threads, touched))
    together(_compiled(), job.buffer_info()[0], cut.threads if len(cut.pieces) > 1 else 1)
