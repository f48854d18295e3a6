"""Gradients that are missing, broken, or out of proportion."""

from __future__ import annotations

import numpy as np

from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.rules._measures import geometric_mean, median, middle, non_finite
from lightning_adapt.health.window import Window


def _non_finite(window: Window, limits: Limits) -> Verdict | None:
    table, numel = window.table, window["numel"] > 0
    bad, poisoned = non_finite(window)
    hit = bad | poisoned
    # A backward pass goes from the last parameter to the first, and takes inf along.
    first = int(np.flatnonzero(bad if bad.any() else poisoned)[-1]) if hit.any() else 0
    if not bad.any():
        cause = "poisoned"
    else:
        cause = "all" if bad[numel & ~np.isnan(window["grad_nonfinite_frac"])].all() else "gradient"
    share = float(window["grad_nonfinite_frac"][first]) if bad.any() else float(poisoned.mean())
    name = table.rows[first].name if hit.any() else ""
    return Verdict(bool(hit.any()), share, cause, {"name": name, "count": int(hit.sum())}, parameter=name)


def _loss(window: Window, limits: Limits) -> Verdict | None:
    losses = window.past("loss")
    if np.isnan(losses[-1]) and window.facts.loss is None:
        return None
    # A gradient scaler skips the step of a loss that is inf; only several in a row mean something.
    wanted = 1 if window.table.loss_scale is None else int(limits["scaled"])
    lost = ~np.isfinite(losses[-wanted:])
    return Verdict(bool(lost.all() and len(lost) == wanted), float(losses[-1]))


def _no_gradient(window: Window, limits: Limits) -> Verdict:
    largest, rows = window.past("grad_absmax"), window.rows
    # Without any gradient it is a checkpoint, or a step without a loss. Four tables: one may be no chance.
    enough = window.full and len(window.steps) >= 4 and not np.isnan(window["grad_rms"]).all()
    finite = ~(window["grad_nonfinite_frac"] > 0)
    missing = np.isnan(largest).all(axis=0) & finite
    zero = (np.fmax.reduce(largest, axis=0) == 0) & finite
    hit = (~rows.trainable | ((missing | zero) & enough)) & (window["numel"] != 0)
    cause = np.where(rows.trainable, np.where(missing, "missing", "zero"), "frozen")
    return Verdict(hit, window["grad_absmax"], cause, {"since": int(window.steps[0])})


def _outlier(window: Window, limits: Limits) -> Verdict:
    past, chosen = window.past("grad_rms"), window.rows.matrices
    now = geometric_mean(past[-3:])
    others = float(median(now[chosen])) if chosen.any() else np.nan
    before = median(past[:-3]) if len(past) > 10 else np.full(len(now), np.nan)
    relative, jump = now / others, now / before
    hit_relative = chosen & (relative >= limits["others"])
    hit_jump = (jump >= limits["jump"]) & (before > 0) & ~(now < others)
    hit = (past[-1] > 0) & (hit_relative | hit_jump)
    return Verdict(
        hit,
        np.where(hit_relative, relative, jump),
        np.where(hit_relative, "others", "jump"),
        {"now": now, "others_rms": others, "before": before},
    )


def _depth(window: Window, limits: Limits) -> Verdict | None:
    depth = window.rows.depth
    chosen = window.rows.matrices & ~np.isnan(depth)
    deep = sorted(set(depth[chosen].tolist()))
    if len(deep) < limits["layers"]:
        return None
    size = geometric_mean(window.past("grad_rms"))
    profile = np.array([float(geometric_mean(size[chosen & (depth == one)])) for one in deep])
    ratio = float(profile[0] / profile[-1])
    if not np.isfinite(ratio) or ratio <= 0:
        return None
    a_layer = float(ratio ** (1 / (len(deep) - 1)))
    return Verdict(
        ratio >= limits["threshold"] or ratio <= 1 / limits["threshold"],
        ratio,
        "exploding" if ratio > 1 else "vanishing",
        {"first": profile[0], "last": profile[-1], "layers_seen": len(deep), "a_layer": a_layer},
    )


def _not_zeroed(window: Window, limits: Limits) -> Verdict | None:
    if window.facts.gradients_kept is not None:
        return Verdict(window.facts.gradients_kept, 1.0, "seen")
    chosen = window.rows.matrices
    if not chosen.any() or not window.full or len(window.steps) < 4:
        return None
    agreement = middle(median(window.past("snr_mean")[:, chosen]))
    ratio = middle(geometric_mean(window.past("update_ratio")[:, chosen]))
    hit = agreement >= limits["agreement"] and ratio >= limits["ratio"]
    return Verdict(bool(hit), float(agreement), "inferred", {"a_step": float(ratio)})


def _clipping(window: Window, limits: Limits) -> Verdict | None:
    many = int(limits["tables"])
    norms, told = window.past("gradient_norm")[-many:], window.past("clipped_frac")[-many:]
    if len(norms) < many:
        return None
    largest = float(np.fmax.reduce(norms))
    seen = not np.isnan(told).any()
    # Without being told: clipping by norm leaves all gradients that it shortens at one norm.
    share = told.mean() if seen else (norms >= largest * (1 - limits["same"])).mean()
    hit = bool(share >= limits["threshold"] and largest > 0)
    return Verdict(hit, float(share), "seen" if seen else "inferred", {"norm": largest})


RULES = [
    Rule(
        name="non-finite-gradient",
        meaning=(
            "A gradient is inf or NaN, and no gradient scaler skips the step: moments and weights are lost "
            "for good."
        ),
        measure=_non_finite,
        severity="critical",
        snapshot=True,
        sentence={
            "gradient": (
                "{parameter}: {value:.1%} of its gradient is inf or NaN at step {step}; {count} parameters "
                "are hit, this is the one nearest to the loss"
            ),
            "all": "all gradients are inf or NaN at step {step}: the loss was; {parameter} is nearest to it",
            "poisoned": "{parameter}: its weights or moments are inf or NaN ({count} parameters are)",
        },
        remedy={
            "gradient": (
                "go back to a checkpoint from before step {step}; look at what {parameter} computes (log, "
                "sqrt or division by 0), clip gradients, or skip batches whose loss is not finite"
            ),
            "all": (
                "go back to a checkpoint from before step {step}, look at that batch, and skip batches whose"
                " loss is not finite: m and v never forget an inf"
            ),
            "poisoned": "go back to a checkpoint from before; nothing heals inf or NaN in m and v",
        },
        source="m = beta1·m + (1 - beta1)·g and v likewise: inf and NaN stay for ever",
    ),
    Rule(
        name="loss-not-finite",
        meaning="The training loss is inf or NaN.",
        measure=_loss,
        facts=("loss",),
        columns=("loss",),
        thresholds={"scaled": 3.0},
        window=8,
        severity="critical",
        skipped=True,
        sentence="the training loss is {value} at step {step}",
        remedy="go back to a checkpoint from before, and look at the findings that came first",
        source=(
            "inf and NaN come from overflow, or from log, sqrt and division at 0; nothing is learned from "
            "them"
        ),
    ),
    Rule(
        name="no-gradient",
        meaning="A parameter of the optimizer gets no gradient: it does not learn.",
        measure=_no_gradient,
        columns=("grad_absmax",),
        window=50,
        snapshot=True,
        sentence={
            "frozen": "{parameter} is in the optimizer, but frozen (requires_grad is False)",
            "missing": "{parameter} has had no gradient since step {since}: the loss does not reach it",
            "zero": "{parameter}: its gradient has been 0 since step {since}",
        },
        remedy={
            "frozen": "requires_grad_(True) if it should learn; else leave it out of the optimizer",
            "missing": (
                "look for detach(), no_grad() or a branch that is not used between it and the loss; if that "
                "is meant, leave it out of the optimizer"
            ),
            "zero": (
                "look for units that are off for every input (ReLU), a mask, or a factor of 0 between it and"
                " the loss"
            ),
        },
        source=(
            "torch.optim skips a parameter whose gradient is None; a zero gradient leaves decay and momentum"
        ),
    ),
    Rule(
        name="gradient-outlier",
        meaning="One parameter's gradient is far above those of the others, or above its own.",
        measure=_outlier,
        columns=("grad_rms",),
        thresholds={"others": 1000.0, "jump": 1000.0},
        window=50,
        patience=3,
        sentence={
            "others": (
                "{parameter}: its gradient ({now:.0e}) is {value:.0e} times that of a typical weight matrix "
                "({others_rms:.0e})"
            ),
            "jump": "{parameter}: its gradient ({now:.0e}) is {value:.0e} times what it was ({before:.0e})",
        },
        remedy={
            "others": (
                "look at the layer: its initialization, a missing normalization, a factor in its backward "
                "pass; clipping by one norm leaves the other parameters next to nothing"
            ),
            "jump": "look at the layer and at the batches of step {step}; clip gradients",
        },
        source="Pascanu et al. (2013), arXiv:1211.5063; limits: own runs, healthy ones stay below 300 and 60",
    ),
    Rule(
        name="gradient-depth",
        meaning="Gradients vanish, or explode, from the last layer to the first.",
        measure=_depth,
        columns=("grad_rms",),
        thresholds={"threshold": 1000.0, "layers": 3.0},
        window=20,
        patience=3,
        sentence={
            "vanishing": (
                "the first layer's gradient is {value:.0e} of the last one's ({first:.0e} and {last:.0e}, "
                "{layers_seen} layers, {a_layer:.2g} a layer)"
            ),
            "exploding": (
                "the first layer's gradient is {value:.0e} times the last one's ({first:.0e} and {last:.0e}, "
                "{layers_seen} layers, {a_layer:.2g} a layer)"
            ),
        },
        remedy={
            "vanishing": "add residual connections or normalization, or initialize for the depth",
            "exploding": "normalize or scale down the initialization; clipping only hides it",
        },
        source="Glorot and Bengio (2010); Pascanu et al. (2013), arXiv:1211.5063; limit: own runs",
    ),
    Rule(
        name="gradients-not-zeroed",
        meaning="Gradients of earlier steps are added to those of this one.",
        measure=_not_zeroed,
        facts=("gradients_kept",),
        columns=("snr_mean", "update_ratio"),
        thresholds={"agreement": 0.8, "ratio": 1e-3},
        window=20,
        patience=2,
        severity={"seen": "critical", "inferred": "warning"},
        sentence={
            "seen": "the step began with gradients of the step before: nobody set them to zero",
            "inferred": (
                "consecutive gradients are nearly the same (|m|/sqrt(v) {value:.2f}) although each step "
                "moves the weights by {a_step:.0e} of their size: gradients may never be set to zero"
            ),
        },
        remedy={
            "seen": (
                "call optimizer.zero_grad() before each backward pass, or do not override optimizer_zero_grad"
            ),
            "inferred": (
                "see that optimizer.zero_grad() is called, and that optimizer_zero_grad is not overridden; "
                "else the steps may be too long (Adam's instability)"
            ),
        },
        source=(
            "the fact `gradients_kept` tells for sure; from tables alone: Molybog et al. (2023), "
            "arXiv:2304.09871, gradients that agree over time; own runs"
        ),
    ),
    Rule(
        name="clipping-always",
        meaning="Clipping shortens nearly every gradient: the optimizer sees directions, not sizes.",
        measure=_clipping,
        facts=("clipped_frac",),
        columns=("gradient_norm", "clipped_frac"),
        thresholds={"threshold": 0.95, "tables": 20.0, "same": 1e-3},
        window=None,
        patience=3,
        severity="info",
        sentence={
            "seen": "clipping shortened {value:.0%} of the gradients of late, to a norm of {norm:.3g}",
            "inferred": (
                "{value:.0%} of the gradients of late have the norm {norm:.3g}: clipping shortens them all"
            ),
        },
        remedy={
            "seen": (
                "raise gradient_clip_val to just above the usual norm, so that only outliers are shortened"
            ),
            "inferred": (
                "raise gradient_clip_val to just above the usual norm, so that only outliers are shortened"
            ),
        },
        source="Pascanu et al. (2013), arXiv:1211.5063: the threshold is a few times the average norm",
    ),
]
