"""Rows kept from one reading to the next: as long as no tensor has changed, none is looked at for long."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from operator import attrgetter, is_, itemgetter
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines.descriptors import Descriptor, describe
from lightning_adapt.dynamics.engines.steady import Steady, SteadyRows
from lightning_adapt.dynamics.family import Family, FamilyRow
from lightning_adapt.dynamics.kept_numbers import KeptNumbers
from lightning_adapt.dynamics.rows import Circumstances, Member, build_rows
from lightning_adapt.dynamics.seen import Seen
from lightning_adapt.dynamics.step_counts import READABLE
from lightning_adapt.dynamics.update_rules import UpdateRule, rule_for

#: Readings until rows are kept again, at most, where they change from one to the next anyway.
_LONGEST_WAIT = 64


class KeptRows:
    """The rows of an optimizer, reading after reading.

    What is kept are facts and weak references, not tensors: which has which dtype, shape and place in a
    kernel's table. At each reading the tensors are taken from the parameters and the optimizer anew. Where
    those of its state are the very ones of the reading before, at the same addresses, and gradients look the
    same, rows are steady: kernels are told addresses and the numbers of families, and nothing is made row by
    row.

    Args:
        optimizer: Any torch optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._kept: _Kept | None = None
        self._lost, self._wait = 0, 0

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy begins anew: tensors of copies are others."""
        return KeptRows, (self._optimizer,)

    def forget(self) -> None:
        """Let go of all that is kept, with what engines made of it."""
        self._kept = None

    def rows(
        self, members: Sequence[Member], now: Circumstances, *, whole: Collection[str] = ()
    ) -> Iterable[Row]:
        """The rows of `build_rows`, which are `SteadyRows` where nothing has changed.

        Args:
            members: The same object as before, unless they are others.
            now: What is true for the whole step.
            whole: Names of parameters that must come in one row.
        """
        rule = rule_for(self._optimizer)
        if whole or rule is None or not rule.shared:
            return build_rows(self._optimizer, members, now, whole=whole)
        seen = Seen(self._optimizer, members, now)
        if self._kept is not None:
            steady = self._kept.again(seen, rule, partial(self._remade, seen, self._lost))
            if steady is not None:
                self._lost = 0
                return steady
            self._lose()
        self._wait -= 1
        return seen.rows() if self._wait >= 0 else self._noting(seen)

    def _remade(self, seen: Seen, lost: int) -> Iterator[Row]:
        """The rows one by one, for an engine that can make no use of what was kept."""
        self._lost = lost
        self._lose()
        return seen.rows()

    def _lose(self) -> None:
        """Once, that is worth a new try at once; where it goes on like that, ever less often."""
        self._kept, self._lost = None, self._lost + 1
        self._wait = min((1 << (self._lost - 1)) - 1, _LONGEST_WAIT)

    def _noting(self, seen: Seen) -> Iterator[Row]:
        """The rows one by one; what there is to be kept is kept if that goes for all of them."""
        noted: list[tuple[FamilyRow, Descriptor]] = []
        goes = _is_ordinary(seen)
        for row in seen.rows():
            note = _noted(row) if goes else None
            goes = note is not None
            if note is not None:
                noted.append(note)
            yield row
        if goes and noted:
            self._kept = _kept(noted, seen)
        else:
            self._lose()


def _is_ordinary(seen: Seen) -> bool:
    """Whether there is nothing but real tensors in memory, the parameters on one device."""
    held, fresh = _tensors(seen)
    if not all(type(x) in _ORDINARY for x in (*seen.parameters, *held, *fresh)):
        return False
    if any(x.layout != torch.strided for x in held) or any(x.is_complex() for x in seen.parameters):
        return False
    devices = {x.device for x in seen.parameters}
    return len(devices) == 1 and devices.pop().type in ("cpu", "cuda")


def _noted(row: Row) -> tuple[FamilyRow, Descriptor] | None:
    """The row of a family, described, if a kernel reads the very tensors of the row."""
    known = row.described
    if known is None or not isinstance(row, FamilyRow):
        return None
    described, own = describe(row), (row.parameter, row.before, row.gradient, *known[2])
    for read, x in zip(described.tensors, own, strict=True):
        if x is not None and (x.device != row.parameter.device or read is None):
            return None
        if x is not None and read is not None and read.data_ptr() != x.data_ptr():
            return None
    return row, described


_ORDINARY = (Tensor, nn.Parameter)
_DTYPE = attrgetter("dtype")
_FACTS = attrgetter("dtype", "layout", "shape", "device")


def _facts(tensors: Sequence[Tensor]) -> list[Any]:
    """What a kernel has to know of tensors beside their addresses."""
    facts: list[Any] = [*map(_FACTS, tensors)]
    if all(fact[1] is torch.strided for fact in facts):  # others have no strides
        facts += map(Tensor.stride, tensors)
        facts += map(Tensor.is_neg, tensors)
    return facts


def _forms(tensors: Sequence[Tensor]) -> list[Any]:
    """What a kernel has to know of tensors that are the very ones of before, at the same addresses."""
    contiguous = [*map(Tensor.is_contiguous, tensors)]
    forms: list[Any] = [*map(_DTYPE, tensors), *map(Tensor.numel, tensors), *contiguous]
    if not all(contiguous):
        forms += [(x.shape, x.stride()) for x in tensors]
    return forms


class _Kept:
    """What is known of rows, and how to find out whether it still holds.

    Args:
        seen: When they were built.
        families: Of the rows.
        steady: What kernels make use of.
        slots: Where the tensors of each row, then the step counts of all rows are among the parameters, the
            tensors of all states and those that are others at each step, one after the other; -1 for none.
    """

    def __init__(self, seen: Seen, families: Sequence[Family], steady: Steady, slots: Sequence[int]) -> None:
        self._members, self._names = seen.members, seen.names
        self._types = _types(seen)
        held, fresh = _tensors(seen)
        lasting = [*seen.parameters, *held]
        self._held = [ref(x).__call__ for x in held]
        self._addresses, self._forms = [*map(Tensor.data_ptr, lasting)], _forms(lasting)
        self._facts = _facts(fresh)
        self._numbers = KeptNumbers(families, steady)
        self._steady, self._slots = steady, itemgetter(*slots)

    def again(self, seen: Seen, rule: UpdateRule, remade: Callable[[], Iterator[Row]]) -> SteadyRows | None:
        """The rows, or ``None`` if anything is not as it was; ``remade`` see `SteadyRows`."""
        if seen.members is not self._members or seen.names != self._names or _types(seen) != self._types:
            return None
        held, fresh = _tensors(seen)
        if not all(map(is_, held, [known() for known in self._held])):
            return None
        lasting = [*seen.parameters, *held]
        addresses = [*map(Tensor.data_ptr, lasting)]
        if addresses != self._addresses or _forms(lasting) != self._forms or _facts(fresh) != self._facts:
            return None
        numbers = self._numbers.now(seen, rule)
        if numbers is None:
            return None
        addresses += map(Tensor.data_ptr, fresh)
        addresses.append(0)
        return SteadyRows(self._steady, self._slots(addresses), numbers, remade)


def _types(seen: Seen) -> list[type]:
    return [*map(type, seen.held), *map(type, seen.fresh)]


def _tensors(seen: Seen) -> tuple[list[Tensor], list[Tensor]]:
    """Those of the state, and those that are others at each step."""
    return _only_tensors(seen.held), _only_tensors(seen.fresh)


def _only_tensors(values: Sequence[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def _kept(noted: Sequence[tuple[FamilyRow, Descriptor]], seen: Seen) -> _Kept:
    """What there is to know of rows."""
    rows, each = [row for row, _ in noted], [described for _, described in noted]
    families = [*{id(row.family): row.family for row in rows}.values()]
    order = {id(family): place for place, family in enumerate(families)}
    counts = [_count(row, state) for row, state in zip(rows, seen.states, strict=True)]
    steady = Steady(
        infos=tuple([row.info for row in rows]),
        dtypes=tuple([tuple([x if x is None else x.dtype for x in row.tensors]) for row in each]),
        forms=tuple([row.form for row in each]),
        families=tuple([order[id(row.family)] for row in rows]),
        places=tuple([row.place for row in rows]),
        counts=tuple([None if count is None else count.dtype for count in counts]),
        device=rows[0].parameter.device,
    )
    return _Kept(seen, families, steady, _slots([row.family for row in rows], counts, seen))


def _count(row: FamilyRow, state: Mapping[str, Any]) -> Tensor | None:
    """The step count of ``row`` if engines can read it where it is."""
    count = state.get("step")
    if row.family.step is None or not isinstance(count, Tensor):
        return None
    readable = count.dtype in READABLE and count.numel() == 1 and count.device == row.parameter.device
    return count if readable else None


def _slots(families: Sequence[Family], counts: Sequence[Tensor | None], seen: Seen) -> list[int]:
    """See `_Kept`. By position: one tensor may be the gradient of two parameters for once."""
    numbers = count()
    parameters = [next(numbers) for _ in seen.parameters]
    states = [{k: _place(x, numbers) for k, x in state.items()} for state in seen.states]
    gradients = [_place(x, numbers) for x in seen.gradients]
    befores = [_place(x, numbers) for x in seen.befores or [None] * len(parameters)]
    slots: list[int] = []
    for at, family in enumerate(families):
        slots += (parameters[at], befores[at], gradients[at])
        slots += [-1 if name is None else states[at][name] for name in family.names]
    slots += [-1 if x is None else state["step"] for x, state in zip(counts, states, strict=True)]
    return slots


def _place(x: object, numbers: Iterator[int]) -> int:
    return next(numbers) if isinstance(x, Tensor) else -1
