"""The predicted update is the real one: every optimizer, over steps, options and dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.cases import OPTIMIZERS, Case, all_optimizers, train_rows
from torch import nn

from lightning_adapt.dynamics import CanonicalStep, DynamicsProbe, StepView, register_rule
from lightning_adapt.dynamics.canonical import as_real, rounded
from lightning_adapt.dynamics.engines.reference import predicted_update
from lightning_adapt.dynamics.rows import Circumstances, build_rows, members
from lightning_adapt.dynamics.update_rules import _RULES, rule_for
from lightning_adapt.optimizers import catalog

# Update sizes here are 1e-3 to 1e-1 of parameters of order 1: what remains is the rounding of the parameter.
DTYPES = [
    # dtype, atol, rtol
    (torch.float64, 1e-14, 1e-9),
    (torch.float32, 3e-7, 2e-5),
]


@pytest.mark.parametrize(("dtype", "atol", "rtol"), DTYPES, ids=["float64", "float32"])
@all_optimizers
def test_predicted_update_equals_real_update(
    case: Case, dtype: torch.dtype, atol: float, rtol: float
) -> None:
    if dtype == torch.float64 and case.cls.__name__ in ("Muon", "Adafactor"):
        atol, rtol = 1e-9, 1e-6  # bf16 Newton-Schulz; float32 norms
    if case.cls is torch.optim.ASGD:
        rtol = max(rtol, 1e-7)  # torch keeps eta in float32
    for step, (rows, real) in enumerate(train_rows(case, dtype)):
        for row in rows:
            predicted = predicted_update(row) if row.canonical is not None else 0.0
            expected = real[row.info.name].double().numpy()
            np.testing.assert_allclose(
                predicted, expected, atol=atol, rtol=rtol, err_msg=f"{row.info.name} at step {step}"
            )


@all_optimizers
def test_prediction_without_snapshot_is_close(case: Case) -> None:
    # Adafactor's rate follows the size of the parameter, of which only the value after the step is left.
    rtol = 2e-2 if case.cls.__name__ == "Adafactor" else 1e-6
    for rows, real in train_rows(case, torch.float64, snapshot=False):
        for row in rows:
            if row.canonical is not None and row.info.name == "first.weight":
                expected = real[row.info.name].double().numpy()
                if case.cls is torch.optim.Adadelta and case.options.get("weight_decay"):
                    np.testing.assert_allclose(predicted_update(row), expected, rtol=1e-2, atol=1e-6)
                else:
                    np.testing.assert_allclose(predicted_update(row), expected, rtol=rtol, atol=1e-4 * rtol)


def test_every_optimizer_of_the_catalog_has_a_rule_and_is_tested() -> None:
    tested = {case.cls for case in OPTIMIZERS}
    for info in catalog.values():
        cls = getattr(torch.optim, info.class_name, None)
        if cls is not None:
            assert rule_for(cls) is not None, info.name
            assert cls in tested, info.name


def test_lbfgs_has_no_rule() -> None:
    assert rule_for(torch.optim.LBFGS) is None


def test_subclass_uses_the_rule_of_its_base() -> None:
    class Mine(torch.optim.AdamW):
        pass

    mine, base = rule_for(Mine), rule_for(torch.optim.AdamW)
    assert mine is not None
    assert base is not None
    assert mine.read is base.read
    assert base.exact
    assert not mine.exact  # it may step otherwise
    assert rule_for(Mine([nn.Parameter(torch.ones(1))])) == mine


def test_own_rule_in_five_lines() -> None:
    class Halving(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(0.5 * group["lr"] * parameter.grad)

    @register_rule(Halving)
    def halving(view: StepView) -> CanonicalStep:
        return CanonicalStep(lr=0.5 * view.group["lr"], gradient_factor=1.0)

    try:
        model = nn.Linear(3, 2)
        with DynamicsProbe(Halving(model.parameters(), lr=0.1), model, snapshot=False, strict=True) as probe:
            before = model.weight.detach().clone()
            model(torch.ones(1, 3)).sum().backward()
            probe.optimizer.step()
        assert probe.table is not None
        assert probe.table["weight", "effective_lr_p50"] == pytest.approx(0.05)
        real = (model.weight - before).square().mean().sqrt().item()
        assert probe.table["weight", "update_rms"] == pytest.approx(real, rel=1e-6)
    finally:
        del _RULES[Halving]


def test_register_rule_refuses_what_is_no_optimizer() -> None:
    with pytest.raises(TypeError, match=r"`optimizer_class` must be a subclass of torch\.optim\.Optimizer"):
        register_rule(nn.Linear)  # type: ignore[arg-type]


@pytest.mark.parametrize("needs", [{"remember": ("eta",)}, {"prepare": lambda view: {}}])
def test_register_rule_refuses_to_share_what_each_parameter_has_of_its_own(needs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`shared` must be False for a rule with `remember` or `prepare`"):
        register_rule(torch.optim.SGD, shared=True, **needs)


def _one_step(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> tuple[object, torch.Tensor]:
    before = parameter.detach().clone()
    optimizer.step()
    names = {id(parameter): "p"}
    now = Circumstances({id(parameter): as_real(before)})
    (row,) = build_rows(optimizer, members(optimizer, names), now)
    return row, as_real(parameter.detach()) - as_real(before)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("cls", [torch.optim.SparseAdam, torch.optim.Adagrad, torch.optim.SGD])
@pytest.mark.parametrize("maximize", [False, True])
def test_sparse_gradients(cls: type[torch.optim.Optimizer], maximize: bool) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(10, 4, sparse=True)
    optimizer = cls(table.parameters(), lr=0.1, maximize=maximize)  # type: ignore[call-arg]
    for _ in range(12):
        optimizer.zero_grad()
        # Row 7 twice: the gradient is not coalesced; rows 3, 5 and 6 are never named.
        table(torch.randint(0, 3, (4,)).add(torch.tensor([0, 0, 7, 7]))).square().sum().backward()
        row, real = _one_step(optimizer, table.weight)
        np.testing.assert_allclose(predicted_update(row), real.double().numpy(), atol=2e-7, rtol=1e-5)  # type: ignore[arg-type]
        assert not real[5].any()


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.SGD])
def test_complex_parameters_count_as_two_numbers(cls: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))
    optimizer = cls([parameter], lr=0.01, weight_decay=0.1)  # type: ignore[call-arg]
    for _ in range(12):
        optimizer.zero_grad()
        (parameter * (2 - 1j)).abs().square().sum().backward()
        row, real = _one_step(optimizer, parameter)
        assert row.parameter.numel() == 24  # type: ignore[attr-defined]
        np.testing.assert_allclose(predicted_update(row), real.double().numpy(), atol=3e-7, rtol=1e-5)  # type: ignore[arg-type]


def test_tensor_lr_and_betas() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(4, 3))
    betas = (torch.tensor(0.9), torch.tensor(0.99))
    optimizer = torch.optim.Adam([parameter], lr=torch.tensor(0.02), betas=betas, foreach=False)  # type: ignore[arg-type]
    for _ in range(12):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        row, real = _one_step(optimizer, parameter)
        np.testing.assert_allclose(predicted_update(row), real.double().numpy(), atol=3e-7, rtol=1e-4)  # type: ignore[arg-type]


def test_asgd_without_the_remembered_eta_follows_the_formula() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(4))
    optimizer = torch.optim.ASGD([parameter], lr=0.1, lambd=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        row, real = _one_step(optimizer, parameter)
        np.testing.assert_allclose(predicted_update(row), real.double().numpy(), rtol=1e-4)  # type: ignore[arg-type]


def test_prediction_needs_a_canonical_step() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    (row,) = build_rows(optimizer, members(optimizer, {}), Circumstances())
    assert row.canonical is None
    with pytest.raises(ValueError, match="must have a canonical step"):
        predicted_update(row)


def test_eps_is_what_the_step_really_added() -> None:
    def view(fused: bool) -> StepView:
        return StepView(torch.ones(1), None, {}, {"eps": 1e-8, "fused": fused}, 1)

    half = torch.zeros(1, dtype=torch.float16)
    assert view(False).eps(half) == 0.0  # 1e-8 is no fp16 number
    assert view(True).eps(half) == rounded(1e-8, torch.float32)  # the fused kernel works in fp32
    assert view(False).eps(half.float()) == rounded(1e-8, torch.float32)
    assert view(False).eps(half.double()) == 1e-8
