"""What is launched for rows whose tensors may be anywhere, and the table that tells kernels where they are.

What goes to the device is one table of int64, in an asynchronous copy of pinned memory:

====================  =======================  ===========================================================
section               size                     sent
====================  =======================  ===========================================================
numbers of the rows   rows × `SCALARS`         always; bits of fp64
their addresses       rows × `SCALARS`         always; 0 where the host knows the number
addresses of tensors  rows × `SLOTS`           when a tensor has moved
facts of the rows     rows × 6                 once: elements, stride of the histogram sample, row of the
                                               result, first block, blocks, elements of a block
row of each block     blocks                   with the facts
====================  =======================  ===========================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_adapt.dynamics.canonical import Scalar, host_number
from lightning_adapt.dynamics.engines.descriptors import PLAIN, SCALARS, SLOTS
from lightning_adapt.dynamics.engines.packed import FIGURES, Packed
from lightning_adapt.dynamics.engines.triton_kernel import begin, measure_blocks, merge_blocks
from lightning_adapt.dynamics.histograms import FloatArray, IntArray
from lightning_adapt.dynamics.step_counts import Corrected

WARPS = 4
#: Elements a program works on at a time, for each 16 bytes that a thread loads of the widest tensor.
TILE_OF_ONE = 32 * WARPS
#: The same in float64: one element a thread, for it needs twice the registers.
WIDE = 32 * WARPS
#: Elements that are counted at a time: two a thread, so that one does not wait for the arithmetic of each.
COUNTED = 64 * WARPS
#: Figures of a row that one program merges.
MERGED = 4

DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float64: tl.float64,
}
#: Flags in an address: an fp32 number is there, else fp64; or a step count, ``1 / (1 - beta**t)`` is wanted.
NARROW, CORRECTS = 1, 2
_CENTERING, _RATE = SLOTS.index("centering"), SLOTS.index("effective_lr")
_L2 = SCALARS.index("l2")


@dataclass(frozen=True, eq=False)
class Combination:
    """What a kernel is compiled for; there is only one of each, see `combination`."""

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
def combination(dtypes: tuple[torch.dtype | None, ...], form: int, aligned: bool) -> Combination:
    """The only `Combination` of these."""
    return Combination(dtypes, form, aligned)


class Shape(NamedTuple):
    """What there is to know of a row beside its addresses and numbers.

    Args:
        numel: Elements.
        stride: Every so-manyth is counted.
        block: Elements that one program measures.
        combination: What reads them.
    """

    numel: int
    stride: int
    block: int
    combination: Combination


@dataclass
class Numbers:
    """The numbers of rows, one for each of `SCALARS`.

    Args:
        known: Shape ``(rows, SCALARS)``, float64; of bias corrections beta.
        whereabouts: Of the same shape, int64: addresses of those that only the device knows, with `NARROW`
            and `CORRECTS`; 0 of the others.
        alive: What lies there.
    """

    known: FloatArray
    whereabouts: IntArray
    alive: list[Any]

    @classmethod
    def of(
        cls,
        families: Sequence[Sequence[Scalar]],
        which: IntArray,
        places: IntArray,
        device: torch.device,
        counts: IntArray | None = None,
    ) -> Numbers:
        """Numbers that rows have in common.

        Args:
            families: One entry for each of `SCALARS`: a number, a tensor with one or many, or `Corrected`.
            which: Of these are those of each row.
            places: Which entry of a tensor with many.
            device: Where they are read.
            counts: Addresses of the step counts of rows, for what is `Corrected`; with `NARROW`.
        """
        size = (len(families), len(SCALARS))
        whereabouts, apart = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        alive: list[Any] = []
        numbers: list[Sequence[float]] = []
        corrected = np.zeros(size, dtype=np.bool_)
        for i, family in enumerate(families):
            known: Sequence[Any] = family
            if not PLAIN.issuperset(map(type, known)):
                settled = [_settled(value, device) for value in known]
                alive.append(settled)
                whereabouts[i] = [_whereabouts(value) for value in settled]
                apart[i] = [_apart(value) for value in settled]
                corrected[i] = [isinstance(value, Corrected) for value in settled]
                known = [_known(value) for value in settled]
            numbers.append(known)
        there = whereabouts[which] + places[:, None] * apart[which]
        if counts is not None and corrected.any():
            np.copyto(there, counts[:, None] + CORRECTS, where=corrected[which])
        return cls(np.array(numbers, dtype=np.float64)[which], there, alive)


def _settled(value: Any, device: torch.device) -> Any:
    """A number, or a tensor on ``device`` that kernels can read, or `Corrected`."""
    if type(value) in PLAIN or not isinstance(value, Tensor):
        return value
    if value.device != device:
        if value.is_cpu and value.numel() == 1:
            return host_number(value)
        value = value.to(device, non_blocking=True)
    return value if value.dtype in (torch.float32, torch.float64) else value.double()


def _known(value: Any) -> float:
    """What the host knows of it."""
    return value.beta if isinstance(value, Corrected) else 0.0 if isinstance(value, Tensor) else value


def _whereabouts(value: Any) -> int:
    narrow = isinstance(value, Tensor) and value.dtype == torch.float32
    return value.data_ptr() + NARROW * narrow if isinstance(value, Tensor) else 0


def _apart(value: Any) -> int:
    """Bytes from one entry to the next."""
    return value.element_size() * value.stride(0) if isinstance(value, Tensor) and value.numel() > 1 else 0


class Plan:
    """Blocks and launches for rows of one device, and the table there.

    Args:
        shapes: One a row.
        device: Of all their tensors.
    """

    def __init__(self, shapes: Sequence[Shape], device: torch.device) -> None:
        groups: dict[Combination, list[int]] = {}
        for place, shape in enumerate(shapes):
            groups.setdefault(shape.combination, []).append(place)
        order = [place for places in groups.values() for place in places]
        self._order, self._device = np.array(order), device
        numels = np.array([shapes[place].numel for place in order], dtype=np.int64)
        sizes = np.array([shapes[place].block for place in order], dtype=np.int64)
        strides = [shapes[place].stride for place in order]
        blocks = -(-numels // sizes)
        first = np.concatenate([[0], np.cumsum(blocks)])
        self._facts = np.stack([numels, strides, order, first[:-1], blocks, sizes], axis=1)
        self._owners = np.repeat(np.arange(len(order), dtype=np.int64), blocks)
        ends = np.cumsum([len(places) for places in groups.values()]).tolist()
        self._groups = [
            (combination, slice(end - len(places), end), (int(first[end - len(places)]), int(first[end])))
            for (combination, places), end in zip(groups.items(), ends, strict=True)
        ]
        size = len(order) * (2 * len(SCALARS) + len(SLOTS)) + self._facts.size + len(self._owners)
        self._table = torch.empty(size, dtype=torch.int64, device=device)
        self._sent: IntArray | None = None

    def launch(self, addresses: IntArray, numbers: Numbers, histograms: bool) -> Packed:
        """Measure the rows.

        Args:
            addresses: Shape ``(rows, SLOTS)``, int64.
            numbers: Of the rows.
            histograms: Also count.
        """
        known, whereabouts = numbers.known[self._order], numbers.whereabouts[self._order]
        self._send(known, whereabouts, addresses[self._order])
        rows, blocks = len(self._order), len(self._owners)
        packed = Packed.room(rows, self._device, histograms=histograms)
        counts, on_device = packed.counts, bool(whereabouts.any())
        size = 0 if counts is None else counts.numel()
        if size or on_device:
            start: Any = begin[(triton.cdiv(max(size, rows * len(SCALARS)), 1024),)]
            start(
                self._table,
                self._table if counts is None else counts,
                rows,
                size,
                FETCH=on_device,
                SIZE=1024,
                enable_fp_fusion=True,
            )
        partials = torch.empty(FIGURES, blocks, dtype=torch.float64, device=self._device)
        for combination, places, (first, end) in self._groups:
            if end > first:
                has_l2 = bool(known[places, _L2].any() or whereabouts[places, _L2].any())
                self._launch(partials, counts, (first, end), combination, has_l2)
        merge: Any = merge_blocks[(rows, triton.cdiv(FIGURES, MERGED))]
        merge(
            self._table, partials, packed.figures, rows, blocks, SIZE=128, EACH=MERGED, enable_fp_fusion=True
        )
        return packed

    def _launch(
        self,
        partials: Tensor,
        counts: Tensor | None,
        blocks: tuple[int, int],
        combination: Combination,
        has_l2: bool,
    ) -> None:
        each = combination.each
        launch: Any = measure_blocks[(blocks[1] - blocks[0],)]
        launch(
            self._table,
            partials,
            partials if counts is None else counts,
            len(self._order),
            len(self._owners),
            blocks[0],
            *(None if dtype is None else DTYPES[dtype] for dtype in combination.dtypes),
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

    def _send(self, known: FloatArray, whereabouts: IntArray, addresses: IntArray) -> None:
        """Bring the table up to date in one copy."""
        parts = [known.view(np.int64).ravel(), whereabouts.ravel()]
        if self._sent is None:
            parts += [addresses.ravel(), self._facts.ravel(), self._owners]
        elif not np.array_equal(addresses, self._sent):
            parts.append(addresses.ravel())
        copy(np.concatenate(parts), self._table)
        self._sent = addresses


def copy(words: npt.NDArray[np.int64], table: Tensor) -> None:
    """Overwrite the beginning of the table, without waiting."""
    staged = torch.empty(len(words), dtype=torch.int64, pin_memory=table.device.type == "cuda")
    staged.numpy()[:] = words
    table[: len(words)].copy_(staged, non_blocking=True)
