"""The numbers of families, for which an update rule is asked only when it might say others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch

from lightning_adapt.dynamics.canonical import Scalar
from lightning_adapt.dynamics.engines.steady import Steady
from lightning_adapt.dynamics.family import Family
from lightning_adapt.dynamics.rows import applied_to, family_of, group_of, view_of
from lightning_adapt.dynamics.seen import Seen
from lightning_adapt.dynamics.step_counts import (
    BiasCorrection,
    Corrected,
    DeviceCount,
    HostSteps,
    StepCounts,
)
from lightning_adapt.dynamics.update_rules import UpdateRule

_Numbers = tuple[Scalar, ...]


class _Said(NamedTuple):
    """What a rule said, and says again at any step as long as the group of the family holds the very same.

    Args:
        names: In the group.
        values: Under them.
        numbers: One for each of `SCALARS`.
    """

    names: list[str]
    values: list[Any]
    numbers: _Numbers

    def holds(self, group: Mapping[str, Any]) -> bool:
        """By identity: what is equal may be a tensor, whose device would have to be waited for."""
        return [*group] == self.names and all(map(is_, group.values(), self.values))

    def again(self, factor: Scalar, applied: Scalar) -> _Numbers:
        """The numbers, of which the first two belong to the step."""
        if self.numbers[0] is factor and self.numbers[1] is applied:
            return self.numbers
        return (factor, applied, *self.numbers[2:])


class KeptNumbers:
    """The numbers of families that are kept.

    A ``shared`` rule promises that its numbers follow from the group, the step count and dtypes. What is left
    to find out is whether it needs the count: a rule that never asks for it, but hands on `bias_correction`,
    says the same at every step, and each parameter may have a count of its own, which engines read.

    Args:
        families: As they are now.
        steady: Which rows are theirs, and whose step counts engines can read.
    """

    def __init__(self, families: Sequence[Family], steady: Steady) -> None:
        self._known = [(family.names, family.form) for family in families]
        self._rows: list[list[int]] = [[] for _ in families]
        for row, family in enumerate(steady.families):
            self._rows[family].append(row)
        self._readable = [all(steady.counts[row] is not None for row in rows) for rows in self._rows]
        self._rule: UpdateRule | None = None
        self._said: list[_Said | None] = []

    def now(self, seen: Seen, rule: UpdateRule) -> list[_Numbers] | None:
        """The numbers of each family at this step; ``None`` where other rows belong together now."""
        if rule != self._rule:
            self._rule, self._said = rule, [None] * len(self._known)
        found: list[_Numbers] = []
        counts = None
        for family, said in enumerate(self._said):
            at = self._rows[family][0]
            if said is not None and said.holds(group_of(seen.optimizer, seen.members[at], seen.now)):
                now = seen.now
                found.append(said.again(now.gradient_factor, applied_to(seen.gradients[at], now)))
                continue
            counts = counts or StepCounts(seen.optimizer, seen.now.steps_seen)
            with torch.no_grad():
                numbers = self._asked(family, seen, rule, counts)
            if numbers is None:
                return None
            found.append(numbers)
        return found

    def _asked(self, family: int, seen: Seen, rule: UpdateRule, counts: StepCounts) -> _Numbers | None:
        """What ``rule`` says of a family; kept where it says that at every step."""
        at, readable = self._rows[family][0], self._readable[family]
        member, parameter, state = seen.members[at], seen.parameters[at], _Noted(seen.states[at])
        count: Any = (counts.unread if readable else counts.of)(parameter, seen.states[at])
        if isinstance(count, HostSteps) and not count.begun:
            return None
        view = view_of(seen.optimizer, member, parameter, state, count, seen.now)
        made = family_of(rule, view, seen.states[at], seen.now)
        if made is None or (made.names, made.form) != self._known[family]:
            return None
        numbers = tuple([_settled(x, readable) for x in made.numbers])
        steps = count.steps if isinstance(count, DeviceCount) else count
        if not readable or steps.asked or not state.read.issubset(made.names):
            alike = [
                _likeness(counts.of(seen.parameters[row], seen.states[row])) for row in self._rows[family]
            ]
            return numbers if alike == alike[:1] * len(alike) else None
        group = group_of(seen.optimizer, member, seen.now)
        if all(_lasts(name, value) for name, value in group.items()):
            self._said[family] = _Said([*group], [*group.values()], numbers)
        return numbers


class _Noted(Mapping[str, Any]):
    """The state of a parameter, and which of it was looked at."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = state
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        value = self._state[name]
        self.read.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._state

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def _settled(value: Any, readable: bool) -> Any:
    """A number, or what stands for one of each row."""
    if not isinstance(value, BiasCorrection):
        return value
    return Corrected(value.beta) if readable else value.value


def _likeness(count: float | DeviceCount) -> object:
    """Equal for rows that may have the same numbers, or entries of the same vectors."""
    return count.steps.device if isinstance(count, DeviceCount) else count


_NAMES = ("params", "param_names", "parameter_names")
_PLAIN = {float, int, bool, str, type(None)}


def _lasts(name: str, value: Any) -> bool:
    """Whether ``value`` says the same as long as it is the same object, or says nothing of numbers."""
    return name in _NAMES or _is_plain(value)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if type(value) is tuple else type(value) in _PLAIN
