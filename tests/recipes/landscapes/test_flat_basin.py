"""Steps across a flat basin, against closed forms for the sums of step lengths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Finding, Outcome
from lightning_adapt.recipes.landscapes._travel import steps_to
from lightning_adapt.recipes.landscapes.flat_basin import FlatBasin

ZETA_HALF = -1.4603545088095868


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return FlatBasin(distance=2.0, rho=0.5).run(Lab())


@pytest.fixture(scope="module")
def blunt() -> list[Finding]:
    """With a large epsilon, and a memory that is no longer short beside the way."""
    return list(FlatBasin(distance=2.0, rho=0.9, eps=1e-2).run(Lab()).findings)


def test_adagrad_needs_the_square(outcome: Outcome) -> None:
    finding = outcome.findings[0]
    assert finding.predicted == pytest.approx(400)
    # Euler and Maclaurin: the sum of 1/sqrt(t) is 2·sqrt(n) + zeta(1/2) + 1/(2·sqrt(n)).
    root = (40 - ZETA_HALF) / 2
    assert finding.measured == pytest.approx((root - 0.25 / root) ** 2, abs=0.1)


def test_rmsprop_and_adam_need_as_many_steps_as_lr_goes_into_the_way(outcome: Outcome) -> None:
    rmsprop, adam = outcome.findings[3], outcome.findings[6]
    assert rmsprop.predicted == adam.predicted == pytest.approx(40)
    ahead = sum(1 / math.sqrt(1 - 0.5**t) - 1 for t in range(1, 60))
    assert rmsprop.measured == pytest.approx(40 - ahead, rel=1e-6)
    assert adam.measured == pytest.approx(40, rel=1e-9)


def test_the_slope_does_not_matter_but_to_gradient_descent(outcome: Outcome) -> None:
    for index in (2, 5, 7, 8):
        assert outcome.findings[index].measured == pytest.approx(0, abs=1e-9)
    assert all(finding.holds for finding in outcome.findings)


def test_the_curves_are_a_root_and_lines(outcome: Outcome) -> None:
    curves = {name: (np.array(x), np.array(y)) for name, (x, y) in outcome.figures[0].curves.items()}
    for name, power in {"measured, Adagrad": 0.5, "measured, Adam": 1.0, "measured, RMSProp": 1.0}.items():
        x, y = (values[len(values) // 2 :] for values in curves[name])
        assert np.polyfit(np.log(x), np.log(y), 1)[0] == pytest.approx(power, abs=0.03)
    x, y = curves["gradient descent, slope 0.01"]
    np.testing.assert_allclose(y, 0.05 * 0.01 * x, rtol=1e-9)


def test_a_slope_below_epsilon_is_felt(blunt: list[Finding]) -> None:
    for index in (2, 5, 7):
        assert not blunt[index].holds
        assert blunt[index].measured > 0.5
    assert not blunt[6].holds


def test_a_memory_that_is_long_beside_the_way_makes_rmsprop_faster_than_said(blunt: list[Finding]) -> None:
    assert not blunt[3].holds
    assert blunt[3].measured < 0.8 * blunt[3].predicted
    assert blunt[4].holds


def test_steps_to_reads_between_readings_and_knows_what_was_not_reached() -> None:
    steps, way = np.array([2.0, 4.0]), np.array([1.0, 5.0])
    assert steps_to(0.5, steps, way) == 1.0
    assert steps_to(3.0, steps, way) == 3.0
    assert steps_to(5.1, steps, way) == math.inf
