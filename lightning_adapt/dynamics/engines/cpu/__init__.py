"""The engine for tensors on the host: one compiled pass, on all cores that torch may use."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines import eager
from lightning_adapt.dynamics.engines.cpu._compiled import ABSENT, BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from lightning_adapt.dynamics.engines.cpu._pass import run
from lightning_adapt.dynamics.engines.cpu._tasks import tasks_of
from lightning_adapt.dynamics.engines.descriptors import PLAIN, Descriptor, describe
from lightning_adapt.dynamics.engines.packed import Packed, concatenated
from lightning_adapt.dynamics.histograms import sample_stride
from lightning_adapt.dynamics.table import RowInfo

_KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float64: FLOAT64}

_HOST = torch.device("cpu")

#: Bytes that rules have to compute for rows before these are measured, so that they can be let go.
_MADE = 1 << 22


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
    batch = _Batch()
    made = 0
    for row in rows:
        taken = batch.add(describe(row), sample_stride(row.parameter.shape) if histograms else 0)
        made += row.temporary if taken else 0
        if batch.rows and (not taken or made >= _MADE):
            parts.append(batch.measured(histograms))
            batch, made = _Batch(), 0
        if not taken:
            parts.append(eager.measure([row], histograms=histograms))
    if batch.rows:
        parts.append(batch.measured(histograms))
    return concatenated(parts) if parts else eager.measure([], histograms=histograms)


def prepare() -> None:
    """Compile, or load what was compiled before.

    15 to 50 seconds the first time on a machine, less than a second afterwards.
    """
    measure([Row(RowInfo("nothing"), torch.zeros(1), None, None, None)])


class _Batch:
    """Rows as the compiled pass takes them."""

    def __init__(self) -> None:
        self.rows: list[Descriptor] = []  # keeps alive what the addresses point to
        self._strides: list[int] = []
        self._whole, self._numbers = array("q"), array("d")

    def add(self, row: Descriptor, stride: int) -> bool:
        """Take in ``row``, unless some of it lies elsewhere or has a dtype that the pass does not read."""
        kinds, addresses = [], []
        for x in row.tensors:
            if x is None:
                kinds.append(ABSENT)
                addresses.append(0)
            elif x.is_cpu and x.dtype in _KINDS:
                kinds.append(_KINDS[x.dtype])
                addresses.append(x.data_ptr())
            else:
                return False
        numbers: Any = row.scalars  # floats in the end, which no type can tell
        if not PLAIN.issuperset(map(type, numbers)):
            if any(isinstance(x, Tensor) and not x.is_cpu for x in numbers):
                return False
            numbers = [float(x) for x in numbers]
        self.rows.append(row)
        self._strides.append(stride)
        self._whole.extend((*addresses, *kinds, row.form, stride))
        self._numbers.extend(numbers)
        return True

    def measured(self, histograms: bool) -> Packed:
        """Measure all of them on all threads that torch has."""
        threads, strides = torch.get_num_threads(), tuple(self._strides)
        cut = tasks_of(tuple([row.numel for row in self.rows]), strides, threads)
        packed = Packed.room(len(self.rows), _HOST, histograms=histograms)
        packed.strides = [max(stride, 1) for stride in strides]
        at = packed.memory.data_ptr()
        run(cut, self._whole, self._numbers, at, at + packed.layout.split, threads)
        return packed
