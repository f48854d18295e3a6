"""The engine for tensors on the host: one compiled pass, on all cores that torch may use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row, Scalar
from lightning_adapt.dynamics.engines import eager
from lightning_adapt.dynamics.engines.cpu._compiled import ABSENT, BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from lightning_adapt.dynamics.engines.cpu._pass import run
from lightning_adapt.dynamics.engines.cpu._tasks import tasks_of
from lightning_adapt.dynamics.engines.descriptors import PLAIN, Descriptor, describe
from lightning_adapt.dynamics.engines.packed import Layout, Packed, concatenated
from lightning_adapt.dynamics.histograms import sample_stride
from lightning_adapt.dynamics.table import RowInfo

_KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float64: FLOAT64}

#: Bytes that rules have to compute for rows before these are measured, so that they can be let go.
_MADE = 1 << 22


@dataclass(slots=True)
class _Entry:
    """A row as the compiled pass takes it; ``row`` keeps alive what the addresses point to."""

    row: Descriptor
    whole: list[int]
    numbers: Sequence[Scalar]
    stride: int


def measure(rows: Iterable[Row], *, histograms: bool = True) -> Packed:
    """Measure ``rows`` in one compiled pass; what is not on the host is left to the eager engine.

    Histograms of large parameters come from a sample, see `sample_stride`.

    Args:
        rows: Measured together, as far as rules need not compute much for them.
        histograms: Also count; without counts the quantile columns are NaN.

    Returns:
        The packed figures, on the host.
    """
    parts: list[Packed] = []
    batch: list[_Entry] = []
    made = 0
    for row in rows:
        entry = _entry(describe(row), sample_stride(row.parameter.shape) if histograms else 0)
        if entry is not None:
            batch.append(entry)
            made += row.temporary
        if batch and (entry is None or made >= _MADE):
            parts.append(_measured(batch, histograms))
            batch, made = [], 0
        if entry is None:
            parts.append(eager.measure([row], histograms=histograms))
    if batch:
        parts.append(_measured(batch, histograms))
    return concatenated(parts) if parts else eager.measure([], histograms=histograms)


def prepare() -> None:
    """Compile, or load what was compiled before.

    15 to 50 seconds the first time on a machine, less than a second afterwards.
    """
    measure([Row(RowInfo("nothing"), torch.zeros(1), None, None, None)])


def _entry(row: Descriptor, stride: int) -> _Entry | None:
    """``row`` for the compiled pass, ``None`` unless all of it lies on the host in dtypes that it reads."""
    kinds, addresses = [], []
    for x in row.tensors:
        if x is None:
            kinds.append(ABSENT)
            addresses.append(0)
        elif x.is_cpu and x.dtype in _KINDS:
            kinds.append(_KINDS[x.dtype])
            addresses.append(x.data_ptr())
        else:
            return None
    numbers: Sequence[Scalar] = row.scalars
    if not PLAIN.issuperset(map(type, numbers)):
        if any(isinstance(x, Tensor) and not x.is_cpu for x in numbers):
            return None
        numbers = [float(x) for x in numbers]
    return _Entry(row, [*addresses, *kinds, row.form, stride], numbers, stride)


def _measured(batch: Sequence[_Entry], histograms: bool) -> Packed:
    """Measure ``batch`` on all threads that torch has."""
    threads, strides = torch.get_num_threads(), tuple([entry.stride for entry in batch])
    cut = tasks_of(tuple([entry.row.numel for entry in batch]), strides, threads)
    layout = Layout(len(batch), histograms)
    memory = np.empty(layout.size, dtype=np.uint8)
    into = layout.arrays(memory)
    figures, counts = cut.room(*into)
    run(
        cut,
        np.array([entry.whole for entry in batch], dtype=np.int64),
        np.array([entry.numbers for entry in batch], dtype=np.float64),
        figures,
        counts,
        threads,
    )
    cut.merge(figures, counts, *into)
    return Packed(torch.from_numpy(memory), layout, strides=[max(stride, 1) for stride in strides])
