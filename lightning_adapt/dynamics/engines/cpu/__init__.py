"""The engine for tensors on the host: one compiled pass, on all cores that torch may use."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row, Scalar
from lightning_adapt.dynamics.engines import eager
from lightning_adapt.dynamics.engines.cpu._compiled import ABSENT, BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from lightning_adapt.dynamics.engines.cpu._pass import run
from lightning_adapt.dynamics.engines.cpu._tasks import tasks_of
from lightning_adapt.dynamics.engines.descriptors import PLAIN, Descriptor, describe
from lightning_adapt.dynamics.engines.packed import Packed, concatenated
from lightning_adapt.dynamics.engines.steady import Steady, SteadyRows
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
    if isinstance(rows, SteadyRows):
        packed = _steadily(rows, histograms)
        if packed is not None:
            return packed
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
        self._facts.extend((*kinds, row.form, stride, len(self.rows)))
        self.rows.append(row)
        self._strides.append(stride)
        self._addresses.extend(addresses)
        self._numbers.extend(numbers)
        return True

    def measured(self, histograms: bool) -> Packed:
        """Measure all of them on all threads that torch has."""
        sizes = tuple([row.numel for row in self.rows])
        return _run(sizes, tuple(self._strides), self._facts, self._addresses, self._numbers, histograms)


def _known(numbers: Sequence[Scalar]) -> Sequence[float] | None:
    """Numbers that the host knows; ``None`` if some are on a device."""
    if PLAIN.issuperset(map(type, numbers)):
        return numbers  # type: ignore[return-value]
    if any(isinstance(x, Tensor) and not x.is_cpu for x in numbers):
        return None
    return [float(x) for x in numbers]


def _run(
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    facts: array[int],
    addresses: array[int],
    numbers: array[float],
    histograms: bool,
) -> Packed:
    threads = torch.get_num_threads()
    packed = Packed.room(len(sizes), _HOST, histograms=histograms)
    packed.strides = [max(stride, 1) for stride in strides]
    at = packed.memory.data_ptr()
    run(tasks_of(sizes, strides, threads), facts, addresses, numbers, at, at + packed.layout.split, threads)
    return packed


def _steadily(rows: SteadyRows, histograms: bool) -> Packed | None:
    """Measure ``rows``, of which only addresses and numbers are new; ``None`` if the pass does not read them."""
    steady, key = rows.steady, ("numba", histograms)
    if key not in steady.plans:
        steady.plans[key] = _planned(steady, histograms)
    plan = steady.plans[key]
    numbers = array("d")
    for family in rows.numbers:
        known = _known(family)
        if known is None:
            return None
        numbers.extend(known)
    if plan is None:
        return None
    strides, facts = plan
    return _run(steady.numels, strides, facts, array("q", rows.addresses), numbers, histograms)


def _planned(steady: Steady, histograms: bool) -> tuple[tuple[int, ...], array[int]] | None:
    """The strides of the histograms, and what `run` has to know of each row."""
    strides = tuple([sample_stride(info.shape) if histograms else 0 for info in steady.infos])
    facts = array("q")
    for dtypes, form, stride, family in zip(steady.dtypes, steady.forms, strides, steady.families, strict=True):
        if steady.device.type != "cpu" or not _KINDS.keys() >= {dtype for dtype in dtypes if dtype is not None}:
            return None
        facts.extend((*[ABSENT if dtype is None else _KINDS[dtype] for dtype in dtypes], form, stride, family))
    return strides, facts
