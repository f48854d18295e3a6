"""Families: a rule asked once for all parameters that are alike says what it says when asked for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from helpers.cases import ADAM_LIKE, Case, all_optimizers, train_rows
from helpers.operations import Operations
from torch import Tensor

from lightning_adapt.dynamics import rows as module
from lightning_adapt.dynamics import update_rules
from lightning_adapt.dynamics.canonical import CanonicalStep, Row, StepView
from lightning_adapt.dynamics.engines.descriptors import SCALARS, SLOTS, describe
from lightning_adapt.dynamics.family import Family
from lightning_adapt.dynamics.rows import Circumstances, build_rows, members
from lightning_adapt.dynamics.table import RowInfo
from lightning_adapt.dynamics.update_rules import UpdateRule, rule_for


def _asked_for_each(optimizer: torch.optim.Optimizer) -> UpdateRule | None:
    rule = rule_for(optimizer)
    return None if rule is None else replace(rule, shared=False)


def _said(row: Row) -> dict[str, Any]:
    """All of a row, tensors as numbers; a kernel sees the same whether or not somebody asked for the step."""
    described = describe(row)
    step = row.canonical
    again = describe(row)
    assert (described.form, described.scalars, described.numel) == (again.form, again.scalars, again.numel)
    for one, two in zip(described.tensors, again.tensors, strict=True):
        assert (one is None) == (two is None)
        assert one is None or two is None or torch.equal(one, two)
    found = {name: getattr(row, name) for name in Row.__slots__ if name not in ("canonical", "described")}
    if step is not None:
        found |= {f"step.{field.name}": getattr(step, field.name) for field in fields(step)}
    found |= {"form": described.form, "scalars": described.scalars}
    return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in found.items()}


@all_optimizers
@pytest.mark.parametrize("snapshot", [True, False])
def test_rows_are_those_of_parameters_asked_one_by_one(
    case: Case, snapshot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = list(train_rows(case, torch.float64, steps=3, snapshot=snapshot))[-1][0]
    monkeypatch.setattr(module, "rule_for", _asked_for_each)
    alone = list(train_rows(case, torch.float64, steps=3, snapshot=snapshot))[-1][0]
    assert [_said(row) for row in together] == [_said(row) for row in alone]


def _asked(monkeypatch: pytest.MonkeyPatch, optimizer: torch.optim.Optimizer) -> int:
    """How often the rule is asked for the rows of ``optimizer``, which are as they should be."""
    rule, times = rule_for(optimizer), []
    assert rule is not None

    def read(view: StepView) -> CanonicalStep:
        times.append(1)
        return rule.read(view)

    def rows() -> list[dict[str, Any]]:
        return [_said(row) for row in build_rows(optimizer, members(optimizer, {}), Circumstances())]

    with monkeypatch.context() as patch:
        patch.setattr(module, "rule_for", lambda _: replace(rule, read=read))
        together, asked = rows(), len(times)
        patch.setattr(module, "rule_for", _asked_for_each)
        assert rows() == together
    return asked


def test_whoever_has_the_step_may_change_it() -> None:
    optimizer = torch.optim.Adam(_many(2), lr=0.1)
    optimizer.step()
    one, other = build_rows(optimizer, members(optimizer, {}), Circumstances())
    assert one.canonical is not None
    one.canonical.lr, one.canonical.second_moment = 7.0, torch.full((3,), 4.0)
    changed, kept = describe(one), describe(other)
    assert changed.scalars[SCALARS.index("lr")] == 7.0
    assert changed.tensors[SLOTS.index("second_moment")] is one.canonical.second_moment
    assert kept.scalars[SCALARS.index("lr")] == 0.1
    assert replace(other).canonical == other.canonical
    another = next(build_rows(optimizer, members(optimizer, {}), Circumstances()))
    assert describe(replace(another, canonical=None)).form == 0
    another.canonical = None
    assert describe(another).form == 0


def _many(count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    parameters = [torch.randn(3, dtype=dtype, requires_grad=True) for _ in range(count)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    return parameters


@pytest.mark.parametrize("cls", [*ADAM_LIKE, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad])
def test_a_rule_is_asked_once_for_each_group(
    cls: Callable[..., torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [{"params": _many(5)}, {"params": _many(5), "weight_decay": 0.0}]
    optimizer = cls(groups, lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert _asked(monkeypatch, optimizer) == (10 if cls is torch.optim.NAdam else 2)


def _frozen(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    p.grad = None


def _late(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    optimizer.state[p]["step"] = optimizer.state[p]["step"] * 0 + 1


def _half(optimizer: torch.optim.Optimizer, p: Tensor) -> None:
    state = optimizer.state[p]
    state["exp_avg_sq"] = state["exp_avg_sq"].half()


@pytest.mark.parametrize("change", [_frozen, _late, _half], ids=lambda change: change.__name__[1:])
def test_what_is_not_alike_is_asked_apart(
    change: Callable[[torch.optim.Optimizer, Tensor], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = _many(4)
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for _ in range(3):
        optimizer.step()
    change(optimizer, parameters[2])
    assert _asked(monkeypatch, optimizer) == 2


def test_a_state_that_holds_a_tensor_twice_founds_no_family(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = _many(3)
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    optimizer.step()
    optimizer.state[parameters[0]]["exp_avg_sq"] = optimizer.state[parameters[0]]["exp_avg"]
    assert _asked(monkeypatch, optimizer) == 1 + 3


def test_momentum_that_has_not_begun_is_another_family(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = _many(4)
    parameters[1].grad = None
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    optimizer.step()
    assert _asked(monkeypatch, optimizer) == 2


class _Scaled(torch.optim.Adam):
    """Has a rule that makes a tensor."""


def test_a_rule_that_makes_tensors_is_asked_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(view: StepView) -> CanonicalStep:
        return CanonicalStep(lr=view.group["lr"], numerator=2 * view.state["exp_avg"])

    rule = UpdateRule(read, reads="stored", shared=True)
    monkeypatch.setitem(update_rules._RULES, _Scaled, rule)
    optimizer = _Scaled(_many(3), lr=0.1)
    optimizer.step()
    assert _asked(monkeypatch, optimizer) == 1 + 3


assert rule_for(torch.optim.Adam) is not None  # which registers all of them
SHARED = [cls for cls, rule in update_rules._RULES.items() if rule.shared]


@pytest.mark.parametrize("cls", SHARED, ids=lambda cls: cls.__name__)
def test_numbers_follow_count_by_count(cls: Callable[..., torch.optim.Optimizer]) -> None:
    counts = torch.tensor([1.0, 2.0, 7.0, 1000.0], dtype=torch.float64)
    parameters = _many(1)
    optimizer = cls(parameters, lr=0.1, weight_decay=0.1)
    optimizer.step()
    rule, group = rule_for(optimizer), optimizer.param_groups[0]
    assert rule is not None

    def step(count: Tensor) -> CanonicalStep:
        view = StepView(parameters[0], parameters[0].grad, optimizer.state[parameters[0]], group, count)
        return rule.read(view)

    together = step(counts)
    for place, count in enumerate(counts):
        alone = step(count)
        for field in fields(alone):
            one, many = getattr(alone, field.name), getattr(together, field.name)
            if isinstance(many, Tensor) and many.shape == counts.shape:
                torch.testing.assert_close(many[place], one, rtol=1e-15, atol=0)
            else:
                assert one is many or one == many


def _operations(cls: Callable[..., torch.optim.Optimizer], parameters: int) -> int:
    """Operations of torch for the rows of an optimizer whose steps lie on its device."""
    model = [torch.zeros(3, device="meta", requires_grad=True) for _ in range(parameters)]
    optimizer = cls(model, lr=0.1)
    for p in model:
        p.grad = torch.zeros_like(p)
        optimizer.state[p] = {"step": torch.ones((), device="meta")} | {
            name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq", "exp_inf", "sum", "square_avg")
        }
    with Operations() as operations:
        rows = list(build_rows(optimizer, members(optimizer, {}), Circumstances()))
    assert len(rows) == parameters
    return len(operations.computed)


@pytest.mark.parametrize("cls", SHARED, ids=lambda cls: cls.__name__)
def test_steps_on_a_device_do_not_cost_operations_for_each_parameter(
    cls: Callable[..., torch.optim.Optimizer],
) -> None:
    assert _operations(cls, 40) == _operations(cls, 4)


def test_a_moment_with_as_many_elements_as_there_are_counts_is_no_vector_of_counts() -> None:
    counts = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    first, other = ({"exp_avg": torch.rand(3), "exp_avg_sq": torch.rand(3)} for _ in range(2))
    step = CanonicalStep(
        lr=0.1,
        first_moment=first["exp_avg"],
        first_moment_factor=1 / counts,
        second_moment=first["exp_avg_sq"],
        second_moment_correction=1 / counts,
    )
    row = Family(step, first, counts=3).row(RowInfo("p"), other["exp_avg"], None, None, other, 2)
    found = row.canonical
    assert found is not None
    assert found.first_moment is other["exp_avg"]
    assert found.second_moment is other["exp_avg_sq"]
    assert found.first_moment_factor == found.second_moment_correction == 1 / counts[2]
