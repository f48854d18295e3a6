"""What the square root of v leaves of the condition number: bowls, a noisy minimum, networks."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_adapt.recipes.landscapes._bowls import condition
from lightning_adapt.recipes.landscapes._fisher_models import SIZES
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._preconditioner_models import HIDDEN, Network
from lightning_adapt.recipes.landscapes._study import Finding, Outcome
from lightning_adapt.recipes.landscapes.preconditioner import Preconditioner

TITLES = ["RMSProp", "Adam"]


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return Preconditioner(kappas=(10.0, 1e6)).run(Lab())


@pytest.fixture(scope="module")
def found(outcome: Outcome) -> dict[str, Finding]:
    return {finding.claim: finding for finding in outcome.findings}


@pytest.mark.parametrize("title", TITLES)
def test_along_the_axes(found: dict[str, Finding], title: str) -> None:
    assert found[f"{title}, axis-aligned, first step from all ones: largest left"].measured == pytest.approx(
        1, rel=1e-9
    )
    first = found[f"{title}, axis-aligned, first step: left is max|x|/min|x|"]
    assert first.measured == pytest.approx(first.predicted, rel=1e-9)
    assert first.measured > 5
    apart = found[f"{title}, axis-aligned: difference of what is left at κ = 1e+06 and κ = 10"]
    assert apart.measured < 1e-6
    end = found[f"{title}, axis-aligned, κ = 1e+06: left after 300 steps, √v = L"]
    assert 1.5 < end.measured < 100
    assert not end.holds
    assert "not equally far" in end.reason


@pytest.mark.parametrize("title", TITLES)
def test_rotated_nothing_is_gained(found: dict[str, Finding], title: str) -> None:
    assert found[f"{title}, rotated: left, over the least of any diagonal"].measured >= 1
    end = found[f"{title}, rotated, κ = 1e+06: left after 300 steps"]
    assert end.measured > 1e5
    assert not end.holds
    assert "loses its advantage" in end.reason


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize(("kappa", "root"), [("10", math.sqrt(10)), ("1e+06", 1000.0)])
def test_noise_leaves_the_root(found: dict[str, Finding], title: str, kappa: str, root: float) -> None:
    finding = found[f"{title}, noisy minimum, κ = {kappa}: left is √κ"]
    assert finding.measured == pytest.approx(root, rel=0.04)
    assert 0 < finding.tolerance < 0.04
    assert finding.holds


@pytest.mark.parametrize("title", TITLES)
def test_single_examples_teach_a_network_more_than_all_at_once(found: dict[str, Finding], title: str) -> None:
    single, whole = (
        found[f"{title}, network, {way}: left over κ(H), mean and 3 standard errors"]
        for way in ("single examples", "all examples")
    )
    assert single.holds
    assert single.measured < whole.measured
    assert whole.holds == (whole.measured <= 1)
    assert title != "Adam" or not whole.holds  # RMSProp's path is chaotic, and its number with it
    squares = found[f"{title}, network, single examples: left is that of √E(g²)"]
    assert squares.measured == pytest.approx(squares.predicted, rel=0.2)
    assert squares.holds


def test_enumerated_squares_predict_the_whole_way(outcome: Outcome) -> None:
    curves = outcome.figures[1].curves
    assert len(curves) == 6
    for title in TITLES:
        _, measured = curves[f"measured, {title}, single examples"]
        _, predicted = curves[f"predicted, {title}, single examples"]
        assert measured == pytest.approx(predicted, rel=0.3)
        assert max(measured) < 1


def test_hovering_rmsprop_learns_the_best_diagonal_and_a_large_epsilon_does_not() -> None:
    study = Preconditioner(rho=0.9, seeds=2, kappas=(10.0, 1e4))
    end = study._straight(Lab(), "rmsprop")[0][-1]
    assert end.holds
    assert end.measured == pytest.approx(1, abs=0.01)
    study = Preconditioner(eps=1e-3, seeds=2, kappas=(10.0, 1e4), steps=60)
    assert not study._straight(Lab(), "adam")[0][2].holds


def test_an_interval_needs_two_seeds() -> None:
    with pytest.raises(ValueError, match="`seeds` must be 2 or more, got 1"):
        Preconditioner(seeds=1)


def test_condition_number_by_hand() -> None:
    hessian = torch.tensor([[4.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    assert float(condition(hessian, torch.ones(2, dtype=torch.float64))) == pytest.approx(4)
    assert float(condition(hessian, torch.tensor([4.0, 1.0], dtype=torch.float64))) == pytest.approx(1)


def test_hessians_and_squares_are_those_of_single_networks() -> None:
    module = Network(2, 0, "adam", lr=0.1)
    place, size = module.theta.detach(), SIZES[HIDDEN]

    def one(theta: torch.Tensor) -> torch.Tensor:
        both = place.view(size, 2).clone()
        both = torch.stack([both[:, 0], theta], 1)
        return module.whole_loss(both.flatten())

    theta = place.view(size, 2)[:, 1].clone()
    expected = torch.autograd.functional.hessian(one, theta)
    torch.testing.assert_close(module.hessians(place)[1], expected)
    # The mean gradient is that of the whole loss, and the mean square is larger than its square.
    gradient = torch.autograd.functional.jacobian(one, theta)
    assert (module.squares(place)[1] >= gradient.square()).all()
