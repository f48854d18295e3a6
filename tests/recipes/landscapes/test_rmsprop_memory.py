"""RMSProp's memory in steps, its answer to a jump at every scale, and Adagrad's rate beside it."""

import math

import numpy as np
import pytest

from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes.rmsprop_memory import RMSPropMemory


@pytest.fixture(scope="module")
def outcome():
    return RMSPropMemory(memories=(0.9, 0.99)).run(Lab())


def test_memory_is_minus_one_over_log_rho_steps(outcome):
    steps = [finding.measured for finding in outcome.findings[:2]]
    assert steps == pytest.approx([-1 / math.log(0.9), -1 / math.log(0.99)], rel=1e-6)
    assert steps == pytest.approx([10, 100], rel=0.06)


def test_memory_of_a_thousand_steps():
    finding = RMSPropMemory(memories=(0.999,), steps=2).run(Lab()).findings[0]
    assert finding.measured == pytest.approx(999.4999, rel=1e-6)


def test_rate_settles_and_the_step_answers_alike_at_every_scale(outcome):
    settled, first, weber, adapted = outcome.findings[2:6]
    assert settled.measured == pytest.approx(0, abs=1e-6)
    assert first.measured == pytest.approx(10 / math.sqrt(0.9 + 0.1 * 100), rel=1e-6)
    assert weber.measured == pytest.approx(0, abs=1e-9)
    assert adapted.measured == pytest.approx(1, rel=1e-6)
    assert all(finding.holds for finding in outcome.findings)


def test_drawn_answers_are_three_equal_curves_that_fall_to_one(outcome):
    _, y = zip(*outcome.figures[1].curves.values(), strict=True)
    assert np.ptp(np.array(y), axis=0).max() < 1e-6
    assert (np.diff(y[0]) < 0).all()


def test_adagrad_falls_as_one_over_the_root_of_all_squares(outcome):
    assert outcome.findings[-1].measured == pytest.approx(0, abs=1e-9)
    rates = {name: y for name, (_, y) in outcome.figures[2].curves.items()}
    assert (np.diff(rates["measured, Adagrad"]) < 0).all()
    assert rates["measured, Adagrad"][-1] < 0.1 * rates["measured, RMSProp"][-1]


def test_a_large_epsilon_ends_webers_law():
    findings = RMSPropMemory(eps=1e-2, memories=(), steps=20).run(Lab()).findings
    assert not findings[2].holds
    assert findings[2].measured > 1


def test_too_short_a_run_has_not_adapted():
    findings = RMSPropMemory(memories=(), steps=20).run(Lab()).findings
    assert not findings[3].holds
    assert findings[3].measured == pytest.approx(1 / math.sqrt(1 - 0.99 * 0.9**20), rel=1e-2)
