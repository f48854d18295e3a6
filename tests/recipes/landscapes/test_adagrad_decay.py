"""Adagrad's curve is exact, and never rises."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes.adagrad_decay import AdagradDecay


@pytest.mark.parametrize(("lr", "gradient"), [(0.1, 2.0), (3.0, 1e-3)])
def test_the_curve_is_exact_at_every_step_and_only_falls(lr: float, gradient: float) -> None:
    outcome = AdagradDecay(lr=lr, gradient=gradient, steps=40, noisy_steps=40).run(Lab())
    curve, rises, network = outcome.findings
    assert network.measured == 0
    assert curve.measured < 1e-12
    assert rises.measured == 0
    assert all(finding.holds for finding in outcome.findings)
    t, measured = outcome.figures[0].curves["measured, small gradient"]
    np.testing.assert_allclose(measured, lr / (0.1 * gradient * np.sqrt(t)), rtol=1e-6)


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """With RMSProp in Adagrad's place no claim holds."""
    from lightning_adapt.recipes.landscapes import adagrad_decay
    from lightning_adapt.recipes.landscapes._lab import Landscape

    def instead(self: Landscape, optimizer: str, **options: object) -> None:
        original(self, "rmsprop", **options)

    original = Landscape.__init__
    monkeypatch.setattr(adagrad_decay.Landscape, "__init__", instead)
    outcome = AdagradDecay(steps=20, noisy_steps=40).run(Lab())
    assert not any(finding.holds for finding in outcome.findings)
