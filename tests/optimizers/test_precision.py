"""Number precision: a given eps is never changed, and a default one is never left to round to 0."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_adapt import optimizers
from lightning_adapt.optimizers import PrecisionWarning, catalog
from lightning_adapt.optimizers._precision import (
    FLOAT16_EPS,
    PRECISIONS,
    choose_fused,
    largest_decaying_beta,
    read_precision,
    state_dtype,
)

HALF, BF16 = torch.float16, torch.bfloat16


def linear(dtype: torch.dtype = torch.float32) -> nn.Linear:
    return nn.Linear(2, 2, bias=False, dtype=dtype)


def first_eps(optimizer: torch.optim.Optimizer) -> object:
    return optimizer.param_groups[0]["eps"]


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(HALF, None), (HALF, "16-mixed"), (torch.float32, "16-true")],
    ids=["converted", "converted, whatever is said", "to be converted"],
)
@pytest.mark.parametrize("name", ["adagrad", "adam", "adamax", "adamw", "nadam", "radam", "rmsprop"])
def test_default_eps_is_replaced_in_float16_and_said(name, dtype, precision):
    default = catalog[name].defaults["eps"]
    message = rf"{name}: eps was left out and is set to 0.0001 .* {default:g} rounds to 0 there"
    with pytest.warns(PrecisionWarning, match=message) as caught:
        optimizer = getattr(optimizers, name)(linear(dtype), precision=precision)
    assert first_eps(optimizer) == FLOAT16_EPS
    assert caught[0].filename == __file__


@pytest.mark.parametrize("given", [1e-8, 0.0, 2.9e-8])
@pytest.mark.parametrize("how", ["argument", "override", "ready group"])
def test_a_given_eps_that_is_lost_in_float16_is_refused(given, how):
    module = linear(HALF)
    groups = [{"params": module.weight, "eps": given}]
    call = {
        "argument": lambda: optimizers.adamw(module, eps=given),
        "override": lambda: optimizers.adamw(module, overrides={"*": {"eps": given}}),
        "ready group": lambda: optimizers.adamw(groups),
    }[how]
    with pytest.raises(
        ValueError, match=rf"`eps` must not round to 0 in float16 .*, got {given}; leave it out"
    ):
        call()


def test_a_given_eps_that_float16_holds_is_kept():
    with pytest.warns(PrecisionWarning) as caught:
        optimizer = optimizers.adamw(linear(HALF), eps=1e-6)
    assert first_eps(optimizer) == 1e-6
    assert "eps" not in str(caught[0].message)


def test_the_refused_eps_really_breaks_float16_and_the_chosen_one_does_not():
    """The sentence is no superstition: torch's own step goes to inf or nan with 1e-8."""
    gradient = torch.tensor([[0.0, 1e-4], [1e-3, 0.1]], dtype=HALF)
    for eps, is_finite in ((1e-8, False), (FLOAT16_EPS, True)):
        module = linear(HALF)
        optimizer = torch.optim.AdamW(module.parameters(), eps=eps)
        module.weight.grad = gradient.clone()
        optimizer.step()
        assert bool(module.weight.isfinite().all()) == is_finite


def test_the_fused_kernel_keeps_a_small_eps_but_not_zero():
    with pytest.warns(PrecisionWarning, match=r"eps 1e-08 rounds to 0 in float16; only the fused kernel"):
        optimizer = optimizers.adamw(linear(HALF), eps=1e-8, fused=True)
    assert first_eps(optimizer) == 1e-8
    with pytest.raises(ValueError, match="must not round to 0"):
        optimizers.adamw(linear(HALF), eps=0.0, fused=True)


def test_adafactor_is_judged_by_the_square_it_uses():
    with pytest.warns(PrecisionWarning, match="second moment") as caught:
        assert first_eps(optimizers.adafactor(linear(HALF))) == (None, 1e-3)
    assert "eps was" not in str(caught[0].message)
    with pytest.raises(ValueError, match=r"`eps` must not round to 0 .*got \(0\.0001, 0\.001\)"):
        optimizers.adafactor(linear(HALF), eps=(1e-4, 1e-3))


@pytest.mark.parametrize("name", ["sgd", "muon"])
@pytest.mark.parametrize("dtype", [HALF, BF16])
def test_without_second_moment_there_is_nothing_to_say(name, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(optimizers, name)(linear(dtype))


@pytest.mark.parametrize("precision", [None, "32-true", "16-mixed", "bf16-mixed", "64-true"])
@pytest.mark.parametrize("name", list(catalog))
def test_float32_state_is_left_alone(name, precision):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = getattr(optimizers, name)(linear(), precision=precision)
    if catalog[name].has_eps:
        assert first_eps(optimizer) == catalog[name].defaults["eps"]


def test_only_the_groups_with_float16_state_are_changed():
    net = nn.ModuleDict({"low": linear(HALF), "high": linear()})
    with pytest.warns(PrecisionWarning, match="in the groups with float16 state"):
        optimizer = optimizers.adam(net, overrides={"low.*": {}})
    assert [(group["name"], group["eps"]) for group in optimizer.param_groups] == [
        ("low.*/decay", FLOAT16_EPS),
        ("decay", 1e-8),
    ]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("adamw", {}, r"bfloat16 state the second moment cannot decay: v \* 0\.999 .*at most 0\.99609375"),
        ("adamw", {"betas": (0.9, 0.995)}, None),
        ("adamw", {"overrides": {"*": {"betas": (0.9, 0.999)}}, "betas": (0.9, 0.9)}, "cannot decay"),
        ("rmsprop", {}, None),
        ("rmsprop", {"alpha": 0.999}, r"v \* 0\.999"),
        ("adadelta", {"rho": 0.9999}, r"v \* 0\.9999"),
        ("adadelta", {}, None),
        ("adagrad", {}, "the sum stops growing once a squared gradient is less than 0.002 of it"),
        ("adafactor", {}, None),
    ],
)
def test_what_bfloat16_state_cannot_do_is_said(name, options, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(optimizers, name)(linear(BF16), **options)
    assert len(caught) == (told is not None)
    if told is not None:
        with pytest.warns(PrecisionWarning, match=told):
            getattr(optimizers, name)(linear(BF16), **options)


def test_float16_underflow_is_said_with_its_limit():
    with pytest.warns(PrecisionWarning, match="gradients below about 0.005 is 0"):
        optimizers.adamw(linear(HALF))
    v = torch.zeros(2, dtype=HALF)
    v.addcmul_(*[torch.tensor([0.005, 0.006], dtype=HALF)] * 2, value=1 - 0.999)
    assert (v > 0).tolist() == [False, True]
    with pytest.warns(PrecisionWarning) as caught:  # Adamax keeps |g|, not its square
        optimizers.adamax(linear(HALF))
    assert "gradients below" not in str(caught[0].message)


@pytest.mark.parametrize("dtype", [HALF, BF16])
def test_largest_decaying_beta_is_where_torch_stops_shrinking(dtype):
    step = torch.finfo(dtype).eps
    binade = (1 + step * torch.arange(round(1 / step), dtype=torch.float64)).to(dtype)
    limit = largest_decaying_beta(dtype)
    assert not (binade * limit == binade).any()
    assert (binade * (limit + step / 64) == binade).any()
    assert (binade * (1 - step / 4.1) == binade).all()


def test_the_sum_of_adagrad_really_stops_in_bfloat16():
    module = linear(BF16)
    with pytest.warns(PrecisionWarning, match="the sum stops growing"):
        optimizer = optimizers.adagrad(module, initial_accumulator_value=1.0)
    module.weight.grad = torch.full_like(module.weight, (torch.finfo(BF16).eps / 4.1) ** 0.5)
    for _ in range(3):
        optimizer.step()
    assert bool((optimizer.state[module.weight]["sum"] == 1).all())


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_of_lightning_is_known(name):
    assert read_precision(name) == name


def test_short_names_are_lightnings():
    assert [read_precision(p) for p in ("16", "bf16", "32", 32, "64")] == [
        "16-mixed",
        "bf16-mixed",
        "32-true",
        "32-true",
        "64-true",
    ]


@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [
        (torch.float32, "bf16-true", BF16),
        (torch.float64, "16-true", torch.float64),
        (torch.complex64, None, torch.float32),
        (BF16, "32-true", BF16),
    ],
)
def test_state_dtype(dtype, precision, expected):
    assert state_dtype(torch.zeros(1, dtype=dtype), precision) == expected


def test_precision_is_asked_of_the_trainer():
    module = linear()
    module.trainer = SimpleNamespace(precision="16-true")  # type: ignore[assignment]
    with pytest.warns(PrecisionWarning, match="eps was left out"):
        assert first_eps(optimizers.adam(module)) == FLOAT16_EPS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizers.adam(module, precision="32-true")  # what is said goes
        module.trainer = SimpleNamespace(precision="of some plugin")  # type: ignore[assignment]
        optimizers.adam(module)


def on_cuda(dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    """Stand-in with what the choice looks at: this machine may have no such device."""
    return SimpleNamespace(is_cuda=True, dtype=dtype, data=torch.zeros(1))


@pytest.mark.parametrize(
    ("name", "parameter", "options", "precision", "expected"),
    [
        ("adamw", on_cuda(), {}, None, True),
        ("adam", on_cuda(torch.float64), {}, "64-true", True),
        ("adamw", on_cuda(), {"fused": False}, None, False),
        ("adamw", on_cuda(), {"foreach": True}, None, None),
        ("adamw", on_cuda(), {}, "16-mixed", None),
        ("adamw", on_cuda(), {}, "bf16-mixed", None),
        ("adamw", on_cuda(), {}, "bf16-true", None),
        ("adamw", on_cuda(HALF), {}, None, None),
        ("adamw", torch.zeros(1), {}, None, None),
        ("adamw", torch.zeros(1), {"fused": True}, "16-mixed", True),
        ("sgd", on_cuda(), {}, None, None),
        ("rmsprop", on_cuda(), {}, None, None),
    ],
)
def test_fused_is_chosen_only_where_it_is_safe(name, parameter, options, precision, expected):
    assert choose_fused(catalog[name], [{"params": [parameter]}], options, precision) is expected


@pytest.mark.gpu
def test_fused_is_chosen_on_a_real_device_and_steps():
    module = linear().cuda()
    optimizer = optimizers.adamw(module)
    assert optimizer.param_groups[0]["fused"] is True
    before = module.weight.detach().clone()
    module(torch.ones(1, 2, device="cuda")).sum().backward()
    optimizer.step()
    assert not torch.equal(before, module.weight)
    assert optimizers.adamw(module, precision="16-mixed").param_groups[0]["fused"] is None
