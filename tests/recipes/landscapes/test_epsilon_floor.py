"""Epsilon as a floor: the bounds of fp16, the broken first step, and the sweep."""

import math

import numpy as np
import pytest
import torch

from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes.epsilon_floor import HALF_SMALLEST, EpsilonFloor, EveryNumber


@pytest.fixture(scope="module")
def outcome():
    return EpsilonFloor().run(Lab())


@pytest.fixture(scope="module")
def findings(outcome):
    return {finding.claim: finding for finding in outcome.findings}


def test_half_of_the_smallest_number_is_where_fp16_becomes_0():
    above = math.nextafter(HALF_SMALLEST, 1.0)
    # Through fp32 first, as torch does it, a number this close would become the tie.
    assert np.float16(HALF_SMALLEST) == 0
    assert np.float16(above) > 0


def test_every_fp16_number_up_to_1_is_a_gradient_once():
    g = EveryNumber("Adam").g
    assert len(g) == 15360
    assert g.min() == 2.0**-24
    assert g.max() == 1
    assert bool((g[1:] > g[:-1]).all())


@pytest.mark.parametrize(
    ("beginning", "value", "holds"),
    [
        ("largest |g| whose g² is 0 in fp16, √2^-25", 1.7263e-4, True),
        ("largest |g| whose g² is 0 in fp16, said to be", 1.7263e-4, False),  # said: 2.44e-4
        ("largest |g| whose (1-β2)g² is 0", 5.4592e-3, True),
    ],
)
def test_bounds_of_underflow(findings, beginning, value, holds):
    finding = next(f for claim, f in findings.items() if claim.startswith(beginning))
    assert finding.measured == pytest.approx(value, rel=2.0**-10)
    assert finding.holds == holds
    assert bool(finding.reason) != holds


@pytest.mark.parametrize(
    ("claim", "share"),
    [
        ("share inf or NaN after one step, ε=1e-08, single", 7575 / 15360),
        ("share inf or NaN after one step, ε=1e-08, foreach", 7575 / 15360),
        ("share inf or NaN after one step, ε=0.0001, single", 0),
        ("share that the table calls underflow", 7575 / 15360),
    ],
)
def test_shares_of_broken_elements(findings, claim, share):
    assert findings[claim].measured == pytest.approx(share, abs=1e-12)
    assert findings[claim].holds


def test_the_same_elements_break_that_underflowed(findings):
    assert findings["elements that are not in both: v = ε = 0, and inf or NaN"].measured == 0


@pytest.mark.parametrize("beginning", ["effective lr against", "first step against"])
def test_sweep_equals_the_formula(findings, beginning):
    finding = next(f for claim, f in findings.items() if claim.startswith(beginning))
    assert finding.predicted == 0
    assert finding.measured < 1e-6


def test_smallest_epsilon_of_fp16(findings):
    assert findings["smallest ε of the sweep with finite rates in fp16"].measured == 1e-7


def test_figures_show_both_ends(outcome):
    assert [figure.title.split("= ")[-1] for figure in outcome.figures] == ["1e-05", "0.001", "0.1"] * 2
    rates, left = outcome.figures[1], outcome.figures[4]
    assert len(rates.curves["measured, float64"][0]) == 12
    assert min(rates.curves["measured, float16"][0]) == 1e-7  # below that they are infinite
    x, y = left.curves["float16"]
    assert max(y[:2]) > 1  # 1e-7 and 1e-6 are held, but throw the parameter away
    assert y[x.index(1e-4)] < 0.1
    assert y[-1] > 0.99  # damped


def test_large_gradients_feel_no_small_epsilon(outcome):
    x, y = outcome.figures[5].curves["float16"]
    assert len(x) == 12  # v does not vanish, so ε may
    assert max(y[:6]) < 0.1


@pytest.mark.parametrize(("dtype", "broken"), [("float64", 0), ("bfloat16", 0), ("float16", 6)])
def test_both_ends_in_every_dtype(findings, dtype, broken):
    lost, damped = (finding for claim, finding in findings.items() if claim.startswith(f"{dtype}: "))
    assert (lost.predicted, lost.measured) == (broken, broken)
    assert damped.measured > 0.98
    assert damped.holds


@pytest.mark.parametrize(("beta2", "bound"), [(0.9, math.sqrt(2.0**-25 / 0.1)), (0.0, 2.0**-12.5)])
def test_bound_follows_beta2(beta2, bound):
    found = EpsilonFloor(beta2=beta2)._bounds(Lab())[2]
    assert found.predicted == pytest.approx(bound)
    assert found.holds


def test_a_wrong_beta2_would_be_seen(monkeypatch):
    study = EpsilonFloor()
    monkeypatch.setattr(study, "_adam", lambda eps: EveryNumber("Adam", betas=(0.9, 0.99), eps=eps))
    assert not study._bounds(Lab())[2].holds


def test_an_epsilon_that_fp16_holds_breaks_nothing():
    for finding in EpsilonFloor(eps=1e-7)._first_step(Lab())[:2]:
        assert finding.measured == 0
        assert finding.holds


def test_prediction_rounds_as_the_dtype_does():
    study = EpsilonFloor(lr=1.0)
    assert study._rate("float16", 1e-8, 1e-5) == math.inf
    assert study._rate("float16", 1e-7, 1e-5) == 2.0**23  # 1e-7 is two of the smallest numbers
    assert study._rate("float64", 0.5, 0.5) == pytest.approx(1.0)
    assert torch.tensor(1e-7, dtype=torch.float16).item() == 2.0**-23
