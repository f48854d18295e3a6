"""Signs of a loss spike to come, and moments that no longer say what the gradient is."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.health.rows import Flags
from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.rules._measures import median, middle, second_beta
from lightning_adapt.health.window import Window


def _spike(window: Window, limits: Limits) -> Verdict | None:
    past, numel = window.past("rms_t"), window["numel"]
    # Where v has underflowed, g² is above it in any case.
    known = ~np.isnan(past[-1]) & (numel > 0) & ~(window["eps_floor_underflow_frac"] > 0.01)
    if not known.any() or len(past) < 2:
        return None
    over_time = _model_wide(past[:, known], numel[known])
    value, before = float(over_time[-1]), float(np.quantile(over_time[:-1], 0.9))
    share = np.where(known, numel * np.nan_to_num(past[-1]) ** 2, 0.0)
    # Between readings far apart, what grew steadily looks like a jump.
    jump = value >= limits["jump"] * before and window.steps[-1] - window.steps[-2] <= limits["near"]
    cause = ("alarm" if value >= limits["alarm"] else "jump") if jump else "lag"
    details = {
        "before": before,
        "worst": window.rows.names[int(share.argmax())],
        "beta2": second_beta(window)[known].max(),
    }
    return Verdict(value >= limits["threshold"] and not _young(window)[known].any(), value, cause, details)


def _overshoot(window: Window, limits: Limits) -> Verdict | None:
    past, numel, chosen = window.past("rms_t"), window["numel"], window.rows.matrices
    known = ~np.isnan(past[-1]) & (numel > 0)
    if not window.full or len(past) < 5 or not known.any() or not chosen.any():
        return None
    over_time = _model_wide(past[:, known], numel[known])
    value, usual = float(over_time[-1]), middle(over_time[:-1])
    left, step = _left_of_momentum(window), middle(window["update_ratio"][chosen])
    hit = (
        value >= max(limits["threshold"], limits["rise"] * usual)
        and left <= limits["left"]
        and step >= limits["step"]
        and window.steps[-1] - window.steps[-2] <= limits["near"]
        and not _young(window)[known].any()
    )
    rate = max(window.table.learning_rates.values(), default=np.nan)
    details = {"usual": usual, "remains": left, "a_step": step, "lr": rate}
    return Verdict(bool(hit), value, details=details)


def _model_wide(figures: FloatArray, numel: FloatArray) -> FloatArray:
    """The root mean square over all elements, table by table."""
    found: FloatArray = np.sqrt(np.average(np.nan_to_num(figures) ** 2, axis=1, weights=numel))
    return found


def _left_of_momentum(window: Window) -> float:
    """The first moment beside the gradient, as a share of what would be left of it if gradients were noise.

    Small when this gradient is far larger than those before and opposes them: the last step went too far.
    """
    first, now = window["first_moment_rms"], window["grad_rms"]
    known = ~np.isnan(first) & ~np.isnan(now) & ~np.isnan(window.hyper("beta1"))
    if not known.any():
        return float("nan")
    weights = window["numel"][known]
    ratio = np.sqrt((weights * first[known] ** 2).sum() / (weights * now[known] ** 2).sum())
    return float(ratio / _noise(window.hyper("beta1")[known].max()))


def _noise(beta1: Any) -> Any:
    """What independent gradients leave in the first moment, as a share of one of them."""
    return np.sqrt((1 - beta1) / (1 + beta1))


def _young(window: Window) -> Flags:
    """Without bias correction v starts too small: RMSprop's first steps are long, and that is no spike."""
    beta = second_beta(window)
    return np.isnan(window.hyper("beta2")) & (window.table.real_steps * (1 - beta) < 3)


def _spike_parameter(window: Window, limits: Limits) -> Verdict | None:
    if not window.full:
        return None
    lasting = median(window.past("rms_t"))
    hit = (lasting >= limits["threshold"]) & ~_young(window)
    return Verdict(hit, lasting, details={"beta2": second_beta(window)})


def _stale(window: Window, limits: Limits) -> Verdict:
    now, remembered = window["grad_rms"], window["second_moment_rms"]
    ratio = np.where(second_beta(window) > 0, now / remembered, np.nan)
    hit = (ratio < limits["threshold"]) & (now > 0)
    return Verdict(hit, ratio, details={"now": now, "remembered": remembered})


def _first_moment_collapse(window: Window, limits: Limits) -> Verdict | None:
    if not window.full or len(window.steps) < 3:
        return None
    noise = _noise(window.hyper("beta1"))
    ratio = median(window.past("first_moment_rms") / window.past("grad_rms"))
    hit = (ratio < limits["threshold"] * noise) & (window["grad_rms"] > 0)
    cause = np.where(window["first_moment_absmax"] == 0, "underflow", "cancels")
    return Verdict(hit, ratio, cause, {"noise": noise})


_WORTSMAN = "Wortsman et al. (2023), arXiv:2304.13013: loss spikes follow rms_t >= 2.3 within 1 to 8 steps"

RULES = [
    Rule(
        name="spike-warning",
        meaning=(
            "Over the whole model, squared gradients are far above what the second moment expects: this step"
            " was several times too long, and a loss spike may follow."
        ),
        measure=_spike,
        columns=("rms_t",),
        thresholds={"threshold": 2.3, "alarm": 3.0, "jump": 1.25, "near": 8.0},
        window=50,
        severity={"alarm": "warning", "jump": "info", "lag": "info"},
        sentence={
            "alarm": (
                "gradients are {value:.1f} times what the second moment expects (rms_t; {before:.1f} "
                "before), most of it in {worst}: a loss spike may follow within a few steps"
            ),
            "jump": (
                "gradients are {value:.1f} times what the second moment expects (rms_t; {before:.1f} "
                "before), most of it in {worst}"
            ),
            "lag": (
                "gradients stay {value:.1f} times above what the second moment expects (rms_t): they grow "
                "faster than beta2 {beta2:g} can follow, most of it in {worst}"
            ),
        },
        remedy={
            "alarm": (
                "lower beta2 from {beta2:g} to 0.95, clip gradients, or divide the rate by max(1, rms_t) as "
                "StableAdamW does; if it comes in the first steps, warm up longer"
            ),
            "jump": "nothing to do for once; if it comes back, lower beta2 from {beta2:g} or clip gradients",
            "lag": "lower beta2 from {beta2:g}, to 0.95 for example, if the loss is not smooth",
        },
        source=_WORTSMAN + "; 3 for the alarm, and the jump that keeps steady growth apart: own runs",
    ),
    Rule(
        name="overshoot",
        meaning=(
            "Steps are long, and gradients grow and turn against those before: the last step went too far, "
            "and a loss spike may follow."
        ),
        measure=_overshoot,
        columns=("rms_t",),
        thresholds={"threshold": 1.2, "rise": 1.25, "left": 0.55, "step": 1e-2, "near": 4.0},
        window=20,
        sentence=(
            "the last step went too far: gradients are {value:.1f} times what the second moment expects "
            "(rms_t; {usual:.1f} of late) and turn against those before (the first moment has {remains:.0%} "
            "of what noise would leave), while each step moves the weights by {a_step:.1%} of their size"
        ),
        remedy="lower the learning rate from {lr:g}, to a third for a start, or clip gradients",
        source=(
            "Cohen et al. (2022), arXiv:2207.14484: beyond Adam's edge of stability gradients change sign "
            "and grow; Adaptive Preconditioners Trigger Loss Spikes in Adam (2025), arXiv:2506.04805; limits:"
            " own runs, where healthy ones keep 80 % of what noise leaves"
        ),
    ),
    Rule(
        name="spike-parameter",
        meaning="The same for one parameter, and lasting: its second moment lags behind step after step.",
        measure=_spike_parameter,
        columns=("rms_t",),
        thresholds={"threshold": 2.3},
        window=8,
        patience=3,
        severity="info",
        sentence=(
            "{parameter}: half of its last steps were {value:.1f} times or more above what v expects (rms_t)"
        ),
        remedy="lower beta2 from {beta2:g} for this parameter's group, or clip its updates",
        source=_WORTSMAN,
    ),
    Rule(
        name="second-moment-stale",
        meaning="g² is far below v: steps are too short for the gradient there is, until v has decayed.",
        measure=_stale,
        thresholds={"threshold": 0.01},
        patience=5,
        severity="info",
        sentence=(
            "{parameter}: the gradient ({now:.0e}) is {value:.0e} of what the second moment remembers "
            "({remembered:.0e}); when it grows again, it meets a wrong step size"
        ),
        remedy="nothing to do at the end of a training; else lower beta2, so that v follows sooner",
        source=(
            "Adaptive Preconditioners Trigger Loss Spikes in Adam (2025), arXiv:2506.04805: g² << v comes "
            "first"
        ),
    ),
    Rule(
        name="first-moment-collapse",
        meaning="The first moment is far smaller than even pure noise would leave: momentum is lost.",
        measure=_first_moment_collapse,
        columns=("first_moment_rms", "grad_rms"),
        thresholds={"threshold": 0.1},
        window=10,
        patience=3,
        sentence={
            "cancels": (
                "{parameter}: the first moment is {value:.3f} of the gradient, where noise would leave "
                "{noise:.2f}: consecutive gradients cancel, the parameter swings to and fro"
            ),
            "underflow": "{parameter}: the first moment is 0 although there is a gradient: it underflows",
        },
        remedy={
            "cancels": "lower the learning rate",
            "underflow": "keep the state in float32 (precision *-mixed)",
        },
        source=(
            "independent gradients leave sqrt((1 - beta1)/(1 + beta1)) of g in m; Kosson et al. (2023), "
            "2305.17212"
        ),
    ),
]
