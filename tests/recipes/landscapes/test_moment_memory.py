"""Noise of both moments, the longest possible step, and trainings over a grid of decays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._moment_models import Cell
from lightning_adapt.recipes.landscapes._study import Finding, Outcome
from lightning_adapt.recipes.landscapes.moment_memory import MomentMemory

SMALL = {
    "memories": (0.9, 0.99),
    "copies": 150,
    "noise_steps": 400,
    "beta1s": (0.0, 0.5, 0.9, 0.99),
    "beta2s": (0.1, 0.5, 0.99),
    "worst_steps": 20,
    "seeds": 16,
    "steps": 120,
}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return MomentMemory(**SMALL).run(Lab())  # type: ignore[arg-type]


def _named(outcome: Outcome, words: str) -> Finding:
    (finding,) = (finding for finding in outcome.findings if words in finding.claim)
    return finding


@pytest.mark.parametrize(("beta", "averaged"), [(0.9, 19.0), (0.99, 199.0)])
def test_variances_under_pure_noise(outcome: Outcome, beta: float, averaged: float) -> None:
    spread = 4 * math.sqrt(2 / 150)
    for what, predicted in (("m", 1 / averaged), ("√v", 0.5 / averaged), ("effective lr", 0.5 / averaged)):
        finding = _named(outcome, f"β = {beta:g}: relative variance of {what}")
        assert finding.measured == pytest.approx(predicted, rel=spread + 0.1)
        assert finding.holds


def test_the_longest_step_is_the_formula_in_every_cell(outcome: Outcome) -> None:
    assert _named(outcome, "worst gradients").measured == pytest.approx(0, abs=1e-9)
    curves = outcome.figures[1].curves
    x, y = curves["measured, β1 = 0.9"]
    longest = dict(zip(x, y, strict=True))
    assert max(longest) == pytest.approx(0.9)
    assert longest[max(longest)] > 1e6  # β1² is 8 times β2
    ratio = 0.81 / 0.99
    total = (1 - ratio**20) / (1 - ratio)
    corrections = math.sqrt(1 - 0.99**20) / (1 - 0.9**20)
    assert longest[min(longest)] == pytest.approx(0.1 * math.sqrt(total / 0.01) * corrections, rel=1e-6)


@pytest.mark.parametrize("t", [1, 2, 30])
def test_no_random_gradients_go_farther_than_the_longest_step(t: int) -> None:
    random = np.random.default_rng(t)
    cell = Cell(0.9, 0.95)
    ago = np.arange(t)[::-1]
    gradients = random.normal(size=(2000, t)) * np.exp(random.normal(size=(2000, 1)) * ago)
    m = (gradients * 0.9**ago).sum(1) * 0.1 / (1 - 0.9**t)
    v = (gradients**2 * 0.95**ago).sum(1) * 0.05 / (1 - 0.95**t)
    assert (np.abs(m) / np.sqrt(v)).max() <= cell.longest(t) * (1 + 1e-12)
    assert Cell(0.9, 0.81).longest(1) == pytest.approx(1)


def test_which_cells_are_bounded() -> None:
    assert [Cell(0.9, beta2).bounded for beta2 in (0.5, 0.8, 0.82, 0.9, 0.999)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert Cell(0.9, 0.82).longest(5000) == pytest.approx(Cell(0.9, 0.82).longest(9000), rel=1e-6)
    assert Cell(0.9, 0.8).longest(3000) > 1e6
    assert Cell(0.99, 0.1).longest(1000) == math.inf


def test_trainings_end_well_where_m_does_not_outlive_v(outcome: Outcome) -> None:
    assert _named(outcome, "training: longest step").measured <= 1 + 1e-9
    assert _named(outcome, "β1 < √β2").measured == 0
    assert _named(outcome, "beyond chance").measured > 0.1
    assert _named(outcome, "beyond chance").holds


def test_the_sentence_that_all_cells_beyond_diverge_does_not_hold(outcome: Outcome) -> None:
    sentence = _named(outcome, "said to be all")
    assert sentence.measured < 1
    assert not sentence.holds
    assert "permits" in sentence.reason


def test_a_learning_rate_as_large_as_the_way_fails_everywhere() -> None:
    few = {**SMALL, "memories": (0.9,), "copies": 128, "noise_steps": 5, "seeds": 8}
    inside = _named(MomentMemory(lr=2.0, **few).run(Lab()), "β1 < √β2")  # type: ignore[arg-type]
    assert inside.measured > 0.05
    assert not inside.holds
