"""L2 through Adam's denominator and decoupled decay: known gradients, and words of a graph that get none."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_adapt.recipes.landscapes import weight_decay
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._weight_decay_models import adam_with_l2, unreached
from lightning_adapt.recipes.landscapes.weight_decay import WeightDecay

LR, DECAY, EPOCHS = 0.02, 1e-3, 60


@pytest.fixture(scope="module")
def outcome():
    return WeightDecay(lr=LR, weight_decay=DECAY, steps=12, epochs=EPOCHS, seeds=2).run(Lab())


def test_decay_is_divided_by_the_denominator_or_is_not(outcome):
    l2, l2_ratio, decoupled, ratio = outcome.findings[:4]
    assert l2.measured < 1e-12
    assert decoupled.measured < 1e-12
    assert l2_ratio.measured == pytest.approx((100 + DECAY + 1e-8) / (1e-4 + DECAY + 1e-8))
    assert ratio.measured == 1


def test_words_without_gradient_go_to_zero_under_l2_alone(outcome):
    gradient, l2, decoupled = outcome.findings[4:7]
    assert gradient.measured == 0
    assert l2.measured < 0.1
    assert decoupled.measured == pytest.approx((1 - LR * DECAY) ** EPOCHS, rel=1e-9)
    assert all(finding.holds for finding in outcome.findings[:7])


def test_accuracy_is_told_with_its_interval(outcome):
    gain = outcome.findings[7]
    assert gain.holds == (gain.measured >= gain.predicted)
    assert gain.predicted >= 0
    l2, decoupled = (float(share) for share in re.findall(r"([\d.]+)%", gain.claim))
    assert gain.measured == pytest.approx((l2 - decoupled) / 100, abs=1.1e-3)  # each is told to 0.1 %
    assert "task" in gain.reason


def test_without_a_data_gradient_the_strength_of_l2_does_not_matter():
    start, nothing = np.array([0.5, -0.01]), np.zeros((20, 2))
    weak, strong = (adam_with_l2(start, nothing, 0.01, decay)[0] for decay in (1e-3, 1.0))
    np.testing.assert_allclose(weak, strong, rtol=0.02, atol=1e-4)
    assert weak[0] == pytest.approx(start - 0.01 * np.sign(start), abs=1e-5)


def test_the_formula_is_torchs_adam():
    start, random = np.array([1.0, -2.0]), np.random.default_rng(0)
    data = random.normal(size=(15, 2)) * [1.0, 1e-3]
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.Adam([weight], lr=0.1, weight_decay=0.3)
    for gradient in data:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(adam_with_l2(start, data, 0.1, 0.3)[0][-1], weight.detach(), rtol=1e-12)


def test_unreached_words_are_those_beyond_two_edges():
    path = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])  # 0 - 1 - 2 - 3, one word each
    train = torch.tensor([True, False, False, False])
    graph = SimpleNamespace(x=torch.eye(4), edge_index=path, train_mask=train)
    assert unreached(graph).tolist() == [False, False, False, True]


def test_adamw_in_adams_place_would_be_seen(monkeypatch):
    made = weight_decay.Alternating.__init__
    monkeypatch.setattr(
        weight_decay.Alternating,
        "__init__",
        lambda self, scales, _, **rest: made(self, scales, "adamw", **rest),
    )
    findings, _ = WeightDecay(steps=3)._known_gradients(Lab())
    assert [finding.holds for finding in findings] == [False, False, True, True]


def test_words_that_do_get_a_gradient_would_be_seen(monkeypatch):
    monkeypatch.setattr(weight_decay, "unreached", lambda graph: ~unreached(graph))
    findings, _ = WeightDecay(epochs=4, seeds=2)._graph(Lab())
    assert not any(finding.holds for finding in findings[:3])


def test_410_words_of_citeseer_get_no_gradient(data_path):
    root = data_path("planetoid")
    findings, _ = WeightDecay(epochs=20, seeds=2, data_root=str(root))._graph(Lab())
    assert "of the 410 words" in findings[0].claim
    assert all(finding.holds for finding in findings[:3])
    assert findings[2].measured == pytest.approx(math.exp(-20 * 0.01 * 5e-4), rel=1e-6)
