"""A rule is asked for numbers of kept rows only when it might say others, and they are right all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import happenings
from helpers.happenings import Watched, watched_optimizer
from helpers.own_rules import Own, Read, copied, counted_on, give_rule
from torch import Tensor

from lightning_adapt.dynamics import DynamicsProbe, DynamicsTable, kept_rows, step_counts, update_rules
from lightning_adapt.dynamics.canonical import CanonicalStep, Row, StepView
from lightning_adapt.dynamics.engines import ENGINES, Engine, find_engine, installed, reference
from lightning_adapt.dynamics.engines.steady import SteadyRows
from lightning_adapt.dynamics.reading import take
from lightning_adapt.dynamics.rows import build_rows
from lightning_adapt.dynamics.rules_adaptive import adam
from lightning_adapt.dynamics.step_counts import bias_correction
from lightning_adapt.dynamics.update_rules import rule_for

Change = Callable[[Watched], None]


def _asked(monkeypatch: pytest.MonkeyPatch, watched: Watched, change: Change | None = None) -> int:
    """How often the rule is asked for kept rows, for two groups, at each of the last three readings."""
    rule, times = rule_for(watched.optimizer), []
    assert rule is not None

    def read(view: StepView) -> CanonicalStep:
        times.append(1)
        return rule.read(view)

    noting = replace(rule, read=read)
    with monkeypatch.context() as patch:
        patch.setattr(kept_rows, "rule_for", lambda _: noting)
        for _ in range(3):
            watched.step()
            watched.check()
        for _ in range(3):
            if change is not None:
                change(watched)
            watched.step()
            times.clear()
            assert isinstance(watched.rows(), SteadyRows)
    assert watched.check()
    return len(times)


@pytest.mark.parametrize(
    ("cls", "options", "times"),
    [
        (torch.optim.Adam, {}, 0),
        (torch.optim.AdamW, {"amsgrad": True}, 0),
        (torch.optim.Adamax, {"betas": (0.0, 0.9)}, 0),
        (torch.optim.RMSprop, {}, 0),
        (torch.optim.Adagrad, {}, 0),
        (torch.optim.Adagrad, {"lr_decay": 0.1}, 2),
        (torch.optim.RAdam, {}, 2),
        (torch.optim.SGD, {"momentum": 0.9}, 2),  # keeps no count
    ],
)
def test_a_rule_is_asked_again_if_it_looks_at_the_count(
    cls: Any, options: dict[str, Any], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _asked(monkeypatch, watched_optimizer(cls, **options)) == times


def _scheduled(watched: Watched) -> None:
    watched.optimizer.param_groups[0]["lr"] *= 0.9


def _mutable(watched: Watched) -> None:
    for group in watched.optimizer.param_groups:
        group.setdefault("note", [1])


def _of_numpy(watched: Watched) -> None:
    watched.optimizer.param_groups[1].setdefault("note", np.float64(1))


def _in_a_tuple(watched: Watched) -> None:
    watched.optimizer.param_groups[1].setdefault("note", (1, torch.ones(1)))


def _names(watched: Watched) -> None:
    for group in watched.optimizer.param_groups:
        group["param_names"] = group.get("param_names") or ["one", "two"]


def _renamed(watched: Watched) -> None:
    group = watched.optimizer.param_groups[0]
    value = group.pop("note", group.pop("other", None))
    group["note" if watched.now.steps_seen % 2 else "other"] = value


@pytest.mark.parametrize(
    ("change", "times"),
    [
        (_scheduled, 1),
        (happenings.behind, 0),
        (happenings.skipped, 0),
        (happenings.kept_groups, 0),  # another mapping with the same numbers
        (_mutable, 2),
        (_of_numpy, 1),
        (_in_a_tuple, 1),
        (_names, 0),
        (_renamed, 1),
    ],
)
def test_a_rule_is_asked_again_if_its_group_may_say_something_else(
    change: Change, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watched_optimizer()
    for _ in range(4):
        watched.step()
    assert _asked(monkeypatch, watched, change) == times


def test_another_rule_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watched_optimizer(Own)
    for _ in range(4):
        watched.step()
        watched.check()

    def doubled(view: StepView) -> CanonicalStep:
        step = adam(view)
        step.lr = 2 * view.group["lr"]
        return step

    give_rule(monkeypatch, doubled)
    assert watched.check()


def _from_the_state(view: StepView) -> CanonicalStep:
    step, state = adam(view), dict(view.state)
    step.lr = float(state["step"])
    return step


def _with_a_correction(view: StepView) -> CanonicalStep:
    step = adam(view)
    step.lr = 0.1 * float(np.sqrt(step.second_moment_correction))
    return step


def _if_corrected(view: StepView) -> CanonicalStep:
    step = adam(view)
    step.lr = 0.1 if step.second_moment_correction == 1 / (1 - 0.999**7) else 0.2
    return step


LOOKING = [_from_the_state, _with_a_correction, _if_corrected, counted_on, copied]


@pytest.mark.parametrize("read", LOOKING)
def test_rules_of_others_may_look_at_the_count_as_they_like(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_rule(monkeypatch, read)
    watched = watched_optimizer(Own, betas=(0.9, 0.999))
    for _ in range(8):
        watched.step()
        watched.check()
    assert watched.check()
    happenings.behind(watched)  # rows of one family no longer have the same numbers
    assert not watched.check()


@pytest.mark.parametrize("change", [Tensor.double, lambda step: step.reshape(1), Tensor.long, Tensor.half])
def test_counts_of_other_dtypes_and_shapes(change: Callable[[Tensor], Tensor]) -> None:
    watched = watched_optimizer()
    watched.step()
    for p in happenings.parameters(watched)[:3]:
        watched.optimizer.state[p]["step"] = change(watched.optimizer.state[p]["step"])
    watched.check()
    for _ in range(3):
        watched.now.steps_seen += 1
        for p in happenings.parameters(watched):
            watched.optimizer.state[p]["step"] += 1
        assert watched.check()


@pytest.mark.skipif(not installed("numba"), reason="no numba")
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (1e-30, 1 - 1e-9)])
@pytest.mark.parametrize("wide", [True, False])
def test_the_pass_corrects_each_row_by_its_own_count_to_the_last_digit(
    betas: tuple[float, float], wide: bool
) -> None:
    engine, watched = find_engine("numba"), watched_optimizer(betas=betas)
    watched.step()
    for p in happenings.parameters(watched)[: 4 if wide else 0]:
        watched.optimizer.state[p]["step"] = watched.optimizer.state[p]["step"].double()
    watched.check()
    for count in (1, 2, 3, 7, 10, 100, 12_345, 3_000_001):
        for place, p in enumerate(happenings.parameters(watched)):
            watched.optimizer.state[p]["step"].fill_(count + place)
        found = watched.rows()
        assert isinstance(found, SteadyRows)
        ours = engine(found)
        theirs = engine(build_rows(watched.optimizer, watched.members, watched.now))
        assert torch.equal(ours.figures, theirs.figures)
        assert ours.counts is not None
        assert theirs.counts is not None
        assert torch.equal(ours.counts, theirs.counts)


@pytest.mark.parametrize("name", [name for name in ("numba", "eager", "reference") if installed(name)])
def test_a_parameter_that_begins_anew_has_no_step(name: str) -> None:
    engine, watched = find_engine(name), watched_optimizer()
    for _ in range(3):
        watched.step()
        watched.check()
    happenings.restarted(watched)
    found = watched.rows()
    table, fresh = (
        _table(engine, found),
        _table(engine, [*build_rows(watched.optimizer, watched.members, watched.now)]),
    )
    assert [row.state_dtype for row in fresh.rows] == ["float32", "float32", "", "float32"]
    assert table.rows == fresh.rows
    np.testing.assert_array_equal(table.values, fresh.values)
    assert not isinstance(watched.rows(), SteadyRows)  # which would be measured twice again
    for _ in range(3):
        watched.step()
        watched.check()
    assert watched.check()


def _table(engine: Engine, rows: Iterable[Row]) -> DynamicsTable:
    return take(
        engine, rows, {}, histograms=True, about={"step": 1, "optimizer": "", "update_source": ""}
    ).table()


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "triton" and installed(name)])
def test_a_rule_is_asked_without_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []

    def read(view: StepView) -> CanonicalStep:
        modes.append(torch.is_grad_enabled())
        return adam(view)

    give_rule(monkeypatch, read)
    watched = watched_optimizer(Own)
    with DynamicsProbe(watched.optimizer, engine=name, strict=True):
        for _ in range(4):
            watched.step()
    assert modes == [False] * len(modes)
    assert len(modes) >= 8


def test_a_rate_with_a_gradient_of_its_own() -> None:
    rate = torch.tensor(0.1, requires_grad=True)
    parameter = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=rate)
    with DynamicsProbe(optimizer, strict=True) as probe:
        for _ in range(4):
            parameter.grad = torch.ones(3)
            with torch.no_grad():
                optimizer.step()
    assert probe.table is not None
    assert probe.table.step == 4


def test_a_lasting_rule_is_a_shared_one() -> None:
    with pytest.raises(ValueError, match="`lasting` must be False for a rule that is not `shared`"):
        update_rules.register_rule(Own, lasting=True)


@pytest.mark.parametrize("name", ["gradient_factor", "l2"])
def test_a_lasting_rule_may_not_promise_what_is_computed_with(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(view: StepView) -> CanonicalStep:
        return replace(adam(view), **{name: bias_correction(view, 0.9)})

    give_rule(monkeypatch, read, lasting=True)
    watched = watched_optimizer(Own)
    watched.step()
    watched.check()
    with pytest.raises(ValueError, match=f"`{name}` of a lasting rule must be a number.*take `view.step`"):
        watched.check()


def test_counts_of_several_dtypes_on_a_device_are_read_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_counts, "stays_on_device", lambda step: True)
    watched = watched_optimizer()
    watched.step()
    state = watched.optimizer.state[happenings.parameters(watched)[3]]
    state["step"] = state["step"].double()
    watched.check()
    for _ in range(3):
        for p in happenings.parameters(watched):
            watched.optimizer.state[p]["step"] += 1
        assert watched.check()


def test_numbers_of_the_host_that_may_change_are_told_anew() -> None:
    """An engine that keeps what it was told must not keep a tensor's."""
    engine, watched = find_engine("auto"), watched_optimizer()
    watched.now.applied = torch.ones(())
    for applied in (1.0, 1.0, 1.0, 0.0, 1.0):
        watched.now.applied.fill_(applied)
        watched.step()
        ours = engine(watched.rows())
        theirs = reference.measure(build_rows(watched.optimizer, watched.members, watched.now))
        torch.testing.assert_close(ours.figures, theirs.figures, rtol=1e-6, atol=0)
