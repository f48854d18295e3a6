"""From an optimizer to the rows an engine measures: names, order, gradients, step counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep, Row, Scalar, StepView, as_real
from lightning_adapt.dynamics.engines import default_chunk
from lightning_adapt.dynamics.family import Family
from lightning_adapt.dynamics.pieces import any_sparse, cut
from lightning_adapt.dynamics.step_counts import (
    CountedView,
    DeviceCount,
    DeviceSteps,
    HostSteps,
    StepCounts,
    likeness,
)
from lightning_adapt.dynamics.table import RowInfo
from lightning_adapt.dynamics.update_rules import Reads, UpdateRule, rule_for


@dataclass(frozen=True)
class Member:
    """A parameter of an optimizer: its row without anything that changes from step to step."""

    parameter: Tensor
    info: RowInfo
    group_index: int


@dataclass
class Circumstances:
    """What is true for the whole step.

    Args:
        before: Parameters before the step by ``id``; ``None`` predicts the update from the state.
        remembered: Small state entries before the step by ``id``.
        steps_seen: Step count for optimizers that keep none.
        applied: 0 (or a device flag of 0) when the whole step was skipped.
        gradient_factor: What makes ``.grad`` unscaled.
        groups: Hyper-parameters as the step used them by group index, where the optimizer no longer has them.
    """

    before: Mapping[int, Tensor] | None = None
    remembered: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    steps_seen: int = 1
    applied: Scalar = 1.0
    gradient_factor: Scalar = 1.0
    groups: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


def group_name(group: Mapping[str, Any], index: int) -> str:
    """The group's ``name``, or ``group_<index>``."""
    return str(group.get("name") or f"group_{index}")


def given_names(group: Mapping[str, Any]) -> Sequence[str]:
    """One name for each parameter of a group, or none; our factories call the entry ``parameter_names``."""
    names: Sequence[str] = group.get("param_names") or group.get("parameter_names") or ()
    return names if len(names) == len(group["params"]) else ()


def members(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> list[Member]:
    """All parameters of ``optimizer``, in the order of ``names`` (model order), unnamed ones last.

    Args:
        optimizer: Any torch optimizer.
        names: ``id(parameter)`` to name.

    Returns:
        One entry a parameter; a parameter without a known name takes it from its group, else from its
        position.
    """
    order = {key: position for position, key in enumerate(names)}
    found: dict[int, Member] = {}
    for index, group in enumerate(optimizer.param_groups):
        label, given = group_name(group, index), given_names(group)
        for position, parameter in enumerate(group["params"]):
            fallback = given[position] if given else f"{label}.{position}"
            info = RowInfo(
                name=names.get(id(parameter), fallback),
                group=label,
                shape=tuple(parameter.shape),
                dtype=str(parameter.dtype).removeprefix("torch."),
                requires_grad=parameter.requires_grad,
            )
            found.setdefault(id(parameter), Member(parameter, info, index))
    return sorted(found.values(), key=lambda m: order.get(id(m.parameter), len(order)))


def build_rows(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[Member],
    now: Circumstances,
    *,
    whole: Collection[str] = (),
) -> Iterator[Row]:
    """Yield one `Row` a parameter, lazily: what a rule has to compute lives only while it is measured.

    Args:
        optimizer: After its step.
        parameters: From `members`.
        now: What is true for the whole step.
        whole: Names of parameters that must come in one row.

    Yields:
        Rows; a large parameter for which tensors have to be made comes in pieces, see `Row.continues`.
    """
    rule, counts = rule_for(optimizer), StepCounts(optimizer, now.steps_seen)
    families = None if rule is None or not rule.shared else _Families(rule, now)
    for member in parameters:
        parameter, state = as_real(member.parameter.detach()), optimizer.state.get(member.parameter, NOTHING)
        count, in_one = counts.of(member.parameter, state), member.info.name in whole
        if families is not None and not in_one:
            view = view_of(optimizer, member, parameter, state, count, now)
            row = families.row(member, view, count)
            if row is not None:
                yield row
                continue
        own = count.steps.vector[count.place] if isinstance(count, DeviceCount) else count
        view = view_of(optimizer, member, parameter, state, own, now)
        view.remembered = now.remembered.get(id(member.parameter), NOTHING)
        yield from _alone(rule, member, view, now, whole=in_one)


NOTHING: Mapping[str, Any] = {}
"""The state of a parameter that was never stepped."""


def view_of(
    optimizer: torch.optim.Optimizer,
    member: Member,
    parameter: Tensor,
    state: Mapping[str, Any],
    count: Scalar | DeviceCount | HostSteps,
    now: Circumstances,
) -> StepView:
    """What a rule reads; where ``count`` is no number it is of all members of a family."""
    kind: Any = CountedView if isinstance(count, DeviceCount | HostSteps) else StepView
    view: StepView = kind(
        parameter,
        member.parameter.grad,
        state,
        group_of(optimizer, member, now),
        count.steps if isinstance(count, DeviceCount) else count,
        None if now.before is None else now.before.get(id(member.parameter)),
        None,
        NOTHING,
    )
    return view


def group_of(optimizer: torch.optim.Optimizer, member: Member, now: Circumstances) -> Mapping[str, Any]:
    """The parameter group of ``member``, as the step used it."""
    return now.groups.get(member.group_index) or optimizer.param_groups[member.group_index]


class _Families:
    """The families of a reading, each founded by the first of its parameters."""

    def __init__(self, rule: UpdateRule, now: Circumstances) -> None:
        self._rule, self._now = rule, now
        self._found: dict[object, tuple[Family, str] | None] = {}

    def row(self, member: Member, view: StepView, count: float | DeviceCount) -> Row | None:
        """The row of ``member``; ``None`` where it belongs to no family."""
        key = _likeness(view, member.group_index, count)
        if key not in self._found:
            self._found[key] = self._family(view)
        found = self._found[key]
        if found is None:
            return None
        family, state_dtype = found
        info = _with_dtype(member.info, state_dtype)
        place = count.place if isinstance(count, DeviceCount) else 0
        return family.row(info, view.parameter, view.before, view.gradient, view.state, place)

    def _family(self, view: StepView) -> tuple[Family, str] | None:
        """The family, and the dtype of its state."""
        tensors = [x for x in (view.gradient, *view.state.values()) if isinstance(x, Tensor)]
        if any(x.layout != torch.strided or x.is_complex() for x in tensors):
            return None
        family = family_of(self._rule, view, self._now)
        return None if family is None else (family, _state_dtype(family.step))


def family_of(rule: UpdateRule, view: StepView, now: Circumstances) -> Family | None:
    """The family that a parameter with dense tensors founds; ``None`` if some have to be made for it."""
    if _reads(rule, view) != "stored":
        return None
    steps = view.steps if isinstance(view, CountedView) else None
    step = canonical_step(rule, view)
    counts = len(steps) if isinstance(steps, DeviceSteps) else 0
    try:
        return Family(step, view.state, counts, now.gradient_factor, applied_to(view.gradient, now))
    except LookupError:
        return None


def _likeness(view: StepView, group_index: int, count: float | DeviceCount) -> tuple[object, ...]:
    """What a rule's numbers depend on: equal for parameters of one family."""
    gradient = view.gradient
    return (
        group_index,
        likeness(count),
        view.parameter.dtype,
        view.parameter.device,
        view.before is None,
        None if gradient is None else (gradient.dtype, gradient.layout),
        *view.state,
        *[(x.dtype, x.layout) if isinstance(x, Tensor) else type(x) for x in view.state.values()],
    )


def _alone(
    rule: UpdateRule | None, member: Member, view: StepView, now: Circumstances, *, whole: bool
) -> Iterator[Row]:
    """The rows of a parameter for which the rule is asked alone."""
    in_pieces = not whole and _in_pieces(rule, view)
    size = default_chunk(view.parameter.device) if in_pieces else view.parameter.numel()
    makes = in_pieces or (rule is not None and rule.reads == "whole")
    view = prepared(rule, view)
    for position, piece in enumerate(cut(view, size)):
        step = canonical_step(rule, piece)
        made = _made(step, piece, view) if step is not None and makes else 0
        yield _row(member, piece, step, now, continues=position > 0, temporary=made)


def _row(member: Member, view: StepView, step: CanonicalStep | None, now: Circumstances, **more: Any) -> Row:
    return Row(
        info=_with_dtype(member.info, _state_dtype(step)),
        parameter=view.parameter,
        before=view.before,
        gradient=view.gradient,
        canonical=step,
        gradient_factor=now.gradient_factor,
        applied=applied_to(view.gradient, now),
        **more,
    )


def applied_to(gradient: Tensor | None, now: Circumstances) -> Scalar:
    """1 if a parameter with this gradient was stepped, else 0."""
    return now.applied if gradient is not None else 0.0


def _reads(rule: UpdateRule, view: StepView) -> Reads:
    return rule.reads(view) if callable(rule.reads) else rule.reads


def _in_pieces(rule: UpdateRule | None, view: StepView) -> bool:
    """Whether tensors have to be made for this parameter, and may be made piece by piece."""
    reads = "stored" if rule is None else _reads(rule, view)
    if reads != "stored":
        return reads == "elements"
    return any_sparse(view.gradient, view.state)


def prepared(rule: UpdateRule | None, view: StepView) -> StepView:
    """``view`` with what the rule needs of the whole parameter added to its state."""
    if rule is None or rule.prepare is None or not view.state:
        return view
    return replace(view, state={**view.state, **rule.prepare(view)})


def canonical_step(rule: UpdateRule | None, view: StepView) -> CanonicalStep | None:
    """The canonical step, or ``None``: no rule, or the optimizer has not stepped this parameter yet."""
    if rule is None or not _has_begun(view):
        return None
    try:
        return rule.read(view)
    except KeyError:
        if view.state:
            raise
        return None


def _has_begun(view: StepView) -> bool:
    """Whether there was a step, as far as the host knows."""
    return isinstance(view, CountedView) or isinstance(view.step, Tensor) or view.step >= 1


def _made(step: CanonicalStep, piece: StepView, view: StepView) -> int:
    """Bytes of those tensors of a row that were made for it, rather than taken from parameter and state."""
    stored = (view.parameter, view.gradient, *view.state.values())
    # Compared by memory: views are made anew each time.
    held = {_memory(x) for x in stored if isinstance(x, Tensor) and not x.is_sparse}
    tensors = (
        piece.gradient,
        piece.touched,
        step.first_moment,
        step.numerator,
        step.second_moment,
        step.centering,
        step.effective_lr,
        step.gradient,
    )
    made = {_memory(x): x.nbytes for x in tensors if x is not None}
    return sum(size for memory, size in made.items() if memory not in held)


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _state_dtype(step: CanonicalStep | None) -> str:
    if step is None:
        return ""
    state = step.second_moment if step.second_moment is not None else step.first_moment
    return "" if state is None else str(state.dtype).removeprefix("torch.")


@lru_cache(maxsize=1 << 14)  # the same for every reading of a run
def _with_dtype(info: RowInfo, state_dtype: str) -> RowInfo:
    return replace(info, state_dtype=state_dtype) if state_dtype else info
