"""How the run is put together: what can be seen before the first step."""

from __future__ import annotations

import numpy as np

from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.window import Window


def _two_optimizers(window: Window, limits: Limits) -> Verdict | None:
    owners: dict[str, str] = {}
    for optimizer, rows in window.others.items():
        owners |= {name: optimizer for name, named in zip(rows.names, rows.named, strict=True) if named}
    if not owners:
        return None
    other = np.array([owners.get(name, "") for name in window.rows.names], dtype=object)
    shared = window.rows.named & (other != "")
    return Verdict(shared, shared.astype(np.float64), details={"other": other})


def _without_optimizer(window: Window, limits: Limits) -> Verdict | None:
    names = window.facts.unoptimized
    if not names:
        return None
    first, *_ = names
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return Verdict(True, float(len(names)), details={"listed": listed}, parameter=first)


def _fused_clipping(window: Window, limits: Limits) -> Verdict | None:
    facts = window.facts
    if facts.gradient_clip_val is None or not str(facts.precision).endswith("-mixed"):
        return None
    fused = bool((window.hyper("fused") > 0).any())
    return Verdict(fused, facts.gradient_clip_val, details={"precision": facts.precision})


def _learning_rates(window: Window, limits: Limits) -> Verdict | None:
    rates = {group: rate for group, rate in window.table.learning_rates.items() if rate > 0}
    if len(rates) < 2:
        return None
    slow, fast = min(rates, key=lambda group: rates[group]), max(rates, key=lambda group: rates[group])
    ratio = rates[fast] / rates[slow]
    details = {"slow": slow, "fast": fast, "slow_rate": rates[slow], "fast_rate": rates[fast]}
    return Verdict(ratio >= limits["threshold"], ratio, details=details)


def _warm_up_missing(window: Window, limits: Limits) -> Verdict | None:
    beta2, rate, base = window.hyper("beta2"), window["learning_rate"], window["initial_lr"]
    if window.table.real_steps > limits["steps"]:  # too late to see a first step
        return None
    warm = window.facts.warmup_steps
    if warm is None and window.table.update_source == "config":  # the schedule is in the code
        return None
    cold = rate > 0.5 * np.where(np.isnan(base), 0.0, base) if warm is None else np.full(len(rate), warm == 0)
    hit = bool(((beta2 >= limits["threshold"]) & cold).any())
    largest = float(np.fmax.reduce(beta2, initial=np.nan))
    return Verdict(hit, largest, details={"long": 2 / (1 - largest) if largest < 1 else np.inf})


RULES = [
    Rule(
        name="two-optimizers",
        meaning="Two optimizers move the same parameter, and neither knows of the other's steps.",
        measure=_two_optimizers,
        patience=2,
        snapshot=True,
        sentence="{parameter} is in {optimizer} and in {other}: both move it",
        remedy="give each optimizer parameters of its own",
        source="each keeps moments of gradients at points from which the other has moved the parameter",
    ),
    Rule(
        name="parameter-without-optimizer",
        meaning="Trainable parameters are in no optimizer: they will not learn.",
        measure=_without_optimizer,
        facts=("unoptimized",),
        snapshot=True,
        sentence="{value:.0f} trainable parameters are in no optimizer, and will not learn: {listed}",
        remedy=(
            "give them to the optimizer (model.parameters()), or requires_grad_(False) if they are to stay"
        ),
        source="an optimizer moves what it was given, and nothing else",
    ),
    Rule(
        name="fused-clipping",
        meaning="A fused optimizer cannot be clipped under mixed precision: Lightning refuses to train.",
        measure=_fused_clipping,
        facts=("precision", "gradient_clip_val"),
        severity="critical",
        snapshot=True,
        sentence=(
            "fused=True with gradient_clip_val={value:g} under {precision}: Lightning raises a RuntimeError"
        ),
        remedy="leave out fused=True, do not clip, or use a precision plugin that clips in the fused step",
        source="Lightning issue 21435; litgpt issue 2042",
    ),
    Rule(
        name="learning-rates",
        meaning="Parameter groups have learning rates that are far apart.",
        measure=_learning_rates,
        thresholds={"threshold": 1000.0},
        snapshot=True,
        sentence=(
            "the learning rate of group {fast} ({fast_rate:g}) is {value:.0f} times that of {slow} "
            "({slow_rate:g})"
        ),
        remedy=(
            "see whether a power of ten was lost; layer-wise decay and a head of its own stay within 100 "
            "times"
        ),
        source="layer-wise decay of 0.65 over 12 layers, as in MAE (He et al. 2022), makes 175 times",
    ),
    Rule(
        name="warm-up-missing",
        meaning="The first steps are at full rate while the second moment knows only a few gradients.",
        measure=_warm_up_missing,
        facts=("warmup_steps",),
        thresholds={"threshold": 0.999, "steps": 2.0},
        severity="info",
        snapshot=True,
        sentence=(
            "no warm-up, with beta2 {value:g}: the first steps have full length and a second moment of few "
            "gradients"
        ),
        remedy="let the rate rise over 2/(1 - beta2) = {long:.0f} steps; small models do without",
        source="Ma and Yarats (2021), arXiv:1910.04209: warm up over 2/(1 - beta2) steps",
    ),
]
