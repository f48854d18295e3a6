"""Steps that are too long or too short for the weights they move."""

from __future__ import annotations

import numpy as np

from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.health.rows import Flags, Texts
from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.rules._measures import geometric_mean, median, middle, non_finite
from lightning_adapt.health.window import Window

_HEALTHY = 1e-3
"""Relative length of a step that is as it should be (Karpathy)."""

_WELL = 1e-2
"""Whoever once moved its weights so far in a step did not begin with too small a rate."""


def _too_large(window: Window, limits: Limits) -> Verdict | None:
    chosen = window.rows.matrices
    # After inf or NaN in a gradient nothing tells how long steps should be: `non-finite-gradient` says so.
    if not chosen.any() or np.any(non_finite(window)):
        return None
    near = window.steps > window.steps[-1] - limits["steps"]
    size, ratio = window.past("param_rms")[near][:, chosen], window.past("update_ratio")[near][:, chosen]
    growth, mean = middle(size[-1] / size[0]), middle(geometric_mean(ratio))
    enough, loss = near.sum() >= min(limits["steps"], 4), window.past("loss")
    # Where the update is all that is left, what was before was small beside it.
    replaced = window.table.real_steps == 1 and middle(np.abs(window["update_ratio"][chosen] - 1)) < 0.01
    # Without a first moment and its bias correction, the first steps are long by nature.
    momentum = not np.isnan(window.hyper("beta1")[chosen]).all()
    violent = mean >= limits["ratio"] and growth >= limits["growth"] / 2
    violent |= mean >= limits["ratio"] / 2 and growth >= limits["growth"] / 1.5
    known, last = loss[np.isfinite(loss)], loss[-3:]
    # A loss of inf is no measure of how far it rose: `loss-not-finite` says so.
    rose = middle(last[np.isfinite(last)]) / float(known[0]) if len(known) and known[0] > 0 else np.nan
    grew = enough and (growth >= limits["growth"] or (momentum and violent))
    diverged = rose >= limits["loss"] and mean >= 0.01
    rate = max(window.table.learning_rates.values(), default=np.nan)
    details = {
        "growth": growth,
        "rose": rose,
        "lr": rate,
        "suggested": rate / 10,
        "span": int(window.steps[-1] - window.steps[near][0]),
    }
    cause = "replaced" if replaced else "grew" if grew else "loss"
    return Verdict(replaced or grew or diverged, mean, cause, details)


def _recent(window: Window, steps: float) -> tuple[Flags, bool]:
    """Which tables are of the last ``steps`` steps, four at least, and whether there are so many."""
    near = window.steps > window.steps[-1] - steps
    near[-4:] = True  # however seldom tables are read
    return near, bool(window.steps[-1] - window.steps[0] >= steps and len(near) >= 4)


def _at_full_rate(window: Window) -> Flags:
    """Rows at no less than half of the run's largest learning rate: no warm-up, no end of a schedule."""
    rates = window.past("learning_rate")
    full = np.fmax(np.fmax.reduce(rates, axis=0), np.nan_to_num(window["initial_lr"]))
    # RAdam is its own warm-up: it shortens its steps until the second moment knows enough gradients.
    young = window.table.real_steps * (1 - window.hyper("beta2")) < 5
    shortened = young if window.table.optimizer.startswith("RAdam") else np.zeros(len(young), dtype=bool)
    return np.asarray((rates[-1] >= 0.5 * full) & (rates[-1] > 0) & ~shortened)


def _too_small(window: Window, limits: Limits) -> Verdict | None:
    near, enough = _recent(window, limits["steps"])
    if not enough:
        return None
    ratio = geometric_mean(window.past("update_ratio")[near])
    hit = window.rows.matrices & _at_full_rate(window) & (ratio < limits["slow"])
    if hit.any():
        hit &= _adagrad_cause(window, ratio, _HEALTHY) == ""
    agreement = np.full(len(hit), np.nan)
    agreement[hit] = median(window.past("snr_mean")[near][:, hit])
    persistent = (agreement >= limits["agreement"]) & (ratio < limits["short"])
    cause = np.where(persistent, "persistent", "slow")
    cause = np.where(ratio < limits["crawl"], "crawl", cause)
    times = 10.0 ** np.round(np.log10(1e-3 / ratio))
    return Verdict(hit, ratio, cause, {"agreement": agreement, "lr": window["learning_rate"], "times": times})


def _adagrad(window: Window, limits: Limits) -> Verdict | None:
    if np.isnan(window.hyper("initial_accumulator_value")).all():
        return None
    near, enough = _recent(window, limits["steps"])
    ratio, rates = geometric_mean(window.past("update_ratio")[near]), window.past("effective_lr_p50")
    cause = _adagrad_cause(window, ratio, limits["threshold"])
    hit = (cause != "") & window.rows.matrices & (ratio < limits["threshold"]) & _at_full_rate(window)
    hit &= enough
    # Known from the first step on: long before the weights stand still.
    steps = max(window.facts.total_steps or 0, window.table.real_steps)
    ahead = ~hit & window.rows.matrices & (_slower(window, steps) >= limits["slower"])
    details = {
        "fell": np.fmax.reduce(rates, axis=0) / rates[-1],
        "times": np.where(hit, _slower(window, window.table.real_steps), _slower(window, steps)),
        "decay": window.hyper("lr_decay"),
        "start": window.hyper("initial_accumulator_value"),
        "total": steps,
    }
    return Verdict(hit | ahead, ratio, np.where(ahead, "lr-decay-ahead", cause), details)


def _slower(window: Window, steps: int) -> FloatArray:
    """How many times ``lr_decay`` makes Adagrad's rate smaller within so many steps."""
    return 1 + max(steps - 1, 0) * np.nan_to_num(window.hyper("lr_decay"))


def _adagrad_cause(window: Window, ratio: FloatArray, healthy: float) -> Texts:
    """Why Adagrad's steps are short, where they are Adagrad's doing; else empty.

    Args:
        window: The rule's.
        ratio: Relative length of the last steps.
        healthy: What it should be.
    """
    start, slower = window.hyper("initial_accumulator_value"), _slower(window, window.table.real_steps)
    began_large = (start > 0) & (start >= 0.5 * window["second_moment_rms"] ** 2)
    # A rate that was too small from the beginning has not decayed.
    moved_well = np.fmax.reduce(window.past("update_ratio"), axis=0) >= _WELL
    # Either it halved what had been enough, or without it the steps would be as long as they should be.
    by_decay = (slower >= 2) & (moved_well | (ratio * slower >= healthy))
    cause = np.where(by_decay, "lr-decay", np.where(moved_well, "sum", ""))
    return np.where(np.isnan(start), "", np.where(began_large, "initial", cause))


_KARPATHY = "about 1e-3 of a weight a step is healthy: Karpathy, CS231n (2015)"

RULES = [
    Rule(
        name="step-too-large",
        meaning=(
            "Within a few steps the weights are no longer those they were: the learning rate is too high."
        ),
        measure=_too_large,
        facts=("loss",),
        columns=("param_rms", "update_ratio", "loss"),
        thresholds={"growth": 3.0, "ratio": 0.3, "loss": 3.0, "steps": 10.0},
        window=None,
        sentence={
            "grew": (
                "in {span} steps weight matrices grew {growth:.1f} times; each step moves them by "
                "{value:.0%} of their size (learning rate {lr:g})"
            ),
            "replaced": (
                "the first step replaced the weights: it was many times as large (learning rate {lr:g})"
            ),
            "loss": (
                "the loss has risen to {rose:.1f} times its first value, while each step moves the weights "
                "by {value:.1%} of their size (learning rate {lr:g})"
            ),
        },
        remedy="lower the learning rate, to {suggested:.0e} for example, or warm up longer",
        source=_KARPATHY + "; these limits: own runs at 100 times the right rate",
    ),
    Rule(
        name="step-too-small",
        meaning="Steps are so short for their weights that training hardly moves.",
        measure=_too_small,
        columns=("update_ratio", "snr_mean", "learning_rate"),
        thresholds={"crawl": 1e-5, "slow": _HEALTHY, "short": 3e-4, "agreement": 0.3, "steps": 50.0},
        window=None,
        severity={"crawl": "warning", "persistent": "warning", "slow": "info"},
        sentence={
            "crawl": (
                "{parameter}: each step moves it by {value:.0e} of its size (learning rate {lr:g}): it crawls"
            ),
            "persistent": (
                "{parameter}: each step moves it by only {value:.0e} of its size (learning rate {lr:g}), and "
                "consecutive gradients agree (|m|/sqrt(v) {agreement:.2f}): longer steps are safe"
            ),
            "slow": "{parameter}: each step moves it by {value:.0e} of its size (learning rate {lr:g}): slow",
        },
        remedy={
            "crawl": "raise the learning rate about {times:.0f} times",
            "persistent": "raise the learning rate about {times:.0f} times",
            "slow": "usual when fine-tuning; from scratch, raise the learning rate about {times:.0f} times",
        },
        source=(
            _KARPATHY + ", below it the rate may be too low, 1e-5 crawls; the agreement, and what is short: "
            "own runs at a thousandth of the right rate, 2e-5 to 9e-4 at full rate, where healthy ones from "
            "scratch stay above 2.5e-3"
        ),
    ),
    Rule(
        name="adagrad-decay",
        meaning="Adagrad's effective rate only ever falls, and has fallen so far that weights hardly move.",
        measure=_adagrad,
        columns=("update_ratio", "effective_lr_p50", "learning_rate"),
        thresholds={"threshold": _HEALTHY, "steps": 50.0, "slower": 10.0},
        window=None,
        facts=("total_steps",),
        severity={"sum": "warning", "lr-decay": "warning", "initial": "warning", "lr-decay-ahead": "info"},
        sentence={
            "sum": (
                "{parameter}: Adagrad's effective rate fell {fell:.0f} times by step {step}; each step moves"
                " the weights by {value:.0e} of their size"
            ),
            "lr-decay": (
                "{parameter}: lr_decay {decay:g} has made Adagrad's rate {times:.0f} times smaller by step "
                "{step}; each step moves the weights by {value:.0e} of their size"
            ),
            "lr-decay-ahead": (
                "{parameter}: lr_decay {decay:g} makes Adagrad's rate {times:.0f} times smaller within "
                "{total} steps, beside what the sum of squares takes"
            ),
            "initial": (
                "{parameter}: Adagrad's sum began at {start:g}, more than all squared gradients since; each "
                "step moves the weights by {value:.0e} of their size"
            ),
        },
        remedy={
            "sum": "use RMSprop or Adam, whose second moment forgets, or raise the learning rate",
            "lr-decay": "set lr_decay=0",
            "lr-decay-ahead": "set lr_decay=0 unless that is meant: the sum alone lets the rate fall",
            "initial": "set initial_accumulator_value=0",
        },
        source="Duchi et al. (2011), JMLR 12: the sum grows for ever; Zeiler (2012), arXiv:1212.5701; "
        + _KARPATHY
        + "; torch divides lr by 1 + (step - 1)·lr_decay, ten times: as far as most schedules go",
    ),
]
