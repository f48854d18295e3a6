"""A job for the compiled pass: what each thread is given, and how what they measured comes together."""

from __future__ import annotations

from array import array
from collections import namedtuple
from typing import Any

import numpy as np

from lightning_adapt.dynamics.engines.cpu._compiled import counts_at, doubles_at, exactly, integers
from lightning_adapt.dynamics.engines.cpu._tasks import Tasks
from lightning_adapt.dynamics.engines.descriptors import SCALARS, SLOTS
from lightning_adapt.dynamics.engines.packed import ADDED as SUMMED
from lightning_adapt.dynamics.engines.packed import FIGURES
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH

_HISTOGRAMS = len(HISTOGRAMS)

ROW = len(SLOTS) + 4
"""Whole numbers of a row: kinds of its tensors, form of its step, stride of its histograms, which numbers,
kind of its step count."""
FORM, STRIDE, NUMBERS, COUNT = range(len(SLOTS), ROW)
OF_NUMBERS = len(SCALARS) + 1
"""Numbers that rows have in common: the last says of which of the others there is beta, as bits."""
_FIELDS = namedtuple(
    "_FIELDS",
    "cursor done thread unbegun addresses numbers figures counts "
    "pieces tasks n_pieces n_tasks n_threads n_shared rows n_rows "
    "more_figures more_counts thread_counts touched",
)
JOB: Any = _FIELDS(*range(len(_FIELDS._fields)))
"""Positions in a job: the next piece, how many are done, the next thread, whether a row was never stepped,
then addresses and sizes."""
TASK: Any = namedtuple("TASK", "row start stop figures counts")(*range(5))


@exactly
def figures_of(job: Any, place: int) -> Any:
    """Figures of a row, or those beside them."""
    rows = job[JOB.n_rows]
    own = place < rows
    address = job[JOB.figures] if own else job[JOB.more_figures]
    return doubles_at(address + 8 * FIGURES * (place if own else place - rows), FIGURES)


@exactly
def counts_of(job: Any, place: int, thread: int) -> Any:
    """Counts of a row, or those beside them, or (below 0) those that a thread has for a row."""
    rows = job[JOB.n_rows]
    if place < 0:
        return counts_at(job[JOB.thread_counts], of_thread(job, place, thread), _HISTOGRAMS, WIDTH)
    if place < rows:
        return counts_at(job[JOB.counts], place, _HISTOGRAMS, WIDTH)
    return counts_at(job[JOB.more_counts], place - rows, _HISTOGRAMS, WIDTH)


@exactly
def of_thread(job: Any, place: int, thread: int) -> Any:
    return (-1 - place) * job[JOB.n_threads] + thread


@exactly
def touched_in(job: Any) -> Any:
    """Which threads have counts of which row."""
    return integers(job[JOB.touched], job[JOB.n_shared] * job[JOB.n_threads], 1)


@exactly
def merge(job: Any, tasks: Any, rows: Any) -> None:
    """Add what stands beside the rows to the rows."""
    n, merged = len(rows), len(rows) - 1
    for at in range(len(tasks)):
        row, place = tasks[at, TASK.row], tasks[at, TASK.counts]
        own = tasks[at, TASK.figures] < n
        if not own:
            into, figures = figures_of(job, row), figures_of(job, tasks[at, TASK.figures])
            into[:SUMMED] += figures[:SUMMED]
            into[SUMMED:] = np.maximum(into[SUMMED:], figures[SUMMED:])
        if place > merged and rows[row, STRIDE] > 0:
            counted, counts = counts_of(job, row, 0), counts_of(job, place, 0)
            counted += counts
            merged = place
        elif place < 0 and own and rows[row, STRIDE] > 0:
            _merge_threads(job, row, place)


@exactly
def _merge_threads(job: Any, row: int, place: int) -> None:
    """Add up the counts that threads have for a row."""
    touched, counted = touched_in(job), counts_of(job, row, 0)
    counted[:] = 0
    for thread in range(job[JOB.n_threads]):
        if touched[of_thread(job, place, thread), 0]:
            touched[of_thread(job, place, thread)] = 0  # as it was before
            counts = counts_of(job, place, thread)
            counted += counts


_COUNTS_SIZE = 4 * _HISTOGRAMS * WIDTH


def room_beside(cut: Tasks, *, histograms: bool) -> array[int]:
    """Memory for what stands beside the rows until it is merged, see `Tasks`; all 0."""
    counts = _COUNTS_SIZE * cut.counts + (_COUNTS_SIZE + 8) * cut.shared * cut.threads
    return array("b", (0,)) * (8 * FIGURES * cut.figures + (counts if histograms else 0))


def job_of(cut: Tasks, beside: array[int], rows: array[int]) -> array[int]:
    """What `_pass.run` is given each time: one entry for each of `JOB`. All arguments have to outlive it.

    Args:
        cut: The pieces, and the tasks they are made of.
        beside: From `room_beside`.
        rows: `ROW` for each row.
    """
    figures = beside.buffer_info()[0]
    counts = figures + 8 * FIGURES * cut.figures
    of_threads = counts + _COUNTS_SIZE * cut.counts
    touched = of_threads + _COUNTS_SIZE * cut.shared * cut.threads
    job = array("q", (0,) * JOB.pieces)
    job.extend((*cut.addresses, len(cut.pieces), len(cut.tasks), cut.threads, cut.shared))
    job.extend((rows.buffer_info()[0], len(rows) // ROW, figures, counts, of_threads, touched))
    return job


def begin(job: array[int], addresses: array[int], numbers: array[float], figures: int, counts: int) -> None:
    """Make ``job`` one that has not been begun. The arrays have to outlive it.

    Args:
        job: From `job_of`.
        addresses: Of the tensors of each row, one for each of `SLOTS`; then of the step counts of rows, if
            there is one.
        numbers: `OF_NUMBERS` once for all rows that have the same.
        figures: Address of `FIGURES` for each row, float64.
        counts: Address of the histograms of each row, int32; anything where no row has a stride.
    """
    places = (addresses.buffer_info()[0], numbers.buffer_info()[0], figures, counts)
    job[: JOB.pieces] = array("q", (0, 0, 0, 0, *places))
