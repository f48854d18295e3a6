"""An optimizer with all that a probe knows of it, and what may happen to it between two readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from ctypes import c_double, c_float
from math import isclose, nan
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines.descriptors import SLOTS, describe
from lightning_adapt.dynamics.engines.steady import SteadyRows
from lightning_adapt.dynamics.kept_rows import KeptRows
from lightning_adapt.dynamics.rows import Circumstances, Member, build_rows, members
from lightning_adapt.dynamics.step_counts import Corrected


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
        numbers: list[Any] = [*found.numbers[steady.families[at]]]
        numbers = [1 / (1 - x.beta ** counts(found)[at]) if isinstance(x, Corrected) else x for x in numbers]
        entries = [x[steady.places[at]] if isinstance(x, Tensor) and x.dim() else x for x in numbers]
        yield info, steady.forms[at], steady.numels[at], *tensors, *map(_number, entries)


def counts(found: SteadyRows) -> list[float]:
    """The step count of each row as engines read it; NaN where they do not."""
    kinds: dict[Any, Any] = {torch.float32: c_float, torch.float64: c_double}
    places = zip(found.addresses[-len(found.steady.infos) :], found.steady.counts, strict=True)
    return [kinds[dtype].from_address(at).value if dtype else nan for at, dtype in places]


def _alike(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    """A device's bias corrections may be off by their last digit."""
    pairs = zip(ours, theirs, strict=True)
    return all(a == b or (isinstance(a, float) and isclose(a, b, rel_tol=1e-14)) for a, b in pairs)


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

    def rows(self) -> Any:
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        key = [(id(p), p.shape, p.dtype, p.requires_grad) for p in params]
        if key != self._key:  # as in the probe
            self.members, self._key = members(self.optimizer, self.names), key
        return self.kept.rows(self.members, self.now)

    def check(self) -> bool:
        """The rows are right; says whether they were steady, and all of them stepped."""
        found = self.rows()
        fresh = list(build_rows(self.optimizer, self.members, self.now))
        steady = isinstance(found, SteadyRows) and not any(count < 1 for count in counts(found))
        if steady:
            for ours, row in zip(_of_steady(found), fresh, strict=True):
                assert _alike(ours, _seen_by_kernels(row, where=True))
        else:
            again = list(found)
            assert [_seen_by_kernels(row) for row in again] == [_seen_by_kernels(row) for row in fresh]
            assert [repr(row.canonical) for row in again] == [repr(row.canonical) for row in fresh]
        return steady


def watched_optimizer(
    cls: Callable[..., torch.optim.Optimizer] = torch.optim.Adam, **options: Any
) -> Watched:
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


def parameters(watched: Watched) -> list[Any]:
    return [p for group in watched.optimizer.param_groups for p in group["params"]]


def state_of(watched: Watched, name: str) -> Tensor:
    found: Tensor = watched.optimizer.state[parameters(watched)[2]][name]
    return found


def moved(watched: Watched) -> None:
    parameters(watched)[2].data = parameters(watched)[2].data.clone()


def half(watched: Watched) -> None:
    p = parameters(watched)[2]
    p.grad, p.data = None, p.data.half()
    p.grad = torch.ones_like(p)


def no_gradient(watched: Watched) -> None:
    parameters(watched)[1].grad = None


def a_gradient_again(watched: Watched) -> None:
    p = parameters(watched)[1]
    p.grad = torch.ones_like(p)


def gradient_in_other_order(watched: Watched) -> None:
    p = parameters(watched)[2]
    p.grad = torch.randn(4, 4).t()


def gradient_expanded(watched: Watched) -> None:
    p = parameters(watched)[2]
    p.grad = torch.ones(()).expand(4, 4)


def gradient_negated(watched: Watched) -> None:
    p = parameters(watched)[0]
    p.grad = torch._neg_view(torch.randn_like(p))  # pyright: ignore[reportPrivateImportUsage]


def sparse_gradient(watched: Watched) -> None:
    p = parameters(watched)[0]
    p.grad = torch.eye(3, 4).to_sparse()


def another_state(watched: Watched) -> None:
    watched.optimizer.state[parameters(watched)[2]]["exp_avg"] = torch.randn(4, 4)


def moved_state(watched: Watched) -> None:
    state_of(watched, "exp_avg_sq").data = torch.rand(4, 4)


def turned_state(watched: Watched) -> None:
    state_of(watched, "exp_avg_sq").t_()


def half_state(watched: Watched) -> None:
    state = watched.optimizer.state[parameters(watched)[2]]
    state["exp_avg"] = state["exp_avg"].half()


def more_state(watched: Watched) -> None:
    watched.optimizer.state[parameters(watched)[0]]["note"] = 3


def twice_in_state(watched: Watched) -> None:
    state = watched.optimizer.state[parameters(watched)[0]]
    state["exp_avg"] = state["exp_avg_sq"]


def loaded(watched: Watched) -> None:
    watched.optimizer.load_state_dict(deepcopy(watched.optimizer.state_dict()))


def behind(watched: Watched) -> None:
    state_of(watched, "step").sub_(1).clamp_(min=0)


def restarted(watched: Watched) -> None:
    state_of(watched, "step").zero_()


def forgotten(watched: Watched) -> None:
    del watched.optimizer.state[parameters(watched)[3]]


def other_numbers(watched: Watched) -> None:
    watched.optimizer.param_groups[0] |= {"lr": 0.3, "betas": (0.5, 0.9), "eps": 0.1}


def betas_in_a_list(watched: Watched) -> None:
    group = watched.optimizer.param_groups[0]
    if isinstance(group["betas"], list):
        group["betas"][0] *= 0.9
    else:
        group["betas"] = [*group["betas"]]


def decay(watched: Watched) -> None:
    watched.optimizer.param_groups[1]["weight_decay"] = 0.1


def rate_is_a_tensor(watched: Watched) -> None:
    watched.optimizer.param_groups[1]["lr"] = torch.tensor(0.2)


def another_group(watched: Watched) -> None:
    p = nn.Parameter(torch.randn(2))
    p.grad = torch.randn(2)
    watched.optimizer.add_param_group({"params": [p], "name": f"more{len(watched.optimizer.param_groups)}"})


def frozen(watched: Watched) -> None:
    parameters(watched)[0].requires_grad_(False)


def snapshot(watched: Watched) -> None:
    watched.now.before = {id(p): p.detach().clone() for p in parameters(watched)}


def snapshot_of_some(watched: Watched) -> None:
    watched.now.before = {id(p): p.detach().clone() for p in parameters(watched)[1:3]}


def no_snapshot(watched: Watched) -> None:
    watched.now.before = None


def skipped(watched: Watched) -> None:
    watched.now.applied, watched.now.gradient_factor = 0.0, 0.25


def not_skipped(watched: Watched) -> None:
    watched.now.applied, watched.now.gradient_factor = 1.0, 1.0


def kept_groups(watched: Watched) -> None:
    groups = watched.optimizer.param_groups
    watched.now.groups = {i: {**group, "lr": 7.0} for i, group in enumerate(groups)}


NOTICED = [
    *(moved, half, no_gradient, gradient_in_other_order, gradient_expanded, gradient_negated),
    *(sparse_gradient, another_state, moved_state, turned_state, half_state, more_state),
    *(twice_in_state, loaded, forgotten, decay, another_group, frozen, snapshot),
    snapshot_of_some,
]
"""Changes after which rows have to be looked at anew."""
FOLLOWED = [other_numbers, betas_in_a_list, rate_is_a_tensor, skipped, kept_groups, behind]
"""Changes of numbers alone."""


ANYTHING = [*NOTICED, *FOLLOWED, no_snapshot, not_skipped, a_gradient_again, restarted]
# Their optimizer would refuse to step, or the rule to read what is left.
LASTING = [c for c in ANYTHING if c not in (half, half_state, sparse_gradient, forgotten, twice_in_state)]
