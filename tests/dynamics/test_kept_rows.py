"""Rows kept from reading to reading are those that would be built anew, whatever happens in between."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import pairwise
from typing import Any
from weakref import ref

import pytest
import torch
from helpers import happenings
from helpers.cases import Case, Small, all_optimizers
from helpers.happenings import Watched, watched_optimizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_adapt.dynamics import kept_rows, rows, step_counts
from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines import find_engine, installed
from lightning_adapt.dynamics.engines.descriptors import describe
from lightning_adapt.dynamics.engines.steady import SteadyRows
from lightning_adapt.dynamics.kept_rows import KeptRows
from lightning_adapt.dynamics.rows import build_rows
from lightning_adapt.dynamics.update_rules import rule_for

ENGINES = [name for name in ("eager", "numba", "reference") if installed(name)]


@all_optimizers
@pytest.mark.parametrize("snapshot", [True, False])
def test_every_optimizer_step_after_step(case: Case, snapshot: bool) -> None:
    torch.manual_seed(0)
    model = Small(case.two_d, empty=case.cls.__name__ != "Adafactor")
    optimizer = case.cls(model.parameters(), **{"lr": 0.01, **case.options})
    watched, steady = Watched(optimizer, {id(p): name for name, p in model.named_parameters()}), []
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(4, 5)).square().mean().backward()
        if snapshot:
            watched.now.before = {id(p): p.detach().clone() for p in model.parameters()}
        optimizer.step()
        watched.now.steps_seen += 1
        steady.append(watched.check())
    rule = rule_for(optimizer)
    assert rule is not None
    stored = rule.shared and "momentum" not in case.options and "centered" not in case.options
    if stored:
        assert steady[-1]
    assert rule.shared or not any(steady)


def _steady(watched: Watched) -> None:
    for _ in range(3):
        watched.step()
        watched.check()
    assert watched.check()


@pytest.mark.parametrize("change", happenings.NOTICED, ids=lambda change: change.__name__)
def test_what_changes_is_noticed(change: Callable[[Watched], None]) -> None:
    watched = watched_optimizer()
    _steady(watched)
    change(watched)
    assert not watched.check()


@pytest.mark.parametrize("change", happenings.FOLLOWED, ids=lambda change: change.__name__)
def test_numbers_are_always_those_of_the_step(change: Callable[[Watched], None]) -> None:
    watched = watched_optimizer()
    _steady(watched)
    change(watched)
    assert watched.check()


def test_another_rule_is_another_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watched_optimizer(torch.optim.AdamW, amsgrad=True)
    _steady(watched)
    for group in watched.optimizer.param_groups:
        group["amsgrad"] = False
    assert not watched.check()
    monkeypatch.setattr(kept_rows, "rule_for", lambda _: None)
    monkeypatch.setattr(rows, "rule_for", lambda _: None)
    assert not watched.check()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(happenings.LASTING), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_happens_rows_are_right(
    happens: list[tuple[Callable[[Watched], None], int, bool]],
) -> None:
    watched = watched_optimizer()
    watched.step()
    for change, steps, at_once in happens:
        change(watched)
        if at_once:
            watched.check()
        for _ in range(steps):
            watched.step()
            if watched.now.before is not None:
                happenings.snapshot(watched)
            watched.check()


def test_counts_on_a_device_are_read_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_counts, "stays_on_device", lambda step: True)
    watched = watched_optimizer(torch.optim.RAdam, weight_decay=0.1)
    _steady(watched)
    happenings.behind(watched)  # an entry of the vector is another number, and all the rest as it was
    assert watched.check()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("histograms", [True, False])
def test_engines_say_the_same(name: str, histograms: bool) -> None:
    engine, watched = find_engine(name), watched_optimizer(torch.optim.AdamW)
    for snapshot in (False, True):
        if snapshot:
            happenings.snapshot(watched)
        _steady(watched)
        happenings.behind(watched)  # each row has a count of its own
        ours = engine(watched.rows(), histograms=histograms)
        theirs = engine(build_rows(watched.optimizer, watched.members, watched.now), histograms=histograms)
        assert torch.equal(ours.figures, theirs.figures)
        assert list(ours.strides) == list(theirs.strides)
        assert (ours.counts is None) == (not histograms)
        if ours.counts is not None and theirs.counts is not None:
            assert torch.equal(ours.counts, theirs.counts)


@pytest.mark.skipif("numba" not in ENGINES, reason="no numba")
def test_the_pass_leaves_rows_it_cannot_read_to_the_eager_engine() -> None:
    engine, watched = find_engine("numba"), watched_optimizer()
    for p in happenings.parameters(watched):
        p.data = p.data.to(torch.float8_e4m3fn)
        p.grad = torch.ones_like(p)
        watched.optimizer.state[p] = {
            "step": torch.tensor(2.0),
            **{name: torch.rand(p.shape) for name in ("exp_avg", "exp_avg_sq")},
        }
    watched.check()
    found = watched.rows()
    assert isinstance(found, SteadyRows)
    theirs = find_engine("eager")(build_rows(watched.optimizer, watched.members, watched.now))
    assert torch.equal(engine(found).figures, theirs.figures)


def test_nothing_is_kept_alive() -> None:
    watched = watched_optimizer()
    happenings.snapshot(watched)
    _steady(watched)
    assert watched.now.before is not None
    kept = [*watched.now.before.values(), *[p.grad for p in happenings.parameters(watched)]]
    kept += [x for state in watched.optimizer.state.values() for x in state.values()]
    refs = [ref(x) for x in kept if x is not None]
    watched.now.before = None
    watched.optimizer.zero_grad()
    watched.optimizer.state.clear()
    del kept
    gc.collect()
    assert [x() for x in refs] == [None] * len(refs)


def test_rows_that_always_change_are_kept_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, kept = watched_optimizer(), []
    keep = kept_rows._kept

    def counted(*args: Any) -> Any:
        kept.append(watched.now.steps_seen)
        return keep(*args)

    monkeypatch.setattr(kept_rows, "_kept", counted)
    for _ in range(400):
        watched.step()
        happenings.another_state(watched)
        watched.check()
    assert [later - earlier for earlier, later in pairwise(kept)] == [1, 2, 4, 8, 16, 32, 64, 65, 65, 65, 65]
    for _ in range(70):
        watched.step()
        watched.check()
    assert watched.check()


def test_many_rows_seldom_set_off_the_garbage_collector() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1)) for _ in range(2000)]}]
    watched = Watched(torch.optim.Adam(groups, foreach=True), {})
    for p in happenings.parameters(watched):
        p.grad = torch.ones(1)
    _steady(watched)
    thresholds = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        gc.collect()
        before = gc.get_stats()[0]["collections"]
        assert isinstance(watched.kept.rows(watched.members, watched.now), SteadyRows)
        # Some four objects a row; with four more for each tensor of its state it was 31, and twice as slow.
        assert gc.get_stats()[0]["collections"] - before <= 15
    finally:
        gc.set_threshold(*thresholds)


def test_rows_on_several_devices_are_not_kept() -> None:
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, device="meta"))]
    optimizer = torch.optim.Adam(parameters, foreach=False)
    for p in parameters:
        p.grad = torch.ones_like(p)
    watched = Watched(optimizer, {})
    for _ in range(3):
        optimizer.step()
        assert not isinstance(watched.rows(), SteadyRows)


def test_a_complex_parameter_that_never_steps_is_read_as_it_was() -> None:
    still = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
    moving = nn.Parameter(torch.randn(3))
    moving.grad = torch.randn(3)
    watched = Watched(torch.optim.Adam([still, moving]), {})
    for _ in range(3):
        watched.optimizer.step()
        assert not watched.check()


def test_a_gradient_that_two_parameters_had_for_once() -> None:
    watched = watched_optimizer(torch.optim.SGD, momentum=0.9)
    one, other = happenings.parameters(watched)[2], nn.Parameter(torch.randn(4, 4))
    other.grad = one.grad
    watched.optimizer.add_param_group({"params": [other]})
    watched.step()
    other.grad = one.grad
    watched.optimizer.state[one]["momentum_buffer"] = one.grad
    watched.check()
    for p in (one, other):
        p.grad = torch.randn(4, 4)
    assert watched.check()


def test_a_copy_begins_anew() -> None:
    watched = watched_optimizer()
    _steady(watched)
    copied = deepcopy(watched)
    assert not copied.check()
    assert copied.check()
    assert isinstance(pickle.loads(pickle.dumps(watched.kept)), KeptRows)


def test_who_forgets_builds_anew() -> None:
    watched = watched_optimizer()
    _steady(watched)
    watched.kept.forget()
    assert not watched.check()
    assert watched.check()


def test_rows_of_which_one_cannot_be_kept_are_described_once(monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[Row] = []
    monkeypatch.setattr(kept_rows, "describe", lambda row: (described.append(row), describe(row))[1])
    watched = watched_optimizer()
    happenings.gradient_in_other_order(watched)
    watched.step()
    for reading in range(40):
        assert not watched.check(), reading
    assert len(described) < 4 * 8


@pytest.mark.skipif("numba" not in ENGINES, reason="no numba")
def test_several_threads_may_measure_at_once() -> None:
    engine = find_engine("numba")
    parameter = nn.Parameter(torch.randn(400_000))
    parameter.grad = torch.randn(400_000)
    watched = Watched(torch.optim.Adam([parameter]), {})
    watched.step()
    watched.check()
    wanted, rows = engine(watched.rows()), watched.rows()
    assert isinstance(rows, SteadyRows)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: engine(rows), range(40)):
            assert torch.equal(found.figures, wanted.figures)
            assert found.counts is not None
            assert wanted.counts is not None
            assert torch.equal(found.counts, wanted.counts)


def test_rows_that_must_come_whole_are_not_kept() -> None:
    watched = watched_optimizer()
    _steady(watched)
    found = watched.kept.rows(watched.members, watched.now, whole={"one.0"})
    assert not isinstance(found, SteadyRows)
    assert [row.info.name for row in found] == ["one.0", "one.1", "two.0", "two.1"]
