"""The engine for tensors on the host: one compiled pass, on all cores that torch may use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

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
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH, IntArray, sample_stride
from lightning_adapt.dynamics.table import RowInfo

_KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float64: FLOAT64}

#: Elements of a task. Sums are taken task by task whatever the number of threads: results repeat bit for bit.
_TASK = 1 << 18
#: What it costs to count an element, in units of measuring it.
_COUNTING = 16
#: Elements that are gathered before they are measured: bounds what rules had to compute for them.
_BATCH = 1 << 22


def measure(rows: Iterable[Row], *, histograms: bool = True) -> Packed:
    """Measure ``rows`` in one compiled pass; what is not on the host is left to the eager engine.

    Histograms of large parameters come from a sample, see `sample_stride`.

    Args:
        rows: Consumed in batches of a few million elements.
        histograms: Also count; without counts the quantile columns are NaN.

    Returns:
        The packed figures, on the host.
    """
    parts: list[Packed] = []
    batch: list[Descriptor] = []
    strides: list[int] = []
    waiting = 0
    for row in rows:
        described = describe(row)
        readable = _readable(described)
        if readable:
            batch.append(described)
            strides.append(sample_stride(row.parameter.shape) if histograms else 0)
            waiting += described.numel
        if not readable or waiting >= _BATCH:
            parts += _measured(batch, strides, histograms)
            batch, strides, waiting = [], [], 0
        if not readable:
            parts.append(eager.measure([row], histograms=histograms))
    parts += _measured(batch, strides, histograms)
    return concatenated(parts) if parts else eager.measure([], histograms=histograms)


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


def _measured(batch: Sequence[Descriptor], strides: Sequence[int], histograms: bool) -> list[Packed]:
    """One `Packed` for ``batch``; none when it is empty."""
    if not batch:
        return []
    addresses = [[0 if x is None else x.data_ptr() for x in one.tensors] for one in batch]
    kinds = [[0 if x is None else _KINDS[x.dtype] for x in one.tensors] for one in batch]
    tasks = [
        (index, start, min(start + _TASK, one.numel))
        for index, one in enumerate(batch)
        for start in range(0, max(one.numel, 1), _TASK)
    ]
    figures = np.zeros((len(tasks), FIGURES))
    figures[:, len(COUNTS) + len(SUMS) :] = -np.inf
    counts = np.zeros((len(tasks), len(HISTOGRAMS), WIDTH), dtype=np.int32)
    about = (
        np.array(addresses, dtype=np.int64),
        np.array(kinds, dtype=np.int64),
        np.array([[float(x) for x in one.scalars] for one in batch]),
        np.array([one.form for one in batch], dtype=np.int64),
        np.array(strides, dtype=np.int64),
    )
    everything = np.array(tasks, dtype=np.int64)

    def work(piece: slice) -> None:
        run(everything[piece], *about, figures[piece], counts[piece])

    pieces = _pieces(everything, about[-1] == 1)
    if len(pieces) == 1:
        work(pieces[0])
    else:
        list(_threads(torch.get_num_threads()).map(work, pieces))
    if len(tasks) > len(batch):
        first = np.flatnonzero(np.append(True, everything[1:, 0] != everything[:-1, 0]))
        split = len(COUNTS) + len(SUMS)
        sums, maxima = figures[:, :split], figures[:, split:]
        figures = np.hstack([np.add.reduceat(sums, first), np.maximum.reduceat(maxima, first)])
        counts = np.add.reduceat(counts, first, dtype=np.int32) if histograms else counts
    summed = torch.from_numpy(counts) if histograms else None
    return [Packed(torch.from_numpy(figures), summed, strides=[max(stride, 1) for stride in strides])]


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
