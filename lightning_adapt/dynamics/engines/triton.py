"""The Triton engine: every tensor read once, one launch for all rows whose tensors have the same dtypes.

A reading is three launches for a combination of dtypes, and one more for each further combination: counts
are set to 0 and numbers that only the device knows are put into the table; each block of a row, 2^14 elements
or fewer, is measured (once for each combination); blocks are merged into rows, in the very memory that is
copied to the host. What goes to the device is one table of int64, in an asynchronous copy of pinned memory:

====================  =======================  ===========================================================
section               size                     sent
====================  =======================  ===========================================================
numbers of the rows   rows × `SCALARS`         always; bits of fp64
their addresses       rows × `SCALARS`         always; 0 where the host knows the number
addresses of tensors  rows × `SLOTS`           when a tensor has moved
facts of the rows     rows × 6                 when shapes or dtypes change: elements, stride of the
                                               histogram sample, row of the result, first block, blocks,
                                               elements of a block
row of each block     blocks                   with the facts
====================  =======================  ===========================================================

Arithmetic is fp32 where that decides the same as float64, else float64 (see `triton_fast`). Sums are added up
in a fixed order, histograms are integers: results repeat bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row, Scalar, host_number
from lightning_adapt.dynamics.engines import eager
from lightning_adapt.dynamics.engines.descriptors import (
    HAS_DECAY,
    PLAIN,
    SCALARS,
    SLOTS,
    Descriptor,
    describe,
)
from lightning_adapt.dynamics.engines.packed import FIGURES, Packed, concatenated
from lightning_adapt.dynamics.engines.triton_kernel import begin, measure_blocks, merge_blocks
from lightning_adapt.dynamics.histograms import sample_stride

#: Elements of a block: what one program measures. Large, so that figures of blocks are few bytes beside the
#: elements (0.2 % of them); small enough that 100 M elements are many more programs than run at a time.
BLOCK = 1 << 14
#: Elements of a block that are counted at most, which takes far longer than measuring them.
COUNTED_BLOCK = 1 << 11
WARPS = 4
#: Elements a program works on at a time, for each 16 bytes that a thread loads of the widest tensor.
TILE_OF_ONE = 32 * WARPS
#: The same in float64: one element a thread, for it needs twice the registers.
WIDE = 32 * WARPS
#: Elements that are counted at a time: two a thread, so that one does not wait for the arithmetic of each.
COUNTED = 64 * WARPS
#: Figures of a row that one program merges.
MERGED = 4
#: Measure what there is when rules have computed so many bytes for it.
MOST_TEMPORARY = 1 << 25
#: Tables kept: one for each optimizer that is watched, times the combinations of tensors that come by turns.
_KEPT = 16

_DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float64: tl.float64,
}
_CENTERING, _RATE = SLOTS.index("centering"), SLOTS.index("effective_lr")
_L2 = SCALARS.index("l2")

# With TRITON_INTERPRET=1 kernels are interpreted, on the host.
_INTERPRETED = not isinstance(measure_blocks, triton.JITFunction)


def measure(rows: Iterable[Row], *, histograms: bool = True) -> Packed:
    """Measure ``rows`` with Triton kernels; rows that these cannot read are measured by `eager`.

    Args:
        rows: Consumed one by one. They are held until they are launched together, which is at the end, or
            when a rule has computed much for them.
        histograms: Also count; without counts the quantile columns are NaN.

    Returns:
        The packed figures, on the device of the first row.
    """
    batch = _Batch(histograms)
    with torch.no_grad():
        for row in rows:
            batch.add(row)
        return batch.packed()


@dataclass(frozen=True, eq=False)
class _Combination:
    """What a kernel is compiled for; there is only one of each, see `_combination`."""

    dtypes: tuple[torch.dtype | None, ...]
    form: int
    aligned: bool

    @property
    def fast(self) -> bool:
        """Whether fp32 arithmetic can decide anything; centering subtracts numbers of the same size."""
        wide = any(d == torch.float64 for i, d in enumerate(self.dtypes) if i != _RATE)
        return not wide and self.dtypes[_CENTERING] is None

    @property
    def each(self) -> int:
        """Elements a thread loads at once, 16 bytes of the widest tensor."""
        return 4 if any(d is not None and d.itemsize > 2 for d in self.dtypes) else 8


@cache
def _combination(dtypes: tuple[torch.dtype | None, ...], form: int, aligned: bool) -> _Combination:
    return _Combination(dtypes, form, aligned)


@dataclass(slots=True)
class _Entry:
    """A row that waits for its launch."""

    place: int
    stride: int
    block: int
    row: Descriptor
    addresses: list[int]
    combination: _Combination


@dataclass
class _Table:
    """The table on the device, and what the host knows of it."""

    device: Tensor
    facts: npt.NDArray[np.int64]
    blocks: int
    addresses: npt.NDArray[np.int64]


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
        addresses, combination = found
        stride = sample_stride(row.parameter.shape)
        if self.histograms:
            self.strides[place] = stride
        block = min(BLOCK, COUNTED_BLOCK * stride) if self.histograms else BLOCK
        entry = _Entry(place, stride, block, descriptor, addresses, combination)
        self.waiting.setdefault(device, []).append(entry)
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
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                self.measured.append((places, _launch(entries, device, self.histograms)))
        self.waiting, self.temporary = {}, 0


def _found(row: Descriptor, device: torch.device) -> tuple[list[int], _Combination] | None:
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
        elif x.dtype in _DTYPES and x.device == device and x.numel() == row.numel:
            addresses.append(x.data_ptr())
            dtypes.append(x.dtype)
            aligned |= addresses[-1]
        else:
            return None
    return addresses, _combination(tuple(dtypes), row.form & ~HAS_DECAY, aligned % 16 == 0)


def _launch(entries: list[_Entry], device: torch.device, histograms: bool) -> Packed:
    """Measure rows of one device; the n-th of ``entries`` is the n-th row of the result."""
    groups: dict[_Combination, list[int]] = {}
    for place, entry in enumerate(entries):
        groups.setdefault(entry.combination, []).append(place)
    order = [place for places in groups.values() for place in places]
    table, on_device = _send([entries[place] for place in order], order, device)
    rows, blocks = len(entries), table.blocks
    packed = Packed.room(rows, device, histograms=histograms)
    counts = packed.counts
    size = 0 if counts is None else counts.numel()
    if size or on_device:
        start: Any = begin[(triton.cdiv(max(size, rows * len(SCALARS)), 1024),)]
        start(
            table.device,
            table.device if counts is None else counts,
            rows,
            size,
            FETCH=on_device,
            SIZE=1024,
            enable_fp_fusion=True,
        )
    partials = torch.empty(FIGURES, blocks, dtype=torch.float64, device=device)
    first, done = 0, 0
    for combination, places in groups.items():
        done += len(places)
        after = int(table.facts[done, 3]) if done < rows else blocks
        if after > first:
            has_l2 = any(entries[place].row.scalars[_L2] for place in places)
            _launch_combination(table, partials, counts, (first, after), combination, has_l2)
        first = after
    merge: Any = merge_blocks[(rows, triton.cdiv(FIGURES, MERGED))]
    merge(table.device, partials, packed.figures, rows, blocks, SIZE=128, EACH=MERGED, enable_fp_fusion=True)
    return packed


def _launch_combination(
    table: _Table,
    partials: Tensor,
    counts: Tensor | None,
    blocks: tuple[int, int],
    combination: _Combination,
    has_l2: bool,
) -> None:
    each = combination.each
    launch: Any = measure_blocks[(blocks[1] - blocks[0],)]
    launch(
        table.device,
        partials,
        partials if counts is None else counts,
        len(table.facts),
        table.blocks,
        blocks[0],
        *(None if dtype is None else _DTYPES[dtype] for dtype in combination.dtypes),
        FORM=combination.form,
        HAS_L2=has_l2,
        ALIGNED=combination.aligned,
        FAST=combination.fast,
        HISTOGRAMS=counts is not None,
        TILE=each * TILE_OF_ONE,
        EACH=each,
        WIDE=WIDE,
        COUNTED=COUNTED,
        num_warps=WARPS,
        enable_fp_fusion=True,  # said, because its default differs between versions of Triton
    )


_tables: dict[object, _Table] = {}


def _send(entries: list[_Entry], places: list[int], device: torch.device) -> tuple[_Table, bool]:
    """Bring the table up to date in one copy; says whether it names numbers on the device."""
    numbers, whereabouts = _scalars(entries, device)
    addresses = np.array([entry.addresses for entry in entries], dtype=np.int64)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    facts = tuple(
        (e.row.numel, e.stride, e.block, p, e.combination) for e, p in zip(entries, places, strict=True)
    )
    # A stream, a thread: nobody overwrites a table that somebody else's kernel still reads.
    key = (device, stream, threading.get_ident(), facts)
    table = _tables.pop(key, None)
    parts = [numbers.view(np.int64).ravel(), whereabouts.ravel()]
    if table is None:
        table, owners = _new_table(entries, places, addresses, device)
        parts += [addresses.ravel(), table.facts.ravel(), owners]
    elif not np.array_equal(addresses, table.addresses):
        parts.append(addresses.ravel())
    table.addresses, _tables[key] = addresses, table
    while len(_tables) > _KEPT:
        del _tables[next(iter(_tables))]
    _copy(np.concatenate(parts), table.device)
    return table, bool(whereabouts.any())


def _copy(words: npt.NDArray[np.int64], table: Tensor) -> None:
    """Overwrite the beginning of the table, without waiting."""
    staged = torch.empty(len(words), dtype=torch.int64, pin_memory=table.device.type == "cuda")
    staged.numpy()[:] = words
    table[: len(words)].copy_(staged, non_blocking=True)


def _new_table(
    entries: list[_Entry], places: list[int], addresses: npt.NDArray[np.int64], device: torch.device
) -> tuple[_Table, npt.NDArray[np.int64]]:
    """A table that nothing was sent to yet, and the row of each block."""
    numels = np.array([entry.row.numel for entry in entries], dtype=np.int64)
    sizes = np.array([entry.block for entry in entries], dtype=np.int64)
    blocks = -(-numels // sizes)
    first = np.concatenate([[0], np.cumsum(blocks)[:-1]])
    facts = np.stack([numels, [entry.stride for entry in entries], places, first, blocks, sizes], axis=1)
    owners = np.repeat(np.arange(len(entries), dtype=np.int64), blocks)
    size = len(entries) * (2 * len(SCALARS) + len(SLOTS)) + facts.size + len(owners)
    return _Table(torch.empty(size, dtype=torch.int64, device=device), facts, len(owners), addresses), owners


def _scalars(
    entries: list[_Entry], device: torch.device
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The numbers of all rows, and the addresses of those that only the device knows (odd: fp32)."""
    whereabouts = np.zeros((len(entries), len(SCALARS)), dtype=np.int64)
    numbers: list[Sequence[Scalar]] = []
    for i, entry in enumerate(entries):
        known: Sequence[Scalar] = entry.row.scalars
        if not PLAIN.issuperset(map(type, known)):
            settled = [_settled(value, device) for value in known]
            entry.row.scalars = tuple(settled)  # kept alive until the launch
            whereabouts[i] = [_whereabouts(value) for value in settled]
            known = [0.0 if isinstance(value, Tensor) else value for value in settled]
        numbers.append(known)
    return np.array(numbers, dtype=np.float64), whereabouts


def _settled(value: Scalar, device: torch.device) -> Scalar:
    """A number, or a tensor on ``device`` that kernels can read."""
    if type(value) in PLAIN or not isinstance(value, Tensor):
        return value
    if value.device != device:
        if value.is_cpu:
            return host_number(value)
        value = value.to(device, non_blocking=True)
    return value if value.dtype in (torch.float32, torch.float64) else value.double()


def _whereabouts(value: Scalar) -> int:
    return value.data_ptr() + (value.dtype == torch.float32) if isinstance(value, Tensor) else 0
