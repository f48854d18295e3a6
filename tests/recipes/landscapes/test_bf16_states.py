"""What reduced precision loses: v that does not decay, updates below half an ulp, small v in fp16."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_adapt.dynamics import DynamicsProbe
from lightning_adapt.recipes.landscapes._bf16_models import Letters, ReducedAdam, half_ulp
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes.bf16_states import Bf16States


@pytest.fixture(scope="module")
def outcome():
    return Bf16States(weights=16384, steps=80, seeds=1).run(Lab())


def find(outcome, beginning):
    return next(finding for finding in outcome.findings if finding.claim.startswith(beginning))


def test_v_stops_at_a_power_of_two_and_never_decays(outcome):
    assert find(outcome, "bf16, constant g").measured == 0
    assert find(outcome, "bf16: share of v that decays").measured == 0
    assert find(outcome, "fp32: share of v that decays").measured == pytest.approx(1 - 0.999**300, rel=1e-4)
    _, way = outcome.figures[0].curves["measured, bf16"]
    assert way[-1] == way[14]  # t = 900, when the gradient ends
    assert 0.256 <= way[-1] <= 0.512  # of g², instead of 1


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 0.97507), ("float16", 0.80259), ("float32", 0.0)])
def test_share_of_weights_that_a_step_of_1e_4_does_not_move(outcome, dtype, share):
    finding = find(outcome, f"{dtype}: share of N(0,1) weights that a step of 0.0001")
    assert finding.predicted == pytest.approx(share, abs=1e-5)
    assert finding.measured == pytest.approx(share, abs=0.008)  # 3 standard errors of 16384 weights, and 2^-8
    assert finding.holds


def test_v_of_a_language_model_is_mostly_unchanged_in_bf16(outcome):
    bf16, fp32 = (find(outcome, f"language model, {name}") for name in ("bf16", "fp32"))
    assert bf16.measured > 0.4
    assert fp32.measured < 1e-3
    assert bf16.holds
    assert fp32.holds


def test_fp16_states_diverge_at_the_default_epsilon_alone(outcome):
    assert find(outcome, "fp16 states, ε = 1e-08: largest").measured == pytest.approx(5e-3 / 1e-8, rel=1e-6)
    assert find(outcome, "fp16 states, ε = 1e-08: diverges").measured > 10
    for run in ("fp32 states, ε = 1e-08", "bf16 states, ε = 1e-08", "fp16 states, ε = 0.0001"):
        trains = find(outcome, f"{run}: trains")
        assert trains.measured < trains.predicted


def test_everything_holds(outcome):
    assert len(outcome.findings) == 16
    assert all(finding.holds for finding in outcome.findings)


def test_with_a_shorter_memory_v_decays():
    frozen, kept, exact = Bf16States(beta2=0.99)._frozen(Lab())[0]
    assert not frozen.holds
    assert not kept.holds
    assert exact.holds
    assert "2^-9" in kept.reason


def test_half_an_ulp_is_where_rounding_turns():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = torch.tensor([1.0, 1.37, 1.99, 3e-4, 700.0], dtype=dtype)
        half = half_ulp(x)
        assert torch.equal((x.double() + 0.99 * half).to(dtype), x)
        assert bool(((x.double() + 1.01 * half).to(dtype) > x).all())
    smallest = torch.zeros(1, dtype=torch.float16)
    assert half_ulp(smallest).item() == 2.0**-25


def test_with_fp32_states_it_is_torchs_adam():
    random = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(5, dtype=torch.float32)) for _ in range(2))
    a = ReducedAdam([ours], torch.float32, lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    b = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    for _ in range(20):
        ours.grad = theirs.grad = torch.randn(5, generator=random)
        a.step()
        b.step()
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-5)


def test_the_monitor_reads_the_states_as_they_are_stored():
    parameter = torch.nn.Parameter(torch.ones(3))
    unused = torch.nn.Parameter(torch.ones(1))
    optimizer = ReducedAdam([parameter, unused], torch.float16, lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    probe = DynamicsProbe(optimizer, [("p", parameter), ("unused", unused)])

    def closure():
        optimizer.zero_grad()
        loss = (parameter * torch.tensor([1.0, 1.0, 1e-3])).sum()
        loss.backward()
        return loss

    with probe:
        assert optimizer.step(closure).item() == pytest.approx(2.001)
    table = probe.table
    assert table is not None
    assert table.rows[0].state_dtype == "float16"
    assert table["p", "second_moment_zero_frac"] == pytest.approx(1 / 3)
    assert table["p", "effective_lr_max"] == pytest.approx(0.1 / 1e-8)  # (1-β2)g² = 1e-9 is 0 in fp16
    assert table["p", "update_absmax"] == pytest.approx(0.1 * 1e-3 / 1e-8, rel=1e-3)


def test_a_wrong_law_of_rounding_would_be_seen(monkeypatch):
    monkeypatch.setattr("lightning_adapt.recipes.landscapes._bf16_models.half_ulp", lambda x: 2 * half_ulp(x))
    module = Letters(
        torch.arange(2000) % 7 + 1, 8, 0, 9, dtype=torch.bfloat16, lr=5e-3, betas=(0.9, 0.999), eps=1e-8
    )
    Lab().train(module, steps=10, name="letters")
    told, seen = module.unchanged
    assert abs(told - seen) > 1e-3
    assert math.isfinite(seen)
