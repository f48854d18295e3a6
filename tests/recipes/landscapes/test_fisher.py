"""Adagrad's accumulator is the Fisher diagonal with the model's labels, and is not with the data's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_adapt.recipes.landscapes._fisher_models import CLASSES, INPUTS, SIZES, exact, logits
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Finding
from lightning_adapt.recipes.landscapes.fisher import Fisher


def _by_claim(**options: float) -> dict[str, Finding]:
    outcome = Fisher(**options).run(Lab())  # type: ignore[arg-type]
    assert [len(curve[0]) for curve in outcome.figures[0].curves.values()] == [16, 16, 2] * 2
    return {finding.claim: finding for finding in outcome.findings}


@pytest.fixture(scope="module")
def found() -> dict[str, Finding]:
    return _by_claim()


@pytest.mark.parametrize("model", ["softmax", "network"])
def test_labels_of_the_model_accumulate_the_fisher_diagonal(found: dict[str, Finding], model: str) -> None:
    mean = found[f"{model}: mean |G/T - F|/F"]
    assert mean.measured < 0.12
    assert mean.measured == pytest.approx(mean.predicted, rel=0.6)
    assert found[f"{model}: largest deviation in standard errors"].measured < 4.5
    assert found[f"{model}: it shrinks as T to the power"].measured == pytest.approx(-0.5, abs=0.3)


@pytest.mark.parametrize("model", ["softmax", "network"])
def test_labels_of_the_data_do_not(found: dict[str, Finding], model: str) -> None:
    wrong = found[f"{model}, labels of the data: mean |G/T - F|/F"]
    assert wrong.measured == pytest.approx(wrong.predicted, rel=0.1)
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
