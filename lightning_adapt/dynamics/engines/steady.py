"""Rows that are as they were at the reading before: kernels need only addresses and numbers anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import torch

from lightning_adapt.dynamics.canonical import Row, Scalar
from lightning_adapt.dynamics.table import RowInfo


@dataclass(eq=False)
class Steady:
    """What stays the same of rows from one reading to the next; as long as it does, it is the same object.

    Args:
        infos: One a row.
        dtypes: Of the tensors of each row, one for each of `SLOTS`, which have the elements of the parameter
            in the same order and no gaps.
        forms: Of the step of each row, see `descriptors`.
        families: Which of `SteadyRows.numbers` are those of each row.
        places: Which entry of them, where they are vectors.
        counts: Dtype of the step count of each row; ``None`` where there is no step, or engines cannot read
            the count where it is.
        device: Of all tensors.
        plans: What engines make of all that, each under a key of its own.
    """

    infos: tuple[RowInfo, ...]
    dtypes: tuple[tuple[torch.dtype | None, ...], ...]
    forms: tuple[int, ...]
    families: tuple[int, ...]
    places: tuple[int, ...]
    counts: tuple[torch.dtype | None, ...]
    device: torch.device
    plans: dict[object, Any] = field(default_factory=dict)

    @cached_property
    def numels(self) -> tuple[int, ...]:
        """Elements of each row."""
        return tuple(math.prod(info.shape) for info in self.infos)

    def sampled(self, strides: tuple[int, ...]) -> tuple[RowInfo, ...]:
        """As the function of that name."""
        key = ("sampled", strides)
        if key not in self.plans:
            self.plans[key] = sampled(self.infos, strides)
        found: tuple[RowInfo, ...] = self.plans[key]
        return found


def sampled(infos: Sequence[RowInfo], strides: Sequence[int]) -> tuple[RowInfo, ...]:
    """Rows whose histograms are of every so-manyth element; no ``strides``: of all."""
    return (
        tuple([_sampled(info, stride) for info, stride in zip(infos, strides, strict=True)])
        if strides
        else tuple(infos)
    )


@lru_cache(maxsize=1 << 14)  # the same for every reading of a run
def _sampled(info: RowInfo, stride: int) -> RowInfo:
    return info if stride == 1 else replace(info, histogram_stride=stride)


@dataclass(eq=False)
class SteadyRows:
    """The rows of one reading; an engine that cannot make use of ``steady`` iterates over them.

    Args:
        steady: What is as before.
        addresses: Of the tensors, one for each of `SLOTS` of each row, then of the step counts, one a row; 0
            where there is none. They are kept alive by ``remade``.
        numbers: Of each family, one for each of `SCALARS`: numbers, `Corrected` for numbers that follow from
            the count of each row, device scalars or, where steps are counted on the device, vectors. A count
            that lies on the host may be below 1 by now: such rows have to be read one by one.
        remade: Yields the rows, made for whoever wants to see them.
    """

    steady: Steady
    addresses: Sequence[int]
    numbers: Sequence[tuple[Scalar, ...]]
    remade: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows."""
        return self.remade()
