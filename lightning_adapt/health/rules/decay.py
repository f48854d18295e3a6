"""Weight decay: where it acts, how it acts, and how much of the update it is."""

from __future__ import annotations

import numpy as np

from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.rules._measures import median, second_beta
from lightning_adapt.health.window import Window


def _on_norms(window: Window, limits: Limits) -> Verdict:
    decay = window.hyper("weight_decay")
    share = window["decay_rms"] / window["update_rms"]
    kind = np.array(
        ["bias" if name.endswith("bias") else "scale" for name in window.rows.names], dtype=object
    )
    hit = ~window.rows.tables & (decay > 0)
    cause = np.where(share >= limits["threshold"], "strong", "weak")
    return Verdict(hit, decay, cause, {"kind": kind, "share": share})


def _l2(window: Window, limits: Limits) -> Verdict | None:
    decay = window.hyper("weight_decay")
    adaptive = ~np.isnan(second_beta(window)) | ~np.isnan(window.hyper("initial_accumulator_value"))
    hit = adaptive & (window.hyper("decoupled_weight_decay") == 0) & (decay >= limits["threshold"])
    largest = float(np.nanmax(np.where(hit, decay, np.nan))) if hit.any() else np.nan
    return Verdict(bool(hit.any()), largest, details={"count": int(hit.sum())})


def _dominates(window: Window, limits: Limits) -> Verdict | None:
    decay = window.hyper("weight_decay")
    if not window.full or not (decay > 0).any():
        return None
    share = median(window.past("decay_rms") / window.past("update_rms"))
    cause = np.where(window.hyper("decoupled_weight_decay") == 1, "decoupled", "l2")
    hit = (share >= limits["threshold"]) & (decay > 0) & (window["learning_rate"] > 0)
    return Verdict(hit, share, cause, {"decay": decay})


def _dead_rows(window: Window, limits: Limits) -> Verdict | None:
    decay = window.hyper("weight_decay")
    if not window.full or not (decay > 0).any():
        return None
    still, moved, untouched = (
        np.fmin.reduce(window.past(name), axis=0)
        for name in ("grad_zero_frac", "moved_frac", "eps_floor_untouched_frac")
    )
    coupled = window.hyper("decoupled_weight_decay") == 0
    # L2 makes a second moment of its own, so that such elements do not count as untouched.
    idle = np.where(coupled, still, untouched)
    value = np.clip(idle - (1 - moved), 0, None)  # at least so many of the idle ones moved
    # Not of this table: what L2 has pulled to 0 hardly moves any more.
    share = median(window.past("decay_rms") / window.past("update_rms"))
    hit = window.rows.tables & (decay > 0) & (value >= limits["threshold"])
    hit &= ~coupled | (share >= limits["share"])
    return Verdict(hit, value, np.where(coupled, "l2", "decoupled"), {"decay": decay})


RULES = [
    Rule(
        name="decay-on-norms",
        meaning="Weight decay acts on biases or scales of norms, which it pulls to 0 for no gain.",
        measure=_on_norms,
        thresholds={"threshold": 0.01},
        patience=2,
        severity={"strong": "warning", "weak": "info"},
        snapshot=True,
        sentence={
            "strong": (
                "{parameter}: weight decay {value:g} acts on this {kind}, and is {share:.0%} of its update"
            ),
            "weak": "{parameter}: weight decay {value:g} acts on this {kind}",
        },
        remedy=(
            "give biases and norms a parameter group with weight_decay=0; lightning_adapt.optimizers do so "
            "by themselves"
        ),
        source="Goyal et al. (2017), arXiv:1706.02677, do not decay norms; nor do BERT's and GPT's recipes",
    ),
    Rule(
        name="l2-with-adaptive",
        meaning=(
            "Weight decay is added to the gradient and divided by sqrt(v): it hardly depends on its value."
        ),
        measure=_l2,
        thresholds={"threshold": 0.01},
        snapshot=True,
        sentence=(
            "weight_decay {value:g} is added to the gradient of {count} parameters (L2), and {optimizer} "
            "divides it by sqrt(v): this size is meant for decoupled decay"
        ),
        remedy="use AdamW with weight_decay={value:g}; as L2 penalty for Adam, 1e-4 or less is usual",
        source="Loshchilov and Hutter (2019), arXiv:1711.05101",
    ),
    Rule(
        name="decay-dominates",
        meaning="Weight decay is most of the update: weights shrink more than they learn.",
        measure=_dominates,
        columns=("decay_rms", "update_rms"),
        thresholds={"threshold": 0.5},
        window=20,
        patience=3,
        severity={"decoupled": "warning", "l2": "info"},
        sentence={
            "decoupled": "{parameter}: weight decay {decay:g} is {value:.0%} of the update",
            "l2": "{parameter}: the L2 penalty {decay:g} is {value:.0%} of the update: it balances the loss",
        },
        remedy={
            "decoupled": "lower weight_decay from {decay:g}, ten times for a start",
            "l2": "lower weight_decay if the training loss stays high; as a strong penalty it may be meant",
        },
        source=(
            "Kosson et al. (2023), arXiv:2305.17212: in balance decay is sqrt(lr·wd/2) of the update, far "
            "below one half"
        ),
    ),
    Rule(
        name="dead-rows",
        meaning="Rows that get no gradient move all the same: decay pulls them to 0.",
        measure=_dead_rows,
        columns=("grad_zero_frac", "moved_frac", "eps_floor_untouched_frac", "decay_rms", "update_rms"),
        thresholds={"threshold": 0.05, "share": 0.3},
        window=50,
        patience=3,
        severity="info",
        sentence={
            "decoupled": (
                "{parameter}: {value:.0%} of the elements have never had a gradient, and weight decay "
                "{decay:g} shrinks them"
            ),
            "l2": (
                "{parameter}: {value:.0%} of the elements have no gradient, and the L2 penalty {decay:g} "
                "pulls them to 0, at full rate whatever its size"
            ),
        },
        remedy={
            "decoupled": (
                "put embeddings into a group with weight_decay=0 if unseen rows must keep their values"
            ),
            "l2": (
                "use decoupled decay (AdamW), or weight_decay=0 for this table, if unseen rows must keep "
                "their values"
            ),
        },
        source=(
            "pytorch issue 18404; measured: L2 takes untouched rows to 1e-5 of their norm in 200 steps, "
            "decoupled decay by lr·wd a step"
        ),
    ),
]
