"""The catalog says the truth: every row is held against torch's signature and against real steps."""

import inspect
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

from lightning_adapt import optimizers
from lightning_adapt.optimizers import OptimizerInfo, catalog, catalog_rows, list_optimizers

ROWS = [pytest.param(info, id=name) for name, info in catalog.items()]
# What torch takes besides hyperparameters; `differentiable` and Adam's switch to AdamW are not offered.
SWITCHES = {"params", "foreach", "fused", "capturable", "maximize", "differentiable"}
FLAGS = {"fused", "foreach", "capturable"}


def torch_parameters(info: OptimizerInfo) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(torch.optim, info.class_name)).parameters)


def make(info: OptimizerInfo, module: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return getattr(optimizers, info.name)(module, **options)


def small_module(info: OptimizerInfo) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2, bias=info.name != "muon")


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    module(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()


def state_keys(optimizer: torch.optim.Optimizer) -> set[str]:
    return {key for state in optimizer.state.values() for key, value in state.items() if value is not None}


def test_one_row_per_factory_in_alphabetical_order():
    assert list(catalog) == sorted(catalog)
    assert [info.name for info in catalog.values()] == list(catalog)
    assert set(catalog) < set(optimizers.__all__)


@pytest.mark.parametrize("info", ROWS)
def test_defaults_are_those_of_torch(info):
    theirs = {
        name: parameter.default
        for name, parameter in torch_parameters(info).items()
        if name not in SWITCHES and (info.name, name) != ("adam", "decoupled_weight_decay")
    }
    assert dict(info.defaults) == theirs


@pytest.mark.parametrize("info", ROWS)
def test_the_factory_offers_every_hyperparameter_with_that_default(info):
    factory = getattr(optimizers, info.name)
    ours = {name: p.default for name, p in inspect.signature(factory).parameters.items()}
    expected = dict(info.defaults)
    if info.eps_placement not in ("none", "norm", "clamp"):
        expected["eps"] = None  # left out by the user, so that precision may choose it
    assert {name: ours[name] for name in expected} == expected
    assert {name for name in FLAGS if name in ours} == {
        name for name in FLAGS if getattr(info, f"supports_{name}")
    }
    assert get_type_hints(factory)["return"] is getattr(torch.optim, info.class_name)


@pytest.mark.parametrize("info", ROWS)
def test_flags_are_those_of_torch(info):
    theirs = torch_parameters(info)
    for flag in FLAGS:
        assert getattr(info, f"supports_{flag}") == (flag in theirs), flag
    assert info.has_eps == ("eps" in theirs)


@pytest.mark.parametrize("info", ROWS)
def test_state_keys_appear_after_one_step(info):
    module = small_module(info)
    optimizer = make(info, module)
    step(module, optimizer)
    assert state_keys(optimizer) == set(info.state_keys)
    possible = {None, *info.state_keys, *info.extra_state_keys}
    assert {info.first_moment_key, info.second_moment_key} <= possible


@pytest.mark.parametrize(
    ("info", "key", "option"),
    [
        pytest.param(info, key, option, id=f"{info.name}-{option}")
        for info in catalog.values()
        for key, option in info.extra_state_keys.items()
    ],
)
def test_extra_state_keys_appear_with_their_option(info, key, option):
    module = small_module(info)
    optimizer = make(info, module, **{option: 0.5 if option == "momentum" else True})
    step(module, optimizer)
    assert state_keys(optimizer) == {*info.state_keys, key}


@pytest.mark.parametrize("info", ROWS)
@pytest.mark.parametrize("flag", ["fused", "foreach"])
def test_the_implementations_it_claims_really_step(info, flag):
    if not getattr(info, f"supports_{flag}"):
        with pytest.raises(TypeError, match=flag):
            make(info, small_module(info), **{flag: True})
        return
    plain, other = small_module(info), small_module(info)
    start = plain.weight.detach().clone()
    step(plain, make(info, plain))
    step(other, make(info, other, **{flag: True}))
    torch.testing.assert_close(other.weight, plain.weight)
    assert not torch.equal(other.weight, start)


@pytest.mark.parametrize("info", ROWS)
def test_sparse_gradients_are_taken_exactly_by_those_that_say_so(info):
    module = nn.Embedding(5, 2, sparse=True)
    optimizer = getattr(optimizers, info.name)(list(module.parameters()), lr=0.1, weight_decay=0.0)
    before = module.weight.detach().clone()
    module(torch.tensor([1, 3])).sum().backward()
    if info.supports_sparse:
        with torch.sparse.check_sparse_tensor_invariants():  # torch warns where nobody chose
            optimizer.step()
        assert (module.weight != before).any(dim=1).tolist() == [False, True, False, True, False]
    else:
        with pytest.raises((RuntimeError, NotImplementedError)):
            optimizer.step()


@pytest.mark.parametrize("info", ROWS)
def test_decay_kind_is_what_a_step_without_gradient_shows(info):
    """With a zero gradient only L2 gets into the moments; decoupled decay works beside them."""
    module = nn.Linear(2, 2, bias=False)
    nn.init.constant_(module.weight, 2.0)
    momentum = {"momentum": 0.5} if info.name == "sgd" else {}  # else it would have no moment to look at
    optimizer = make(info, module, lr=0.125, weight_decay=0.5, **momentum)
    module.weight.grad = torch.zeros_like(module.weight)
    optimizer.step()
    state = optimizer.state[module.weight]
    moments = [value for key, value in state.items() if key not in ("step", "mu_product")]
    assert moments
    assert any(bool(moment.any()) for moment in moments) == (info.decay == "l2")
    assert (module.weight < 2.0).all()
    if info.decay == "decoupled":
        torch.testing.assert_close(module.weight, torch.full((2, 2), 2.0 * (1 - 0.125 * 0.5)))


# Options under which the first update is that of the bare placement, sqrt(v) being the gradient's size.
# Adadelta, Muon and RAdam (no second moment in its first five steps) have tests of their own below.
SHOWN_AT_STEP_1: dict[str, dict[str, Any]] = {
    "adafactor": {"eps": (1e-2, 1.0)},
    "adagrad": {},
    "adam": {},
    "adamax": {},
    "adamw": {},
    "nadam": {"betas": (0.0, 0.999)},
    "rmsprop": {"alpha": 0.0},
}


@pytest.mark.parametrize("name", SHOWN_AT_STEP_1)
def test_eps_placement_is_what_a_step_with_a_tiny_gradient_shows(name):
    info, gradient, eps = catalog[name], 1e-3, 1e-2
    expected = {
        "outside": gradient / (gradient + eps),
        "gradient": gradient / (gradient + eps),
        "clamp": gradient / eps,
    }[info.eps_placement]
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    optimizer = make(info, module, **{"eps": eps, "lr": 1.0, "weight_decay": 0.0, **SHOWN_AT_STEP_1[name]})
    module.weight.grad = torch.full_like(module.weight, gradient)
    optimizer.step()
    assert 1 - module.weight.item() == pytest.approx(expected, rel=1e-3)


def test_eps_placement_inside_for_adadelta():
    module = nn.Linear(1, 1, bias=False)
    before = module.weight.item()
    optimizer = optimizers.adadelta(module, rho=0.0, eps=1e-4)
    module.weight.grad = torch.full_like(module.weight, 1e-2)
    optimizer.step()
    assert before - module.weight.item() == pytest.approx(1e-2 * (1e-4 / (1e-4 + 1e-4)) ** 0.5, rel=1e-3)


def test_eps_placement_on_the_norm_of_the_matrix_for_muon():
    """The update does not depend on the gradient's size until the norm of the whole matrix is below eps."""
    updates = []
    for size in (1.0, 1e-2, 1e-9):
        module = nn.Linear(2, 2, bias=False)
        nn.init.zeros_(module.weight)
        optimizer = optimizers.muon(module, lr=1.0, eps=1e-4)
        module.weight.grad = size * torch.eye(2)
        optimizer.step()
        updates.append(-module.weight[0, 0].item())
    assert updates[1] == pytest.approx(updates[0], rel=0.05)
    assert updates[2] < updates[0] / 10


def test_every_eps_placement_has_a_test():
    assert {*SHOWN_AT_STEP_1, "adadelta", "muon", "radam"} == {n for n, i in catalog.items() if i.has_eps}


def test_eps_placement_outside_the_uncorrected_root_for_radam():
    eps, gradient, beta2 = 1e-2, 1e-3, 0.5
    module = nn.Linear(1, 1, bias=False)
    optimizer = optimizers.radam(module, lr=1.0, betas=(0.0, beta2), eps=eps)
    # With beta2 0.5 the length rho never passes 5 and no denominator is used; 0.9 passes it at step 6.
    optimizer.param_groups[0]["betas"] = (0.0, 0.9)
    before = module.weight.item()
    for _ in range(7):
        before = module.weight.item()
        module.weight.grad = torch.full_like(module.weight, gradient)
        optimizer.step()
    rho_inf, power = 2 / (1 - 0.9) - 1, 0.9**7
    rho = rho_inf - 2 * 7 * power / (1 - power)
    rectification = (((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
    root = gradient * (1 - power) ** 0.5
    expected = gradient * rectification * (1 - power) ** 0.5 / (root + eps)
    assert before - module.weight.item() == pytest.approx(expected, rel=1e-2)


def test_list_takes_a_glob_and_names_what_there_is_when_it_matches_nothing():
    assert list_optimizers() == list(catalog)
    assert list_optimizers("ada[gm]*") == ["adagrad", "adam", "adamax", "adamw"]
    with pytest.raises(
        ValueError, match=r"`pattern` must be one of adamw, .*, got 'admw'; did you mean 'adamw'"
    ):
        list_optimizers("admw")


def test_rows_of_the_table_have_one_set_of_keys():
    rows = catalog_rows()
    assert [row["optimizer"] for row in rows] == list(catalog)
    assert len({tuple(row) for row in rows}) == 1
    assert all(len(row["summary"]) < 100 and row["paper"] for row in rows)
    assert next(row for row in rows if row["optimizer"] == "sgd")["state"] == "[momentum_buffer]"
