"""The engine for tensors on the host: one compiled pass, on all cores that torch may use."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row, host_number
from lightning_adapt.dynamics.engines import eager
from lightning_adapt.dynamics.engines.cpu._compiled import ABSENT, BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from lightning_adapt.dynamics.engines.cpu._job import JOB, begin, job_of, room_beside
from lightning_adapt.dynamics.engines.cpu._pass import run
from lightning_adapt.dynamics.engines.cpu._tasks import tasks_of
from lightning_adapt.dynamics.engines.descriptors import PLAIN, Descriptor, describe
from lightning_adapt.dynamics.engines.packed import Packed, concatenated, layout_of
from lightning_adapt.dynamics.engines.steady import Steady, SteadyRows
from lightning_adapt.dynamics.histograms import sample_stride
from lightning_adapt.dynamics.step_counts import Corrected
from lightning_adapt.dynamics.table import RowInfo

_KINDS = {
    None: ABSENT,
    torch.float32: FLOAT32,
    torch.bfloat16: BFLOAT16,
    torch.float16: FLOAT16,
    torch.float64: FLOAT64,
}

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
    if isinstance(rows, SteadyRows):
        packed = _steadily(rows, histograms)
        if packed is not None:
            return packed
    with torch.no_grad():
        return _one_by_one(rows, histograms)


def _one_by_one(rows: Iterable[Row], histograms: bool) -> Packed:
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
        self._addresses, self._facts, self._numbers = array("q"), array("q"), array("d")

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
        numbers = _known(row.scalars)
        if numbers is None:
            return False
        self._facts.extend((*kinds, row.form, stride, len(self.rows), ABSENT))
        self.rows.append(row)
        self._strides.append(stride)
        self._addresses.extend(addresses)
        self._numbers.extend(numbers)
        return True

    def measured(self, histograms: bool) -> Packed:
        """Measure all of them on all threads that torch has."""
        sizes = tuple([row.numel for row in self.rows])
        plan = _Plan(sizes, tuple(self._strides), self._facts, histograms)
        packed = plan.measured(self._addresses, self._numbers)
        assert packed is not None
        return packed


def _known(numbers: Sequence[Any]) -> Sequence[float] | None:
    """The numbers of a family, beta in the place of what follows from each row's count; last which those are.

    ``None`` if the host does not know them.
    """
    if PLAIN.issuperset(map(type, numbers)):
        return (*numbers, 0.0)
    known: list[float] = []
    corrected = 0
    for place, x in enumerate(numbers):
        if isinstance(x, Corrected):
            corrected |= 1 << place
            known.append(x.beta)
        elif isinstance(x, Tensor) and not (x.is_cpu and x.numel() == 1):
            return None
        else:
            known.append(host_number(x) if isinstance(x, Tensor) else float(x))
    return (*known, float(corrected))


class _Plan:
    """How rows are measured, wherever their tensors are and whatever their numbers.

    Args:
        sizes: Elements of each row.
        strides: Of their histograms.
        facts: `ROW` for each row, see `run`.
        histograms: Whether to count.
    """

    def __init__(
        self, sizes: tuple[int, ...], strides: tuple[int, ...], facts: array[int], histograms: bool
    ) -> None:
        self._sizes, self._strides, self._facts = sizes, strides, facts
        self._layout = layout_of(len(sizes), histograms)
        self._sampled = [max(stride, 1) for stride in strides]
        self._threads = 0
        self._spare: list[tuple[array[int], array[int]]] = []
        self._told: tuple[Sequence[Any], array[float]] = (), array("d")

    @classmethod
    def of(cls, steady: Steady, histograms: bool) -> _Plan | None:
        """``None`` if the pass does not read these rows."""
        dtypes = {dtype for each in steady.dtypes for dtype in each}
        if steady.device.type != "cpu" or not dtypes <= _KINDS.keys():
            return None
        strides = tuple([sample_stride(info.shape) if histograms else 0 for info in steady.infos])
        facts = array("q")
        rows = zip(steady.dtypes, steady.forms, strides, steady.families, steady.counts, strict=True)
        for each, form, stride, family, count in rows:
            facts.extend((*[_KINDS[dtype] for dtype in each], form, stride, family, _KINDS[count]))
        return cls(steady.numels, strides, facts, histograms)

    def numbers(self, families: Sequence[Sequence[Any]]) -> array[float] | None:
        """Those of all families as the pass takes them, made anew if they are not the very ones of before."""
        told, numbers = self._told
        if len(told) == len(families) and all(map(is_, told, families)):
            return numbers
        numbers = array("d")
        for family in families:
            known = _known(family)
            if known is None:
                return None
            numbers.extend(known)
        if not any(isinstance(x, Tensor) for family in families for x in family):
            self._told = families, numbers
        return numbers

    def measured(self, addresses: array[int], numbers: array[float]) -> Packed | None:
        """Measure all rows on all threads that torch has; ``None`` if some row was never stepped."""
        threads = torch.get_num_threads()
        if threads != self._threads:
            self._cut, self._spare = tasks_of(self._sizes, self._strides, threads), []
            self._threads = threads
        cut, spare, layout = self._cut, self._spare, self._layout
        try:
            beside, job = spare.pop()  # nobody else has it now
        except IndexError:
            beside = room_beside(cut, histograms=any(self._strides))
            job = job_of(cut, beside, self._facts)
        memory = torch.empty(layout.size, dtype=torch.uint8, device=_HOST)
        figures = memory.data_ptr()
        begin(job, addresses, numbers, figures, figures + layout.split)
        run(job, threads if len(cut.pieces) > 1 else 1)
        unbegun = job[JOB.unbegun]
        spare.append((beside, job))
        return None if unbegun else Packed(memory, layout, strides=self._sampled)


def _steadily(rows: SteadyRows, histograms: bool) -> Packed | None:
    """Measure ``rows``, of which addresses and numbers are new; ``None`` if they must be read one by one."""
    plans, key = rows.steady.plans, ("numba", histograms)
    if key not in plans:
        plans[key] = _Plan.of(rows.steady, histograms)
    plan: _Plan | None = plans[key]
    if plan is None:
        return None
    numbers = plan.numbers(rows.numbers)
    return None if numbers is None else plan.measured(array("q", rows.addresses), numbers)
