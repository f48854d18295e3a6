"""The engine for tensors on the host: one compiled pass, on all cores that torch may use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, lru_cache, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines import eager
from lightning_adapt.dynamics.engines.cpu._compiled import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from lightning_adapt.dynamics.engines.cpu._pass import run
from lightning_adapt.dynamics.engines.descriptors import Descriptor, describe
from lightning_adapt.dynamics.engines.packed import COUNTS, FIGURES, SUMS, Packed, concatenated
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH, FloatArray, IntArray, sample_stride
from lightning_adapt.dynamics.table import RowInfo

_KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float64: FLOAT64}

#: Elements of a task. Sums are taken task by task whatever the number of threads: results repeat bit for bit.
_TASK = 1 << 18
#: What it costs to count an element, in units of measuring it.
_COUNTING = 16
#: Elements that are gathered before they are measured, and bytes that rules had to compute for them.
_BATCH, _MADE = 1 << 24, 1 << 24
#: Batches that may be under way while the next one is gathered.
_AHEAD = 2


def measure(rows: Iterable[Row], *, histograms: bool = True) -> Packed:
    """Measure ``rows`` in one compiled pass; what is not on the host is left to the eager engine.

    Histograms of large parameters come from a sample, see `sample_stride`.

    Args:
        rows: Consumed in batches of a few million elements.
        histograms: Also count; without counts the quantile columns are NaN.

    Returns:
        The packed figures, on the host.
    """
    parts: list[Callable[[], Packed]] = []
    batch: list[Descriptor] = []
    strides: list[int] = []
    waiting = made = 0
    for row in rows:
        described = describe(row)
        readable = _readable(described)
        if readable:
            batch.append(described)
            strides.append(sample_stride(row.parameter.shape) if histograms else 0)
            waiting, made = waiting + described.numel, made + row.temporary
        if batch and (not readable or waiting >= _BATCH or made >= _MADE):
            parts.append(_start(batch, strides, histograms))
            if made:
                parts[-1]()  # what a rule computed is let go before it computes more
            elif len(parts) > _AHEAD:
                parts[-1 - _AHEAD]()
            batch, strides, waiting, made = [], [], 0, 0
        if not readable:
            parts.append(partial(_itself, eager.measure([row], histograms=histograms)))
    if batch:
        parts.append(_start(batch, strides, histograms))
    return concatenated([part() for part in parts]) if parts else eager.measure([], histograms=histograms)


def prepare() -> None:
    """Compile, or load what was compiled before.

    Some fifteen seconds the first time on a machine, half a second afterwards.
    """
    measure([Row(RowInfo("nothing"), torch.zeros(1), None, None, None)])


def _readable(described: Descriptor) -> bool:
    """Whether all its tensors lie on the host in a dtype that the kernel reads."""
    tensors = [x for x in (*described.tensors, *described.scalars) if isinstance(x, Tensor)]
    kinds = [x.dtype for x in described.tensors if x is not None]
    return all(x.device.type == "cpu" for x in tensors) and all(kind in _KINDS for kind in kinds)


def _start(batch: Sequence[Descriptor], strides: Sequence[int], histograms: bool) -> Callable[[], Packed]:
    """Measure ``batch`` on other threads while the next one is gathered; call the result to wait for it."""
    kinds = [[0 if x is None else _KINDS[x.dtype] for x in one.tensors] for one in batch]
    about = (
        np.array([[0 if x is None else x.data_ptr() for x in one.tensors] for one in batch], dtype=np.int64),
        np.array(kinds, dtype=np.int64),
        np.array([[float(x) for x in one.scalars] for one in batch]),
        np.array([one.form for one in batch], dtype=np.int64),
        np.array(strides, dtype=np.int64),
    )
    tasks = np.array(
        [
            (index, start, min(start + _TASK, one.numel), 0)
            for index, one in enumerate(batch)
            for start in range(0, max(one.numel, 1), _TASK)
        ],
        dtype=np.int64,
    )
    pieces = _pieces(tasks, about[-1] == 1)
    # Tasks of one row in one piece count into the same place.
    new = np.append(True, tasks[1:, 0] != tasks[:-1, 0])
    new[[piece.start for piece in pieces]] = True
    tasks[:, 3] = np.cumsum(new) - 1
    figures = np.zeros((len(tasks), FIGURES))
    figures[:, len(COUNTS) + len(SUMS) :] = -np.inf
    counts = np.zeros((int(new.sum()), len(HISTOGRAMS), WIDTH), dtype=np.int32)

    def work(piece: slice) -> None:
        run(tasks[piece], *about, figures[piece], counts)

    if len(pieces) == 1:
        work(pieces[0])
        running: list[Future[None]] = []
    else:
        running = [_threads(torch.get_num_threads()).submit(work, piece) for piece in pieces]
    kept = list(batch)  # addresses keep nothing alive

    @cache
    def finish() -> Packed:
        for future in running:
            future.result()
        kept.clear()
        return _merged(tasks, figures, counts if histograms else None, strides)

    return finish


def _itself(packed: Packed) -> Packed:
    return packed


def _merged(
    tasks: IntArray, figures: FloatArray, counts: npt.NDArray[np.int32] | None, strides: Sequence[int]
) -> Packed:
    """One row of figures and counts for each parameter."""
    first = np.flatnonzero(np.append(True, tasks[1:, 0] != tasks[:-1, 0]))
    if len(tasks) > len(first):
        split = len(COUNTS) + len(SUMS)
        sums, maxima = figures[:, :split], figures[:, split:]
        figures = np.hstack([np.add.reduceat(sums, first), np.maximum.reduceat(maxima, first)])
    if counts is not None and len(counts) > len(first):
        start = tasks[first, 3]
        stop = np.append(start[1:], len(counts))
        summed = counts[start]
        for row in np.flatnonzero(stop - start > 1):  # reduceat would be ten times slower
            counts[start[row] : stop[row]].sum(axis=0, out=summed[row])
        counts = summed
    packed = None if counts is None else torch.from_numpy(counts)
    return Packed(torch.from_numpy(figures), packed, strides=[max(stride, 1) for stride in strides])


def _pieces(tasks: IntArray, counted: npt.NDArray[np.bool_]) -> list[slice]:
    """Cut the tasks into some runs for each thread; one for all when threads would not pay."""
    work = np.cumsum((tasks[:, 2] - tasks[:, 1]) * np.where(counted[tasks[:, 0]], _COUNTING, 1))
    if torch.get_num_threads() == 1 or work[-1] < _TASK:
        return [slice(0, len(tasks))]
    size = max(_TASK, int(work[-1]) // (8 * torch.get_num_threads()))
    ends = np.unique(np.append(np.searchsorted(work, np.arange(size, work[-1], size)) + 1, len(tasks)))
    return [slice(start, end) for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]


@lru_cache(maxsize=1)
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="lightning-adapt-engine")
