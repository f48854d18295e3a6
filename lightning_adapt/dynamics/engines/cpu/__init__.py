"""The engine for tensors on the host: one compiled pass, on all cores that torch may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines import eager
from lightning_adapt.dynamics.engines.cpu._compiled import ABSENT, BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from lightning_adapt.dynamics.engines.cpu._pass import run
from lightning_adapt.dynamics.engines.cpu._tasks import tasks_of
from lightning_adapt.dynamics.engines.descriptors import Descriptor, describe
from lightning_adapt.dynamics.engines.packed import COUNTS, FIGURES, SUMS, Packed, concatenated
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH, sample_stride
from lightning_adapt.dynamics.table import RowInfo

_KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float64: FLOAT64}

#: Elements that are gathered before they are measured, and bytes that rules had to compute for them.
_BATCH, _MADE = 1 << 24, 1 << 22
#: Batches that may be under way while the next one is gathered.
_AHEAD = 2


@dataclass(slots=True)
class _Entry:
    """A row as the compiled pass takes it; ``row`` keeps alive what the addresses point to."""

    row: Descriptor
    kinds: list[int]
    addresses: list[int]
    scalars: list[float]
    stride: int


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
    batch: list[_Entry] = []
    waiting = made = 0
    for row in rows:
        entry = _entry(describe(row), sample_stride(row.parameter.shape) if histograms else 0)
        if entry is not None:
            batch.append(entry)
            waiting, made = waiting + entry.row.numel, made + row.temporary
        if batch and (entry is None or waiting >= _BATCH or made >= _MADE):
            parts.append(_start(batch, histograms))
            if made:
                parts[-1]()  # what a rule computed is let go before it computes more
            elif len(parts) > _AHEAD:
                parts[-1 - _AHEAD]()
            batch, waiting, made = [], 0, 0
        if entry is None:
            parts.append(partial(_itself, eager.measure([row], histograms=histograms)))
    if batch:
        parts.append(_start(batch, histograms))
    return concatenated([part() for part in parts]) if parts else eager.measure([], histograms=histograms)


def prepare() -> None:
    """Compile, or load what was compiled before.

    15 to 50 seconds the first time on a machine, less than a second afterwards.
    """
    measure([Row(RowInfo("nothing"), torch.zeros(1), None, None, None)])


def _entry(row: Descriptor, stride: int) -> _Entry | None:
    """``row`` for the compiled pass, ``None`` unless all of it lies on the host in dtypes that it reads."""
    kinds, addresses = [], []
    for x in row.tensors:
        kind = ABSENT if x is None else _KINDS.get(x.dtype) if x.is_cpu else None
        if kind is None:
            return None
        kinds.append(kind)
        addresses.append(0 if x is None else x.data_ptr())
    for scalar in row.scalars:
        if isinstance(scalar, Tensor) and not scalar.is_cpu:
            return None
    return _Entry(row, kinds, addresses, [float(x) for x in row.scalars], stride)


def _start(batch: Sequence[_Entry], histograms: bool) -> Callable[[], Packed]:
    """Measure ``batch`` on other threads while the next one is gathered; call the result to wait for it."""
    threads, strides = torch.get_num_threads(), tuple([entry.stride for entry in batch])
    cut = tasks_of(tuple([entry.row.numel for entry in batch]), strides, threads)
    figures = np.zeros((len(cut.tasks), FIGURES))
    figures[:, len(COUNTS) + len(SUMS) :] = -np.inf
    counts = np.zeros((cut.places, len(HISTOGRAMS), WIDTH), dtype=np.int32)
    about = (
        np.array([entry.addresses for entry in batch], dtype=np.int64),
        np.array([entry.kinds for entry in batch], dtype=np.int64),
        np.array([entry.scalars for entry in batch], dtype=np.float64),
        np.array([entry.row.form for entry in batch], dtype=np.int64),
        np.array(strides, dtype=np.int64),
    )
    cursor, kept = np.zeros(1, dtype=np.int64), list(batch)

    def work(_: object = kept) -> None:  # addresses keep nothing alive
        run(cursor, cut.pieces, cut.tasks, *about, figures, counts)

    # The calling thread is one of them, from when it waits.
    helping = [_threads(threads).submit(work) for _ in range(min(threads, len(cut.pieces)) - 1)]

    @cache
    def finish() -> Packed:
        work()
        for future in helping:
            if not future.cancel():
                future.result()
        kept.clear()
        return Packed(
            torch.from_numpy(cut.figures(figures)),
            torch.from_numpy(cut.counts(counts)) if histograms else None,
            strides=[max(stride, 1) for stride in strides],
        )

    return finish


def _itself(packed: Packed) -> Packed:
    return packed


@lru_cache(maxsize=1)
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="lightning-adapt-engine")


if hasattr(os, "register_at_fork"):  # threads do not live on in a child
    os.register_at_fork(after_in_child=_threads.cache_clear)
