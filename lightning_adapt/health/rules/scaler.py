"""The gradient scaler of fp16: its scale, and the steps it skipped."""

from __future__ import annotations

import numpy as np

from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.window import Window


def _collapse(window: Window, limits: Limits) -> Verdict | None:
    scales = window.past("loss_scale")
    if np.isnan(scales[-1]):
        return None
    top, now = float(np.fmax.reduce(scales)), float(scales[-1])
    gone = now < limits["threshold"]
    fell = now <= top / limits["fall"]
    return Verdict(
        gone or fell, now, "gone" if gone else "fell", {"top": top, "skipped": window.table.skipped_steps}
    )


def _skips(window: Window, limits: Limits) -> Verdict | None:
    skipped, real = window.past("skipped_steps"), window.past("real_steps")
    if np.isnan(window["loss_scale"]):
        return None
    news = float(skipped[-1] - skipped[0]) + float(window.table.skipped and len(skipped) == 1)
    taken = float(real[-1] - real[0]) + news
    share = news / taken if taken else 0.0
    return Verdict(
        news >= limits["least"] and share >= limits["threshold"],
        share,
        details={"skipped": int(news), "steps_seen": int(taken), "scale": float(window["loss_scale"])},
    )


RULES = [
    Rule(
        name="loss-scale-collapse",
        meaning=(
            "Gradients are inf or NaN at every scale: the loss scale falls and falls, the training stands."
        ),
        measure=_collapse,
        columns=("loss_scale",),
        thresholds={"threshold": 1.0, "fall": 1024.0},
        window=500,
        skipped=True,
        severity={"gone": "critical", "fell": "warning"},
        sentence={
            "gone": "the loss scale has fallen to {value:g}, below 1: scaling now makes gradients smaller",
            "fell": (
                "the loss scale has fallen from {top:g} to {value:g}; {skipped} steps were skipped so far"
            ),
        },
        remedy={
            "gone": (
                "the loss itself is not finite or far too large: look at the batches since then, go back to "
                "a checkpoint from before, lower the learning rate, or use bf16-mixed, which needs no scale"
            ),
            "fell": "lower the learning rate or clip gradients; bf16-mixed needs no scale",
        },
        source="Zhang et al. (2022), OPT, arXiv:2205.01068: a collapsing loss scale comes before divergence",
    ),
    Rule(
        name="skipped-steps",
        meaning="Many steps are skipped: their batches teach nothing.",
        measure=_skips,
        columns=("skipped_steps", "real_steps"),
        thresholds={"threshold": 0.05, "least": 5.0},
        window=500,
        skipped=True,
        sentence="{skipped} of the last {steps_seen} steps were skipped ({value:.0%}; loss scale {scale:g})",
        remedy=(
            "a few at the start only find the scale: begin with a lower init_scale; if it goes on, clip "
            "gradients or use bf16-mixed"
        ),
        source="a healthy scaler tries a larger scale every 2000 steps, and skips at most then (torch.amp)",
    ),
]
