"""Families: parameters for which an update rule gives the same numbers, so that it is asked once for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from functools import lru_cache
from typing import Any, TypeGuard

from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep, Scalar
from lightning_adapt.dynamics.engines.descriptors import SLOTS, form_of, numbers_of

_FIELDS = tuple(entry.name for entry in fields_of(CanonicalStep))
_TENSORS = [at for at, name in enumerate(_FIELDS) if name == "gradient" or name in SLOTS]


class Family:
    """What the canonical steps of parameters that are alike have in common.

    Args:
        step: Of one of them. Where steps are counted on a device, numbers that follow from the count are
            vectors, with an entry for each of ``counts`` parameters.
        state: Of the same parameter: tells where each parameter has the tensors of its own step.
        counts: See ``step``; 0 where steps are counted on the host.
        gradient_factor: Of their rows, see `Row`.
        applied: Likewise.

    Raises:
        LookupError: If ``step`` has a tensor that is not one of ``state``, or that is there twice.
    """

    def __init__(
        self,
        step: CanonicalStep,
        state: Mapping[str, Any],
        counts: int = 0,
        gradient_factor: Scalar = 1.0,
        applied: Scalar = 1.0,
    ) -> None:
        self._values: list[Any] = [getattr(step, name) for name in _FIELDS]
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        entries = {id(value): name for name, value in tensors.items()}
        if len(entries) < len(tensors):
            raise LookupError("a tensor has two names, and which of them a step is of is not known")
        self._own: list[tuple[int, str]] = []
        self._each: list[tuple[int, Sequence[Scalar]]] = []
        for field in _TENSORS:
            value = self._values[field]
            if value is not None:
                self._own.append((field, entries[id(value)]))
        form, numbers = form_of(step), numbers_of(step, gradient_factor, applied)
        self._described = [(form, numbers)]
        if counts:
            unbound = lru_cache(Tensor.unbind)  # the same vector stands in several places
            numbers_at = [at for at in range(len(_FIELDS)) if at not in _TENSORS]
            vectors = [at for at in numbers_at if _is_vector(self._values[at], counts)]
            self._each = [(at, unbound(self._values[at])) for at in vectors]
            if vectors:
                columns = [unbound(x) if _is_vector(x, counts) else [x] * counts for x in numbers]
                self._described = [(form, each) for each in zip(*columns, strict=True)]

    def step_of(self, state: Mapping[str, Any], place: int) -> CanonicalStep:
        """The step of the parameter with this ``state``, whose count is entry ``place`` of all."""
        values = self._values.copy()
        for field, name in self._own:
            values[field] = state[name]
        for field, numbers in self._each:
            values[field] = numbers[place]
        return CanonicalStep(*values)

    def described(self, place: int) -> tuple[int, tuple[Scalar, ...]]:
        """Form and numbers of that step, see `descriptors`."""
        return self._described[place if self._each else 0]


def _is_vector(value: object, counts: int) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.shape == (counts,)
