"""Adam's threshold on parabolas, exactly, and networks that hover at it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_adapt.dynamics import exact_hessian
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Finding, Outcome
from lightning_adapt.recipes.landscapes.edge_of_stability import EdgeOfStability, Networks


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return EdgeOfStability(steps=680, seeds=2).run(Lab())


def _of(outcome: Outcome, beta1: float) -> list[Finding]:
    return [finding for finding in outcome.findings if finding.claim.startswith(f"β1={beta1:g}: ")]


def _factor(beta1: float, curvature: float, lr: float) -> float:
    """Of averaged momentum on a parabola, by doing it; z = -1 is where it neither shrinks nor grows."""
    x, m, sizes = 1.0, 0.0, []
    for _ in range(300):
        m = beta1 * m + (1 - beta1) * curvature * x
        x -= lr * m
        sizes.append(abs(lr * m))
    return sizes[-1] / sizes[-2]


@pytest.mark.parametrize(("beta1", "threshold"), [(0.9, 7600.0), (0.5, 1200.0)])
def test_parabolas_shrink_below_the_threshold_and_grow_above_it(
    outcome: Outcome, beta1: float, threshold: float
) -> None:
    below, above = _of(outcome, beta1)[:2]
    assert below.measured < 1 < above.measured
    for finding in (below, above):
        share = float(finding.claim.split(" of the threshold")[0].split()[-1])
        assert finding.measured == pytest.approx(finding.predicted, rel=1e-6)
        assert finding.measured == pytest.approx(_factor(beta1, threshold * share, 0.005), rel=1e-4)
        assert share == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("beta1", "threshold"), [(0.9, 7600.0), (0.5, 1200.0)])
def test_networks_rise_to_the_threshold_and_hover_there(
    outcome: Outcome, beta1: float, threshold: float
) -> None:
    start, hover, spread = _of(outcome, beta1)[2:]
    assert hover.predicted == pytest.approx(threshold, rel=1e-12)
    assert start.measured < threshold
    assert hover.measured == pytest.approx(threshold, rel=0.1)
    assert spread.measured < 0.1
    assert hover.tolerance == pytest.approx(2 * spread.measured)
    assert all(finding.holds for finding in (start, hover, spread))


def test_figures_show_the_rise_and_the_loss_that_stays(outcome: Outcome) -> None:
    sharpness, loss = (figure.curves for figure in outcome.figures)
    steps, measured = sharpness["measured, β1 = 0.9"]
    assert list(steps) == list(range(17, 681, 17))
    assert measured[0] < 0.1 * measured[-1]
    assert set(sharpness["predicted, β1 = 0.9"][1]) == {sharpness["predicted, β1 = 0.9"][1][0]}
    assert min(loss["β1 = 0.9"][1]) < 0.01 * loss["β1 = 0.9"][1][-1]


def test_the_sharpness_is_the_largest_eigenvalue_of_the_whole_matrix() -> None:
    betas, eps, steps = (0.8, 0.95), 1e-6, 12
    module = Networks(2, 4, 8, steps, "adam", lr=0.01, betas=betas, eps=eps)
    Lab().train(module, steps=steps, name="small")
    state = module.optimizers(use_pl_optimizer=False).state  # type: ignore[union-attr]
    for seed, measured in enumerate(module.sharpness[-1]):
        leaves = list(module.nets[seed].parameters())
        v = torch.cat([state[leaf]["exp_avg_sq"].flatten() for leaf in leaves])
        p = (1 - betas[0] ** steps) * ((v / (1 - betas[1] ** steps)).sqrt() + eps)
        product = torch.diag(1 / p) @ exact_hessian(module.errors(seed), leaves)
        assert measured == pytest.approx(float(torch.linalg.eigvals(product).real.max()), rel=2e-3)


def test_networks_side_by_side_do_not_touch_each_other() -> None:
    two = Networks(2, 4, 8, 5, "adam", lr=0.01)
    Lab().train(two, steps=5, name="two")
    alone = Networks(1, 4, 8, 5, "adam", lr=0.01)
    fresh = Networks(2, 4, 8, 5, "adam", lr=0.01)
    alone.examples = fresh.examples[1:]
    alone.nets[0] = fresh.nets[1]
    Lab().train(alone, steps=5, name="one")
    np.testing.assert_allclose(two.sharpness[-1][1], alone.sharpness[-1][0], rtol=1e-9)
    for one, other in zip(two.nets[1].parameters(), alone.nets[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_with_a_long_memory_the_edge_is_not_reached_in_time() -> None:
    findings = _of(EdgeOfStability(beta1=(0.9,), beta2=0.999, steps=200, seeds=1).run(Lab()), 0.9)
    assert [finding.holds for finding in findings[:4]] == [True, True, True, False]
    assert findings[3].measured < 0.5 * findings[3].predicted


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="`steps` must be 100 or more, got 99"):
        EdgeOfStability(steps=99)
