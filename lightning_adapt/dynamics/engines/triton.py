"""The Triton engine: every tensor read once, one launch for all rows whose tensors have the same dtypes.

A reading is three launches for a combination of dtypes, and one more for each further combination: counts
are set to 0 and numbers that only the device knows are put into the table; each block of a row, 2^14 elements
or fewer, is measured (once for each combination); blocks are merged into rows, in the very memory that is
copied to the host. One table tells them what to read, see `triton_launch`.

Arithmetic is fp32 where that decides the same as float64, else float64 (see `triton_fast`). Sums are added up
in a fixed order, histograms are integers: results repeat bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines import eager
from lightning_adapt.dynamics.engines.descriptors import HAS_DECAY, SLOTS, Descriptor, describe
from lightning_adapt.dynamics.engines.packed import Packed, concatenated
from lightning_adapt.dynamics.engines.steady import SteadyRows
from lightning_adapt.dynamics.engines.triton_kernel import measure_blocks
from lightning_adapt.dynamics.engines.triton_launch import (
    DTYPES,
    NARROW,
    Combination,
    Numbers,
    Plan,
    Shape,
    combination,
)
from lightning_adapt.dynamics.histograms import sample_stride

#: Elements of a block: what one program measures. Large, so that figures of blocks are few bytes beside the
#: elements (0.2 % of them); small enough that 100 M elements are many more programs than run at a time.
BLOCK = 1 << 14
#: Elements of a block that are counted at most, which takes far longer than measuring them.
COUNTED_BLOCK = 1 << 11
#: Measure what there is when rules have computed so many bytes for it.
MOST_TEMPORARY = 1 << 25
#: Plans kept: one for each optimizer that is watched, times the combinations of tensors that come by turns.
_KEPT = 16

# With TRITON_INTERPRET=1 kernels are interpreted, on the host.
_INTERPRETED = not isinstance(measure_blocks, triton.JITFunction)


def measure(rows: Iterable[Row], *, histograms: bool = True) -> Packed:
    """Measure ``rows`` with Triton kernels; rows that these cannot read are measured by `eager`.

    Args:
        rows: Consumed one by one, unless they are steady. They are held until they are launched together,
            which is at the end, or when a rule has computed much for them.
        histograms: Also count; without counts the quantile columns are NaN.

    Returns:
        The packed figures, on the device of the first row.
    """
    if isinstance(rows, SteadyRows) and _readable(rows):
        return _steadily(rows, histograms)
    batch = _Batch(histograms)
    with torch.no_grad():
        for row in rows:
            batch.add(row)
        return batch.packed()


def _there(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _whose(device: torch.device) -> tuple[int, int]:
    """A stream, a thread: nobody overwrites a table that somebody else's kernel still reads."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return stream, threading.get_ident()


def _shape(shape: tuple[int, ...], numel: int, read_by: Combination, histograms: bool) -> Shape:
    stride = sample_stride(shape)
    block = min(BLOCK, COUNTED_BLOCK * stride) if histograms else BLOCK
    return Shape(numel, stride, block, read_by)


# --- rows that are as they were at the reading before ---


def _readable(rows: SteadyRows) -> bool:
    """Whether the kernels can read all of them."""
    steady = rows.steady
    if "triton" not in steady.plans:
        known = {dtype for each in steady.dtypes for dtype in each} <= {None, *DTYPES}
        steady.plans["triton"] = known and (steady.device.type == "cuda" or _INTERPRETED)
    return bool(steady.plans["triton"])


def _steadily(rows: SteadyRows, histograms: bool) -> Packed:
    """Measure ``rows``, of which only addresses and numbers are new."""
    steady = rows.steady
    known = np.array(rows.addresses, dtype=np.int64)
    addresses, counts = known[: -len(steady.infos)].reshape(-1, len(SLOTS)), known[-len(steady.infos) :]
    aligned = np.bitwise_or.reduce(addresses, axis=1) % 16 == 0
    key = ("triton", histograms, aligned.tobytes(), _whose(steady.device))
    with _there(steady.device):
        if key not in steady.plans:
            if len(steady.plans) > _KEPT:
                steady.plans.clear()
            each = zip(steady.dtypes, steady.forms, aligned.tolist(), strict=True)
            read_by = [combination(dtypes, form & ~HAS_DECAY, even) for dtypes, form, even in each]
            about = zip(steady.infos, steady.numels, read_by, strict=True)
            shapes = [_shape(info.shape, numel, reads, histograms) for info, numel, reads in about]
            narrow = NARROW * np.array([dtype == torch.float32 for dtype in steady.counts])
            about_rows = np.array(steady.families), np.array(steady.places), narrow
            steady.plans[key] = Plan(shapes, steady.device), [shape.stride for shape in shapes], *about_rows
        plan, strides, which, places, narrow = steady.plans[key]
        numbers = Numbers.of(rows.numbers, which, places, steady.device, counts + narrow)
        packed: Packed = plan.launch(addresses, numbers, histograms)
    packed.strides = strides if histograms else [1] * len(strides)
    return packed


# --- rows one by one ---


@dataclass(slots=True)
class _Entry:
    """A row that waits for its launch."""

    place: int
    shape: Shape
    row: Descriptor
    addresses: list[int]


@dataclass
class _Batch:
    """Rows under way."""

    histograms: bool
    measured: list[tuple[list[int], Packed]] = field(default_factory=list)
    waiting: dict[torch.device, list[_Entry]] = field(default_factory=dict)
    strides: list[int] = field(default_factory=list)
    temporary: int = 0

    @property
    def rows(self) -> int:
        """Rows taken in so far."""
        return len(self.strides)

    def add(self, row: Row) -> None:
        """Take in one row."""
        place, descriptor, device = self.rows, describe(row), row.parameter.device
        self.strides.append(1)
        found = _found(descriptor, device)
        if found is None:
            self.measured.append(([place], eager.measure([row], histograms=self.histograms)))
            return
        addresses, read_by = found
        shape = _shape(row.parameter.shape, descriptor.numel, read_by, self.histograms)
        if self.histograms:
            self.strides[place] = shape.stride
        self.waiting.setdefault(device, []).append(_Entry(place, shape, descriptor, addresses))
        self.temporary += row.temporary
        if self.temporary >= MOST_TEMPORARY:
            self._launch()

    def packed(self) -> Packed:
        """Everything, in the order of the rows."""
        self._launch()
        if not self.measured:
            return eager.measure([], histograms=self.histograms)
        if len(self.measured) == 1:
            return replace(self.measured[0][1], strides=self.strides)
        places = [place for measured, _ in self.measured for place in measured]
        packed = concatenated([packed for _, packed in self.measured])
        order = np.argsort(places).tolist()  # on the host: an index would have to be sent to the device

        def ordered(rows: Tensor) -> Tensor:
            each = rows.unbind()
            return torch.stack([each[i] for i in order])

        counts = None if packed.counts is None else ordered(packed.counts)
        return Packed.of(ordered(packed.figures), counts, self.strides)

    def _launch(self) -> None:
        for device, entries in self.waiting.items():
            places = [entry.place for entry in entries]
            with _there(device):
                self.measured.append((places, _launch(entries, device, self.histograms)))
        self.waiting, self.temporary = {}, 0


def _found(row: Descriptor, device: torch.device) -> tuple[list[int], Combination] | None:
    """Where the tensors of a row lie, and what reads them; ``None`` where the kernels cannot."""
    if device.type != "cuda" and not _INTERPRETED:
        return None
    addresses: list[int] = []
    dtypes: list[torch.dtype | None] = []
    aligned = 0
    for x in row.tensors:
        if x is None:
            addresses.append(0)
            dtypes.append(None)
        elif x.dtype in DTYPES and x.device == device and x.numel() == row.numel:
            addresses.append(x.data_ptr())
            dtypes.append(x.dtype)
            aligned |= addresses[-1]
        else:
            return None
    return addresses, combination(tuple(dtypes), row.form & ~HAS_DECAY, aligned % 16 == 0)


_plans: dict[object, Plan] = {}


def _launch(entries: Sequence[_Entry], device: torch.device, histograms: bool) -> Packed:
    """Measure rows of one device; the n-th of ``entries`` is the n-th row of the result."""
    shapes = tuple([entry.shape for entry in entries])
    key = (device, _whose(device), shapes)
    plan = _plans.pop(key, None) or Plan(shapes, device)
    _plans[key] = plan
    while len(_plans) > _KEPT:
        del _plans[next(iter(_plans))]
    addresses = np.array([entry.addresses for entry in entries], dtype=np.int64)
    each, one = np.arange(len(entries)), np.zeros(len(entries), dtype=np.int64)
    numbers = Numbers.of([entry.row.scalars for entry in entries], each, one, device)
    return plan.launch(addresses, numbers, histograms)
