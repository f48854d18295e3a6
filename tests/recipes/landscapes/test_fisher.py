"""Adagrad's accumulator is the Fisher diagonal with the model's labels, and is not with the data's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_adapt.recipes.landscapes._fisher_models import CLASSES, INPUTS, SIZES, exact, logits
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Finding
from lightning_adapt.recipes.landscapes.fisher import Fisher, _mean_size


def _by_claim(**options: float) -> dict[str, Finding]:
    outcome = Fisher(**options).run(Lab())  # type: ignore[arg-type]
    assert [len(curve[0]) for curve in outcome.figures[0].curves.values()] == [16, 16, 2] * 2
    return {finding.claim: finding for finding in outcome.findings}


@pytest.fixture(scope="module")
def found() -> dict[str, Finding]:
    return _by_claim(seed=7)  # not the seed of the default run


@pytest.mark.parametrize("model", ["softmax", "network"])
def test_labels_of_the_model_accumulate_the_fisher_diagonal(found: dict[str, Finding], model: str) -> None:
    mean = found[f"{model}: mean |G/T - F|/F"]
    # 16 seeds, each a mean of at least one independent |normal|, whose spread is 0.76 of its mean.
    assert mean.measured == pytest.approx(mean.predicted, rel=4 * 0.76 / 4)
    assert mean.tolerance < mean.predicted * 3 * 0.76 / 4 * 1.5
    largest = found[f"{model}: largest deviation in standard errors"]
    assert 1 < largest.measured < largest.predicted < 6
    slope = found[f"{model}: it shrinks as T to the power"]
    assert slope.measured == pytest.approx(-0.5, abs=slope.tolerance)
    assert slope.tolerance < 0.25


@pytest.mark.parametrize("model", ["softmax", "network"])
def test_labels_of_the_data_do_not(found: dict[str, Finding], model: str) -> None:
    wrong = found[f"{model}, labels of the data: mean |G/T - F|/F"]
    assert wrong.measured == pytest.approx(wrong.predicted, rel=0.1)
    assert wrong.tolerance < 0.1 * wrong.predicted
    assert wrong.measured > 5 * found[f"{model}: mean |G/T - F|/F"].measured


@pytest.mark.parametrize(
    ("step", "least", "most"),
    [
        ("natural gradient", 0, 1e-10),
        ("natural gradient, diagonal", 0.1, 10),
        ("Adagrad", 0.1, 10),
        ("gradient descent", 0.1, 100),
    ],
)
def test_only_the_whole_natural_gradient_is_the_same_in_all_coordinates(
    found: dict[str, Finding], step: str, least: float, most: float
) -> None:
    finding = found[f"{step}: its step of the function differs in new coordinates by"]
    assert least <= finding.measured <= most
    assert finding.measured == pytest.approx(finding.predicted, rel=1e-6, abs=1e-10)


def test_everything_holds(found: dict[str, Finding]) -> None:
    assert len(found) == 12
    assert all(finding.holds for finding in found.values())


def test_fewer_copies_and_steps_are_less_certain(found: dict[str, Finding]) -> None:
    few = _by_claim(copies=4, steps=32)
    for model in ("softmax", "network"):
        for claim in (f"{model}: mean |G/T - F|/F", f"{model}, labels of the data: mean |G/T - F|/F"):
            assert few[claim].holds
            assert few[claim].tolerance > 2 * found[claim].tolerance


def test_noise_makes_the_mean_deviation_larger() -> None:
    draws = np.random.default_rng(0).normal([0.0, 0.5, 3.0], 1.0, (200_000, 3))
    expected = _mean_size(np.array([0.0, 0.5, 3.0]), np.ones(3))
    np.testing.assert_allclose(np.abs(draws).mean(0), expected, atol=5 / math.sqrt(200_000))


def test_with_parameters_that_move_the_claim_fails() -> None:
    found = _by_claim(lr=1.0, steps=64)
    for model in ("softmax", "network"):
        assert not found[f"{model}: largest deviation in standard errors"].holds
        assert not found[f"{model}: mean |G/T - F|/F"].holds


@pytest.mark.parametrize("hidden", SIZES)
def test_the_enumerated_gradients_are_those_of_single_models(hidden: int) -> None:
    theta, x = torch.randn(SIZES[hidden], dtype=torch.float64), torch.randn(3, INPUTS, dtype=torch.float64)
    gradient, p = exact(theta, x, hidden)
    np.testing.assert_allclose((gradient * p).sum(2), 0, atol=1e-12)  # the mean of a score is 0

    def log_likelihood(values: torch.Tensor) -> torch.Tensor:
        return logits(values[:, None], x[1:2], hidden).log_softmax(1)[0, 2]

    expected = torch.autograd.functional.jacobian(log_likelihood, theta)
    np.testing.assert_allclose(gradient[:, 1, 2], -expected, atol=1e-12)
    assert p.shape == (3, CLASSES)
