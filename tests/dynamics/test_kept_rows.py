"""Rows kept from reading to reading are those that would be built anew, whatever happens in between."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import pairwise
from typing import Any
from weakref import ref

import pytest
import torch
from helpers.cases import Case, Small, all_optimizers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_adapt.dynamics import kept_rows, rows
from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines import find_engine, installed
from lightning_adapt.dynamics.engines.descriptors import SLOTS, describe
from lightning_adapt.dynamics.engines.steady import SteadyRows
from lightning_adapt.dynamics.kept_rows import KeptRows
from lightning_adapt.dynamics.rows import Circumstances, Member, build_rows, members
from lightning_adapt.dynamics.step_counts import DeviceCount, StepCounts
from lightning_adapt.dynamics.update_rules import rule_for

ENGINES = [name for name in ("eager", "numba", "reference") if installed(name)]


def _seen_by_kernels(row: Row, *, where: bool = False) -> tuple[Any, ...]:
    """All that a kernel knows of a row: what is in its tensors, or ``where`` they lie."""
    described = describe(row)
    tensors: list[Any] = []
    for x in described.tensors:
        known = None if x is None else x.data_ptr() if where else x.tolist()
        tensors.append((known or 0, None if x is None else x.dtype))
    return row.info, described.form, described.numel, *tensors, *map(_number, described.scalars)


def _number(value: object) -> object:
    return value.item() if isinstance(value, Tensor) else value


def _of_steady(found: SteadyRows) -> Iterator[tuple[Any, ...]]:
    steady, slots = found.steady, len(SLOTS)
    for at, info in enumerate(steady.infos):
        tensors = zip(found.addresses[at * slots : (at + 1) * slots], steady.dtypes[at], strict=True)
        numbers = found.numbers[steady.families[at]]
        entries = [x[steady.places[at]] if isinstance(x, Tensor) and x.dim() else x for x in numbers]
        yield info, steady.forms[at], steady.numels[at], *tensors, *map(_number, entries)


class Watched:
    """An optimizer with everything that a probe would know of it."""

    def __init__(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> None:
        self.optimizer, self.names = optimizer, names
        self.now = Circumstances()
        self.kept = KeptRows(optimizer)
        self.members: list[Member] = []
        self._key: list[Any] = []

    def step(self) -> None:
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad = torch.randn_like(p) if p.grad.is_contiguous() else p.grad * 0.9
        self.optimizer.step()
        self.now.steps_seen += 1

    def _rows(self) -> Any:
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        key = [(id(p), p.shape, p.dtype, p.requires_grad) for p in params]
        if key != self._key:  # as in the probe
            self.members, self._key = members(self.optimizer, self.names), key
        return self.kept.rows(self.members, self.now)

    def check(self) -> bool:
        """The rows are right; says whether they were steady."""
        found = self._rows()
        fresh = list(build_rows(self.optimizer, self.members, self.now))
        if isinstance(found, SteadyRows):
            assert list(_of_steady(found)) == [_seen_by_kernels(row, where=True) for row in fresh]
        again = list(found)
        assert [_seen_by_kernels(row) for row in again] == [_seen_by_kernels(row) for row in fresh]
        assert [_step_of(row) for row in again] == [_step_of(row) for row in fresh]
        return isinstance(found, SteadyRows)


def _step_of(row: Row) -> str:
    return repr(row.canonical)


def _watched(cls: Callable[..., torch.optim.Optimizer] = torch.optim.Adam, **options: Any) -> Watched:
    torch.manual_seed(0)
    groups = [
        {"params": [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))], "name": "one"},
        {"params": [nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(()))], "name": "two"},
    ]
    watched = Watched(cls(groups, **{"lr": 0.1, **options}), {})
    for group in groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    return watched


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


def _parameters(watched: Watched) -> list[Any]:
    return [p for group in watched.optimizer.param_groups for p in group["params"]]


def _at(watched: Watched, name: str) -> Tensor:
    found: Tensor = watched.optimizer.state[_parameters(watched)[2]][name]
    return found


def _moved(watched: Watched) -> None:
    _parameters(watched)[2].data = _parameters(watched)[2].data.clone()


def _half(watched: Watched) -> None:
    p = _parameters(watched)[2]
    p.grad, p.data = None, p.data.half()
    p.grad = torch.ones_like(p)


def _no_gradient(watched: Watched) -> None:
    _parameters(watched)[1].grad = None


def _a_gradient_again(watched: Watched) -> None:
    p = _parameters(watched)[1]
    p.grad = torch.ones_like(p)


def _gradient_in_other_order(watched: Watched) -> None:
    p = _parameters(watched)[2]
    p.grad = torch.randn(4, 4).t()


def _gradient_expanded(watched: Watched) -> None:
    p = _parameters(watched)[2]
    p.grad = torch.ones(()).expand(4, 4)


def _gradient_negated(watched: Watched) -> None:
    p = _parameters(watched)[0]
    p.grad = torch._neg_view(torch.randn_like(p))  # pyright: ignore[reportPrivateImportUsage]


def _sparse_gradient(watched: Watched) -> None:
    p = _parameters(watched)[0]
    p.grad = torch.eye(3, 4).to_sparse()


def _another_state(watched: Watched) -> None:
    watched.optimizer.state[_parameters(watched)[2]]["exp_avg"] = torch.randn(4, 4)


def _moved_state(watched: Watched) -> None:
    _at(watched, "exp_avg_sq").data = torch.rand(4, 4)


def _turned_state(watched: Watched) -> None:
    _at(watched, "exp_avg_sq").t_()


def _half_state(watched: Watched) -> None:
    state = watched.optimizer.state[_parameters(watched)[2]]
    state["exp_avg"] = state["exp_avg"].half()


def _more_state(watched: Watched) -> None:
    watched.optimizer.state[_parameters(watched)[0]]["note"] = 3


def _twice_in_state(watched: Watched) -> None:
    state = watched.optimizer.state[_parameters(watched)[0]]
    state["exp_avg"] = state["exp_avg_sq"]


def _loaded(watched: Watched) -> None:
    watched.optimizer.load_state_dict(deepcopy(watched.optimizer.state_dict()))


def _behind(watched: Watched) -> None:
    _at(watched, "step").sub_(1)


def _forgotten(watched: Watched) -> None:
    del watched.optimizer.state[_parameters(watched)[3]]


def _other_numbers(watched: Watched) -> None:
    watched.optimizer.param_groups[0] |= {"lr": 0.3, "betas": (0.5, 0.9), "eps": 0.1}


def _decay(watched: Watched) -> None:
    watched.optimizer.param_groups[1]["weight_decay"] = 0.1


def _rate_is_a_tensor(watched: Watched) -> None:
    watched.optimizer.param_groups[1]["lr"] = torch.tensor(0.2)


def _another_group(watched: Watched) -> None:
    p = nn.Parameter(torch.randn(2))
    p.grad = torch.randn(2)
    watched.optimizer.add_param_group({"params": [p], "name": f"more{len(watched.optimizer.param_groups)}"})


def _frozen(watched: Watched) -> None:
    _parameters(watched)[0].requires_grad_(False)


def _snapshot(watched: Watched) -> None:
    watched.now.before = {id(p): p.detach().clone() for p in _parameters(watched)}


def _snapshot_of_some(watched: Watched) -> None:
    watched.now.before = {id(p): p.detach().clone() for p in _parameters(watched)[1:3]}


def _no_snapshot(watched: Watched) -> None:
    watched.now.before = None


def _skipped(watched: Watched) -> None:
    watched.now.applied, watched.now.gradient_factor = 0.0, 0.25


def _not_skipped(watched: Watched) -> None:
    watched.now.applied, watched.now.gradient_factor = 1.0, 1.0


def _kept_groups(watched: Watched) -> None:
    groups = watched.optimizer.param_groups
    watched.now.groups = {i: {**group, "lr": 7.0} for i, group in enumerate(groups)}


NOTICED = [
    *(_moved, _half, _no_gradient, _gradient_in_other_order, _gradient_expanded, _gradient_negated),
    *(_sparse_gradient, _another_state, _moved_state, _turned_state, _half_state, _more_state),
    *(_twice_in_state, _loaded, _behind, _forgotten, _decay, _another_group, _frozen, _snapshot),
    _snapshot_of_some,
]
"""Changes after which rows have to be looked at anew."""
FOLLOWED = [_other_numbers, _rate_is_a_tensor, _skipped, _kept_groups]
"""Changes of numbers alone."""


def _steady(watched: Watched) -> None:
    for _ in range(3):
        watched.step()
        watched.check()
    assert watched.check()


@pytest.mark.parametrize("change", NOTICED, ids=lambda change: change.__name__[1:])
def test_what_changes_is_noticed(change: Callable[[Watched], None]) -> None:
    watched = _watched()
    _steady(watched)
    change(watched)
    assert not watched.check()


@pytest.mark.parametrize("change", FOLLOWED, ids=lambda change: change.__name__[1:])
def test_numbers_are_always_those_of_the_step(change: Callable[[Watched], None]) -> None:
    watched = _watched()
    _steady(watched)
    change(watched)
    assert watched.check()


def test_another_rule_is_another_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = _watched(torch.optim.AdamW, amsgrad=True)
    _steady(watched)
    for group in watched.optimizer.param_groups:
        group["amsgrad"] = False
    assert not watched.check()
    monkeypatch.setattr(kept_rows, "rule_for", lambda _: None)
    monkeypatch.setattr(rows, "rule_for", lambda _: None)
    assert not watched.check()


ANYTHING = [*NOTICED, *FOLLOWED, _no_snapshot, _not_skipped, _a_gradient_again]
# Their optimizer would refuse to step, or the rule to read what is left.
LASTING = [
    c for c in ANYTHING if c not in (_half, _half_state, _sparse_gradient, _forgotten, _twice_in_state)
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(LASTING), st.integers(0, 3), st.booleans()), min_size=1, max_size=6)
)
def test_whatever_happens_rows_are_right(
    happens: list[tuple[Callable[[Watched], None], int, bool]],
) -> None:
    watched = _watched()
    watched.step()
    for change, steps, at_once in happens:
        change(watched)
        if at_once:
            watched.check()
        for _ in range(steps):
            watched.step()
            if watched.now.before is not None:
                _snapshot(watched)
            watched.check()


class _Counts(StepCounts):
    """Counts as on a device, in one vector, on whatever device they are."""

    def of(self, parameter: Tensor, state: Mapping[str, Any]) -> float | DeviceCount:
        steps = {
            id(p): self._optimizer.state[p]["step"]
            for group in self._optimizer.param_groups
            for p in group["params"]
        }
        return DeviceCount(torch.stack([*steps.values()]).double(), [*steps].index(id(parameter)))


def test_counts_on_a_device_are_read_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rows, kept_rows):
        monkeypatch.setattr(module, "StepCounts", _Counts)
    watched = _watched(torch.optim.RAdam, weight_decay=0.1)
    _steady(watched)
    _behind(watched)  # an entry of the vector is another number, and all the rest as it was
    assert watched.check()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("histograms", [True, False])
def test_engines_say_the_same(name: str, histograms: bool) -> None:
    engine, watched = find_engine(name), _watched(torch.optim.AdamW)
    for snapshot in (False, True):
        if snapshot:
            _snapshot(watched)
        _steady(watched)
        ours = engine(watched._rows(), histograms=histograms)
        theirs = engine(build_rows(watched.optimizer, watched.members, watched.now), histograms=histograms)
        assert torch.equal(ours.figures, theirs.figures)
        assert list(ours.strides) == list(theirs.strides)
        assert (ours.counts is None) == (not histograms)
        if ours.counts is not None and theirs.counts is not None:
            assert torch.equal(ours.counts, theirs.counts)


@pytest.mark.skipif("numba" not in ENGINES, reason="no numba")
def test_the_pass_leaves_rows_it_cannot_read_to_the_eager_engine() -> None:
    engine, watched = find_engine("numba"), _watched()
    for p in _parameters(watched):
        p.data = p.data.to(torch.float8_e4m3fn)
        p.grad = torch.ones_like(p)
        watched.optimizer.state[p] = {
            "step": torch.tensor(2.0),
            **{name: torch.rand(p.shape) for name in ("exp_avg", "exp_avg_sq")},
        }
    watched.check()
    found = watched._rows()
    assert isinstance(found, SteadyRows)
    theirs = find_engine("eager")(build_rows(watched.optimizer, watched.members, watched.now))
    assert torch.equal(engine(found).figures, theirs.figures)


def test_nothing_is_kept_alive() -> None:
    watched = _watched()
    _snapshot(watched)
    _steady(watched)
    assert watched.now.before is not None
    kept = [*watched.now.before.values(), *[p.grad for p in _parameters(watched)]]
    kept += [x for state in watched.optimizer.state.values() for x in state.values()]
    refs = [ref(x) for x in kept if x is not None]
    watched.now.before = None
    watched.optimizer.zero_grad()
    watched.optimizer.state.clear()
    del kept
    gc.collect()
    assert [x() for x in refs] == [None] * len(refs)


def test_rows_that_always_change_are_kept_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, kept = _watched(), []
    keep = kept_rows._kept

    def counted(*args: Any) -> Any:
        kept.append(watched.now.steps_seen)
        return keep(*args)

    monkeypatch.setattr(kept_rows, "_kept", counted)
    for _ in range(400):
        watched.step()
        _another_state(watched)
        watched.check()
    assert [later - earlier for earlier, later in pairwise(kept)] == [1, 2, 4, 8, 16, 32, 64, 65, 65, 65, 65]
    for _ in range(70):
        watched.step()
        watched.check()
    assert watched.check()


def test_rows_on_several_devices_are_not_kept() -> None:
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, device="meta"))]
    optimizer = torch.optim.Adam(parameters, foreach=False)
    for p in parameters:
        p.grad = torch.ones_like(p)
    watched = Watched(optimizer, {})
    for _ in range(3):
        optimizer.step()
        assert not isinstance(watched._rows(), SteadyRows)


def test_a_complex_parameter_that_never_steps_is_read_as_it_was() -> None:
    still = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
    moving = nn.Parameter(torch.randn(3))
    moving.grad = torch.randn(3)
    watched = Watched(torch.optim.Adam([still, moving]), {})
    for _ in range(3):
        watched.optimizer.step()
        assert not watched.check()


def test_a_gradient_that_two_parameters_had_for_once() -> None:
    watched = _watched(torch.optim.SGD, momentum=0.9)
    one, other = _parameters(watched)[2], nn.Parameter(torch.randn(4, 4))
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
    watched = _watched()
    _steady(watched)
    copied = deepcopy(watched)
    assert not copied.check()
    assert copied.check()
    assert isinstance(pickle.loads(pickle.dumps(watched.kept)), KeptRows)


def test_who_forgets_builds_anew() -> None:
    watched = _watched()
    _steady(watched)
    watched.kept.forget()
    assert not watched.check()
    assert watched.check()


def test_rows_of_which_one_cannot_be_kept_are_described_once(monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[Row] = []
    monkeypatch.setattr(kept_rows, "describe", lambda row: (described.append(row), describe(row))[1])
    watched = _watched()
    _gradient_in_other_order(watched)
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
    wanted, rows = engine(watched._rows()), watched._rows()
    assert isinstance(rows, SteadyRows)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: engine(rows), range(40)):
            assert torch.equal(found.figures, wanted.figures)
            assert found.counts is not None
            assert wanted.counts is not None
            assert torch.equal(found.counts, wanted.counts)


def test_rows_that_must_come_whole_are_not_kept() -> None:
    watched = _watched()
    _steady(watched)
    found = watched.kept.rows(watched.members, watched.now, whole={"one.0"})
    assert not isinstance(found, SteadyRows)
    assert [row.info.name for row in found] == ["one.0", "one.1", "two.0", "two.1"]
