"""Signs of a loss spike to come."""

from __future__ import annotations

from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.window import Window


def _spike(window: Window, limits: Limits) -> Verdict:
    rms_t = window["rms_t"]
    return Verdict(rms_t >= limits["threshold"], rms_t)


RULES = [
    Rule(
        name="spike-warning",
        meaning="The second moment is far below the squared gradient: the step was too large.",
        measure=_spike,
        thresholds={"threshold": 2.3},
        sentence="{parameter}: g² is {value:.1f}² times what the second moment expects (rms_t {value:.2f})",
        remedy="lower beta2, or clip the update by rms_t as StableAdamW does; warm up longer",
        source="Wortsman et al. (2023), arXiv:2304.13013: loss spikes follow rms_t >= 2.3 within 1 to 8 steps",
    ),
]
