"""Gradient descent's bounds, one preconditioned step, and adaptive optimizers on and off the axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_adapt.recipes.landscapes._bowls import SIZE, Bowls, bowls, train
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Finding, Outcome
from lightning_adapt.recipes.landscapes.quadratic import Quadratic, _arrivals

KAPPAS, RATES = (10.0, 1000.0), (0.3, 1.0)


def _study(**options: object) -> Outcome:
    chosen: dict[str, object] = {"kappa": 20.0, "kappas": KAPPAS, "rates": RATES, "steps": 400, "seeds": 3}
    return Quadratic(**{**chosen, **options}).run(Lab())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return _study()


@pytest.fixture(scope="module")
def found(outcome: Outcome) -> dict[str, Finding]:
    return {finding.claim: finding for finding in outcome.findings}


@pytest.mark.parametrize("way", ["axis-aligned", "rotated"])
def test_gradient_descent_by_its_textbook(found: dict[str, Finding], way: str) -> None:
    converges, diverges, best, factor = (
        finding for claim, finding in found.items() if claim.startswith(f"gradient descent, {way}")
    )
    assert converges.measured < 2 < diverges.measured
    assert diverges.measured / converges.measured < 1.01
    assert best.measured == pytest.approx(2 / (1 + 1 / 20), rel=0.01)
    assert factor.measured == pytest.approx(19 / 21, rel=1e-6)


def test_every_rate_has_the_factor_of_its_slowest_part(outcome: Outcome) -> None:
    curves = outcome.figures[0].curves
    _, predicted = curves["predicted, max |1 - rate·L|"]
    for way in ("axis-aligned", "rotated"):
        np.testing.assert_allclose(curves[f"measured, {way}"][1], predicted, rtol=1e-3)


def test_one_step_reaches_the_minimum_unless_diagonal_and_rotated(found: dict[str, Finding]) -> None:
    left = {claim: f.measured for claim, f in found.items() if claim.startswith("one step")}
    assert len(left) == 4
    for claim, distance in left.items():
        assert (distance < 1e-6) == (("1/diag(H)" in claim) <= ("axis-aligned" in claim))


@pytest.mark.parametrize("title", ["Adagrad", "RMSProp", "Adam"])
def test_along_the_axes_the_condition_number_plays_no_part(found: dict[str, Finding], title: str) -> None:
    finding = found[f"{title}, axis-aligned: steps to 1e-6, κ = 1000 as at κ = 10"]
    assert finding.measured == pytest.approx(finding.predicted, rel=1e-6)
    assert 1 < finding.measured < 300


def test_rotated_they_need_more_steps_and_do_not_arrive(found: dict[str, Finding]) -> None:
    for title, least in (("Adagrad", 1.5), ("Adam", 1.0)):
        claim = f"{title}, rotated: steps, κ = 1000 over κ = 10, mean less 3 standard errors"
        assert found[claim].measured > least
    away = [finding for claim, finding in found.items() if "does not stay" in claim]
    assert len(away) == 2
    assert all(finding.measured > 1e-3 for finding in away)


def test_what_does_not_hold_says_why(found: dict[str, Finding]) -> None:
    lost = [claim for claim, finding in found.items() if not finding.holds]
    assert len(lost) == 2
    assert lost[0] == "one step with P = 1/diag(H), rotated: distance left, largest over κ"
    assert lost[1] == "rotated, κ = 1000: distance left by the best of the three after 400 steps"
    assert all("loses its advantage" in found[claim].reason for claim in lost)


def test_a_large_epsilon_and_a_short_memory_break_it() -> None:
    findings = {f.claim: f for f in _study(kappa=2.0, eps=1e-3, rho=0.5, steps=20).findings}
    assert not findings["Adagrad, axis-aligned: steps to 1e-6, κ = 1000 as at κ = 10"].holds
    rmsprop = findings["RMSProp, axis-aligned: steps to 1e-6, κ = 1000 as at κ = 10"]
    assert not rmsprop.holds
    assert "nan" in rmsprop.reason


def test_an_interval_needs_two_seeds() -> None:
    with pytest.raises(ValueError, match="`seeds` must be 2 or more, got 1"):
        Quadratic(seeds=1)


def test_bowls_have_the_curvature_asked_for() -> None:
    hessians, starts = bowls((10.0, 1e4), 2, rotated=True)
    for k, kappa in enumerate((10.0, 1e4)):
        values = torch.linalg.eigvalsh(hessians[k, 1])
        assert float(values[-1] / values[0]) == pytest.approx(kappa, rel=1e-9)
    assert torch.equal(starts[0], starts[1])
    assert not torch.allclose(hessians[0, 0], hessians[0, 1])


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_a_unit_is_a_learning_rate(name: str) -> None:
    """The rates of one parameter do what torch does with a learning rate each."""
    hessians, starts = bowls((10.0,), 2, rotated=True)
    rates = torch.tensor([[0.1, 0.7]], dtype=torch.float64)
    more: dict[str, Any] = {} if name == "sgd" else {"eps": 1e-30}
    module = Bowls(hessians, starts, rates, name, **more)
    _, left = train(Lab(), module, steps=5, name="units")
    x: list[torch.Tensor] = [torch.nn.Parameter(start.clone()) for start in starts[0]]
    classes: dict[str, Any] = {
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
        "adam": torch.optim.Adam,
    }
    for parameter, hessian, rate in zip(x, hessians[0], rates[0], strict=True):
        optimizer = classes[name]([parameter], lr=float(rate), **more)
        for _ in range(5):
            parameter.grad = hessian @ parameter.detach()
            optimizer.step()
    moved = (module.unit * module.z.view(module.shape))[0]
    torch.testing.assert_close(moved.detach(), torch.stack(x).detach())
    z = torch.stack(x).detach() / module.unit[0]
    assert left[0, 0] == 1
    assert left[-1, 0] == pytest.approx(float(z.norm() / (starts / module.unit).norm()), rel=1e-9)


def test_arrival_between_readings() -> None:
    t = np.array([0.0, 10.0, 20.0])
    left = np.array([[1.0, 1.0, 1.0], [1e-3, 1.0, 1e-6], [1e-9, 1e-5, 1.0]])
    found = _arrivals(t, left)
    assert found[0] == pytest.approx(15)
    assert math.isnan(found[1])
    assert found[2] == 10
    assert SIZE == 10
