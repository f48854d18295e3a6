"""Families: parameters for which an update rule gives the same numbers, so that it is asked once for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import Any, TypeGuard

from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep, Described, Row, Scalar
from lightning_adapt.dynamics.engines.descriptors import SLOTS, STEPPED, form_of, numbers_of
from lightning_adapt.dynamics.step_counts import BiasCorrection
from lightning_adapt.dynamics.table import RowInfo


class Family:
    """What the canonical steps of parameters that are alike have in common.

    Args:
        step: Of one of them; ``None`` where they have none. Where steps are counted on a device, numbers that
            follow from the count are vectors, with an entry for each of ``counts`` parameters, or a
            `BiasCorrection` that stands for one.
        state: Of the same parameter: tells where each parameter has the tensors of its own step.
        counts: See ``step``; 0 where steps are counted on the host.
        gradient_factor: Of their rows, see `Row`.
        applied: Likewise.

    Attributes:
        step: As given.
        names: Under which each parameter's state has the tensors of its step, one for each of `STEPPED`.
        form: Of the step, see `descriptors`.
        numbers: One for each of `SCALARS`, among them vectors, and `BiasCorrection` in the place of vectors.

    Raises:
        LookupError: If ``step`` has a tensor that is not one of ``state``, or that is there twice, or a
            gradient of its own.
    """

    def __init__(
        self,
        step: CanonicalStep | None,
        state: Mapping[str, Any],
        counts: int = 0,
        gradient_factor: Scalar = 1.0,
        applied: Scalar = 1.0,
    ) -> None:
        self.step, self._counts, self._factor, self._applied = step, counts, gradient_factor, applied
        self._unbound: dict[int, Sequence[Tensor]] = {}
        self.names = (None,) * len(STEPPED) if step is None else _names(step, state)
        self.form, self.numbers = form_of(step), numbers_of(step, gradient_factor, applied)

    @cached_property
    def _each(self) -> dict[str, Sequence[Scalar]]:
        """The numbers of the step that are vectors, entry by entry."""
        if not self._counts or self.step is None:
            return {}
        others = [x.name for x in fields(self.step) if x.name not in SLOTS]
        values = {name: getattr(self.step, name) for name in others}
        return {name: self._entries(x) for name, x in values.items() if _is_vector(x, self._counts)}

    @cached_property
    def _described(self) -> list[tuple[int, tuple[Scalar, ...]]]:
        """Form and numbers, of each entry where there are vectors."""
        if not self._each:
            return [(self.form, self.numbers)]
        counts = self._counts
        columns = [self._entries(x) if _is_vector(x, counts) else [x] * counts for x in self.numbers]
        return [(self.form, each) for each in zip(*columns, strict=True)]

    def _entries(self, numbers: Tensor | BiasCorrection) -> Sequence[Tensor]:
        """The same vector stands in several places."""
        if id(numbers) not in self._unbound:
            vector = numbers.vector if isinstance(numbers, BiasCorrection) else numbers
            self._unbound[id(numbers)] = vector.unbind()
        return self._unbound[id(numbers)]

    def row(
        self,
        info: RowInfo,
        parameter: Tensor,
        before: Tensor | None,
        gradient: Tensor | None,
        state: Mapping[str, Any],
        place: int,
    ) -> FamilyRow:
        """The row of a parameter with this ``state``, whose count is entry ``place`` of all."""
        form, numbers = self._described[place if self._each else 0]
        stepped = tuple([None if name is None else state[name] for name in self.names])
        row = FamilyRow(info, parameter, before, gradient, None, self._factor, self._applied)
        row.expect(self, (form, numbers, stepped), place)
        return row

    def step_of(self, stepped: Sequence[Tensor | None], place: int) -> CanonicalStep | None:
        """The canonical step that has these tensors, and the numbers of entry ``place``."""
        if self.step is None:
            return None
        values: dict[str, Any] = dict(zip(STEPPED, stepped, strict=True))
        values |= {name: each[place] for name, each in self._each.items()}
        return replace(self.step, **values)


class FamilyRow(Row):
    """A row whose canonical step is made when somebody asks for it, which kernels do not.

    Whoever has the step, or sets another, may change it: from then on this is a row like any other.
    """

    __slots__ = ("_known", "_made", "family", "place")
    family: Family
    place: int
    _known: Described | None
    _made: CanonicalStep | None

    def expect(self, family: Family, known: Described, place: int) -> None:
        """Say how the step is made: by ``family``, from the tensors in ``known`` and entry ``place``."""
        self.family, self._known, self.place = family, known, place

    @property
    def described(self) -> Described | None:
        """See `Row`."""
        return self._known

    @property
    def canonical(self) -> CanonicalStep | None:
        """The step."""
        if self._known is not None:
            self._made, self._known = self.family.step_of(self._known[2], self.place), None
        return self._made

    @canonical.setter
    def canonical(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, step: CanonicalStep | None
    ) -> None:
        self._made, self._known = step, None


def _names(step: CanonicalStep, state: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Where ``state`` has the tensors of ``step``."""
    entries: dict[int, str] = {}
    for name, value in state.items():
        if entries.setdefault(id(value), name) != name and isinstance(value, Tensor):
            raise LookupError("a tensor has two names, and which of them a step is of is not known")
    if step.gradient is not None:
        raise LookupError("the gradient is not the parameter's own")
    held = [getattr(step, name) for name in STEPPED]
    return tuple([None if value is None else entries[id(value)] for value in held])


def _is_vector(value: object, counts: int) -> TypeGuard[Tensor | BiasCorrection]:
    return isinstance(value, BiasCorrection) or (isinstance(value, Tensor) and value.shape == (counts,))
