"""Adam's first steps with and without bias correction, and an own optimizer that the monitor can read."""

import math

import pytest
import torch

from lightning_adapt.dynamics import DynamicsProbe
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes.bias_correction import BiasCorrection, UncorrectedAdam


def run(**options):
    outcome = BiasCorrection(**{"steps": 100, "first_steps": 20, **options}).run(Lab())
    return [finding.measured for finding in outcome.findings], outcome


def test_correction_makes_every_step_as_long_as_lr_and_its_lack_the_first_ones_too_long():
    (corrected, stored, first, raw, longest, number), outcome = run()
    assert corrected == pytest.approx(0, abs=1e-6)
    assert stored == pytest.approx(0, abs=1e-6)
    assert first == pytest.approx(0.1 / math.sqrt(0.001), rel=1e-6)
    assert raw == pytest.approx(0, abs=1e-6)
    assert longest == pytest.approx((1 - 0.9**12) / math.sqrt(1 - 0.999**12), rel=1e-6)
    assert number == 12
    assert all(finding.holds for finding in outcome.findings)


@pytest.mark.parametrize(("beta1", "beta2", "first"), [(0.9, 0.9, 0.316228), (0.9, 0.99, 1.0), (0, 0.99, 10)])
def test_first_step_for_other_betas(beta1, beta2, first):
    measured, outcome = run(beta1=beta1, beta2=beta2)
    assert measured[2] == pytest.approx(first, rel=1e-5)
    assert all(finding.holds for finding in outcome.findings)


def test_a_gradient_below_epsilon_has_no_such_ratio():
    _, outcome = run(gradient=1e-8)
    assert not outcome.findings[2].holds
    assert outcome.findings[2].measured < 1


def test_the_hill_is_drawn_beside_its_formula():
    _, outcome = run()
    curves = outcome.figures[0].curves
    assert curves["measured, without correction"][1] == pytest.approx(
        list(curves["predicted, without correction"][1]), rel=1e-6
    )
    assert curves["measured, without correction"][0][-1] == 100


def test_the_own_optimizer_steps_as_its_formula_and_as_its_rule_says():
    used = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    unused = torch.nn.Parameter(torch.ones(1))
    optimizer = UncorrectedAdam([used, unused], lr=0.1, betas=(0.9, 0.99), eps=0.0)

    def closure():
        optimizer.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    probe = DynamicsProbe(optimizer, [("used", used), ("unused", unused)])
    with probe:
        loss = optimizer.step(closure)
    assert loss == 5
    assert used.tolist() == pytest.approx([0.9, -1.9])  # (1 - 0.9) / sqrt(1 - 0.99) = 1
    assert unused.item() == 1
    assert probe.table is not None
    assert probe.table["used", "effective_lr_min"] == pytest.approx(0.1 / (0.1 * 4))
    assert probe.table["used", "update_rms"] == pytest.approx(0.1)
    used.grad = None
    assert optimizer.step() is None
