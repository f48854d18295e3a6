"""Gradients that are missing, broken, or out of proportion."""

from __future__ import annotations

import numpy as np

from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.window import Window


def _non_finite(window: Window, limits: Limits) -> Verdict | None:
    if window.table.loss_scale is not None:
        return None
    bad = window["grad_nonfinite_frac"] > 0
    first = int(np.flatnonzero(bad)[-1]) if bad.any() else 0
    return Verdict(
        bad.any(),
        window["grad_nonfinite_frac"][first],
        parameter=window.table.rows[first].name,
    )


RULES = [
    Rule(
        name="non-finite-gradient",
        meaning="A gradient is inf or NaN, and no gradient scaler skips the step: the moments are poisoned.",
        measure=_non_finite,
        severity="critical",
        sentence="{parameter}: {value:.0%} of its gradient is inf or NaN at step {step}",
        remedy="go back to a checkpoint from before step {step}",
        source="an inf in g makes m and v inf or NaN, and they stay so",
    ),
]
