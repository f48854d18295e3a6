"""Epsilon sets the step size: how many elements, and why."""

from __future__ import annotations

from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.window import Window


def _floor(window: Window, limits: Limits) -> Verdict:
    share = window["eps_floor_frac"] - window["eps_floor_untouched_frac"]
    return Verdict(share > limits["threshold"], share)


RULES = [
    Rule(
        name="epsilon-floor",
        meaning="Epsilon, not the gradient, sets the step size of these elements.",
        measure=_floor,
        thresholds={"threshold": 0.1},
        patience=3,
        severity="info",
        snapshot=True,
        sentence="{parameter}: {value:.0%} of its elements are on the epsilon floor",
        remedy="lower eps",
        source="reference thresholds",
    ),
]
