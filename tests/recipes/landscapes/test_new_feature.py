"""A feature that appears late, against closed forms for three pasts of its parameter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Finding, Outcome
from lightning_adapt.recipes.landscapes.new_feature import NewFeature

SMALL = {"silent": 60, "distance": 0.5, "lr": 0.05, "rho": 0.95}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return NewFeature(**SMALL).run(Lab())  # type: ignore[arg-type]


def _named(outcome: Outcome, *words: str) -> Finding:
    (finding,) = (f for f in outcome.findings if all(word in f.claim for word in words))
    return finding


def test_a_silent_feature_keeps_its_full_rate(outcome: Outcome) -> None:
    assert outcome.findings[0].measured == pytest.approx(0.05, rel=1e-6)
    assert outcome.findings[0].holds


def test_the_textbook_sentence_is_reported_as_not_holding(outcome: Outcome) -> None:
    sentence = _named(outcome, "said to have decayed")
    assert sentence.predicted == pytest.approx(0.05 / math.sqrt(61), rel=1e-6)
    assert not sentence.holds
    assert "zero gradients add nothing" in sentence.reason


def test_first_steps_of_a_silent_feature(outcome: Outcome) -> None:
    assert _named(outcome, "RMSProp's first step").measured == pytest.approx(1 / math.sqrt(0.05), rel=1e-6)
    correction = math.sqrt(1 - 0.999**61) / (1 - 0.9**61)
    measured = _named(outcome, "Adam's first step").measured
    assert measured == pytest.approx(0.1 / math.sqrt(0.001) * correction, rel=1e-6)


def test_noise_before_makes_adagrad_slow_and_rmsprop_not(outcome: Outcome) -> None:
    slow = _named(outcome, "noise before, Adagrad")
    assert slow.measured == pytest.approx(10 * math.sqrt(60) + 25, rel=0.1)
    assert _named(outcome, "noise before, RMSProp").measured == pytest.approx(10, rel=0.35)
    ratio = _named(outcome, "noise before: steps of Adagrad over")
    assert ratio.measured == pytest.approx(math.sqrt(60) + 2.5, rel=0.35)
    assert slow.holds
    assert ratio.holds


def test_a_shared_parameter_is_slower_still(outcome: Outcome) -> None:
    shared = _named(outcome, "shared", ", Adagrad")
    # 10·sqrt(60) + (1 + 1)·25: the noise goes on, and adds to v.
    assert shared.measured == pytest.approx(10 * math.sqrt(60) + 50, rel=0.15)
    assert shared.measured > _named(outcome, "noise before, Adagrad").measured
    assert all(finding.holds for finding in outcome.findings if "said" not in finding.claim)


def test_drawn_ways_begin_when_the_feature_appears(outcome: Outcome) -> None:
    ways, rates = (figure.curves for figure in outcome.figures)
    for name in ("Adagrad, zero", "Adagrad, noisy", "RMSProp, noisy"):
        (x, y), (_, predicted) = ways[f"measured, {name}"], ways[f"predicted, {name}"]
        assert x[0] < 60
        np.testing.assert_allclose(y, predicted, rtol=0.35)
    assert (np.diff(rates["measured, Adagrad, noisy"][1]) < 0).all()


def test_without_noise_the_claim_about_noise_is_empty() -> None:
    outcome = NewFeature(noise=0.0, seeds=2, **SMALL).run(Lab())  # type: ignore[arg-type]
    silent = _named(outcome, "zero before, Adagrad").measured
    assert _named(outcome, "noise before, Adagrad").measured == pytest.approx(silent, rel=1e-9)
