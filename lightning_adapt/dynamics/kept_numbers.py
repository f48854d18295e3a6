"""The numbers of families, for which an update rule is asked only when it might say others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch

from lightning_adapt.dynamics.canonical import Scalar
from lightning_adapt.dynamics.engines.steady import Steady
from lightning_adapt.dynamics.family import Family
from lightning_adapt.dynamics.hyperparameters import is_plain
from lightning_adapt.dynamics.rows import applied_to, family_of, group_of, view_of
from lightning_adapt.dynamics.seen import Seen
from lightning_adapt.dynamics.step_counts import (
    BiasCorrection,
    Corrected,
    HostSteps,
    StepCounts,
    likeness,
)
from lightning_adapt.dynamics.update_rules import UpdateRule

_Numbers = tuple[Scalar, ...]
_OF_STEP = 2
"""So many of `SCALARS` are the same for all rows of a step, whatever a rule says."""


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
        """The numbers, of which the first belong to the step."""
        if self.numbers[0] is factor and self.numbers[1] is applied:
            return self.numbers
        return (factor, applied, *self.numbers[_OF_STEP:])


class KeptNumbers:
    """The numbers of families that are kept.

    A ``shared`` rule promises that its numbers follow from the group, the step count and dtypes. One that is
    ``lasting`` says the same at every step, unless its group has changed or it asked for the count: each
    parameter may have a count of its own then, which engines read.

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
        member, parameter, state = seen.members[at], seen.parameters[at], seen.states[at]
        lasting = readable and rule.lasting
        count = counts.unread(parameter, state) if lasting else counts.of(parameter, state)
        if isinstance(count, HostSteps) and count.number < 1:
            return None
        view: Any = view_of(seen.optimizer, member, parameter, state, count, seen.now)
        made = family_of(rule, view, seen.now)
        if made is None or (made.names, made.form) != self._known[family]:
            return None
        numbers = tuple([_settled(x, readable) for x in made.numbers])
        if not lasting or view.asked:
            return numbers if self._alike(family, seen, counts) else None
        group = group_of(seen.optimizer, member, seen.now)
        if all(name in _NAMES or is_plain(value) for name, value in group.items()):
            self._said[family] = _Said([*group], [*group.values()], numbers)
        return numbers

    def _alike(self, family: int, seen: Seen, counts: StepCounts) -> bool:
        """Whether all rows of a family have the same count, or counts on the same device."""
        alike = [likeness(counts.of(seen.parameters[row], seen.states[row])) for row in self._rows[family]]
        return alike == alike[:1] * len(alike)


def _settled(value: Any, readable: bool) -> Any:
    """A number, or what stands for one of each row."""
    if not isinstance(value, BiasCorrection):
        return value
    return Corrected(value.beta) if readable else value.vector


_NAMES = ("params", "param_names", "parameter_names")
"""Entries of a group that no number follows from."""
