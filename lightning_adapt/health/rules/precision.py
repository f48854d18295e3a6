"""What the dtypes of states and parameters cannot hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import SECOND_MOMENT, FloatArray
from lightning_adapt.health.formats import Format, format_of
from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.rules._measures import second_beta
from lightning_adapt.health.window import Window


def _state_underflow(window: Window, limits: Limits) -> Verdict:
    zero, subnormal = window["eps_floor_underflow_frac"], window["second_moment_subnormal_frac"]
    narrow = window.rows.state_bits <= 16
    # What float32 cannot hold is below 1e-45: such elements do not learn in any dtype.
    hit_zero = zero >= np.where(narrow, limits["zero"], 0.5)
    hit_subnormal = narrow & (subnormal >= limits["subnormal"])
    # The gradient whose share of a second moment, (1 - beta2)·g², rounds to 0.
    gone = np.sqrt(window.rows.state_smallest / 2 / (1 - np.nan_to_num(second_beta(window))))
    return Verdict(
        hit_zero | hit_subnormal,
        np.where(hit_zero, zero, subnormal),
        np.where(hit_zero, "zero", "subnormal"),
        {"dtype": window.rows.state_dtypes, "gone": gone},
    )


def is_stuck(form: Format, beta: float, v: FloatArray) -> npt.NDArray[np.bool_]:
    """Where ``v · beta`` rounds back to ``v``: a second moment without a gradient does not decay.

    Round-to-nearest: where ``v · (1 - beta)`` is less than half the distance to the next smaller number. That
    distance is ``eps · 2**floor(log2 v)`` (half of it at a power of two), and never below `Format.smallest`.

    Args:
        form: Of the state.
        beta: Decay factor.
        v: Second moments, not at powers of two.

    Example:
        >>> bf16 = Format(mantissa=7, exponent=8)
        >>> v = np.array([1.2, 1.9])
        >>> [is_stuck(bf16, beta, v).tolist() for beta in (0.999, 0.997, 0.99)]
        [[True, True], [True, False], [False, False]]
    """
    octave = np.exp2(np.floor(np.log2(np.maximum(v, form.tiny))))
    gap = np.maximum(octave * form.eps, form.smallest)
    return np.asarray(v * (1 - beta) < gap / 2)


def _second_moment_stuck(window: Window, limits: Limits) -> Verdict:
    rows, beta = window.rows, second_beta(window)
    narrow = (rows.state_bits <= 16) & (beta > 0) & ~(window.hyper("amsgrad") > 0)
    counts = window.counts("second_moment")
    share = np.zeros(len(rows))
    for dtype, one in {(rows.state_dtypes[at], beta[at]) for at in np.flatnonzero(narrow)}:
        form = format_of(dtype)
        chosen = narrow & (beta == one) & (rows.state_dtypes == dtype)
        if form is not None:
            share[chosen] = _stuck_share(form, one, None if counts is None else counts[chosen])
    details = {"beta2": beta, "limit": 1 - rows.state_eps / 2, "dtype": rows.state_dtypes}
    return Verdict(share >= limits["threshold"], share, details=details)


def _stuck_share(form: Format, beta: float, counts: npt.NDArray[np.integer] | None) -> FloatArray | float:
    """Share of second moments that cannot decay, from their histogram; v = 0 is left out."""
    if counts is None:  # as if they were normal numbers, evenly spread
        return float(is_stuck(form, beta, 1.0 + np.arange(0.5, 32) / 32).mean())
    edges, parts = SECOND_MOMENT.edges, np.arange(0.5, 8) / 8
    stuck = is_stuck(form, beta, edges[:-1, None] + np.diff(edges)[:, None] * parts).mean(axis=1)
    known = counts[:, 1:-1].astype(np.float64)
    total = known.sum(axis=1)
    return np.where(total > 0, known @ stuck / np.where(total > 0, total, 1), 0.0)


def _updates_lost(window: Window, limits: Limits) -> Verdict:
    rows, share = window.rows, window["update_lost_frac"]
    hit = (rows.bits <= 16) & (share >= limits["threshold"]) & (window["learning_rate"] > 0)
    details = {
        "dtype": rows.dtypes,
        "least": rows.eps / 4,
        "size": window["param_rms"],
        "lr": window["learning_rate"],
    }
    return Verdict(hit, share, details=details)


def _state_dtype(window: Window, limits: Limits) -> Verdict:
    rows = window.rows
    before = np.fmax.reduce(window.past("state_bits"), axis=0)
    narrowed, narrow = rows.state_bits < before, rows.state_bits < rows.bits
    details = {"dtype": rows.dtypes, "state": rows.state_dtypes, "before": before}
    return Verdict(narrowed | narrow, rows.state_bits, np.where(narrowed, "narrowed", "narrow"), details)


_WIDE = "keep the state in float32: train with precision *-mixed, or with a float32 copy of the weights"

RULES = [
    Rule(
        name="state-underflow",
        meaning="The second moment rounds to 0, or to numbers without precision, in the dtype of the state.",
        measure=_state_underflow,
        thresholds={"zero": 0.01, "subnormal": 0.5},
        patience=3,
        snapshot=True,
        sentence={
            "zero": (
                "{parameter}: the second moment of {value:.1%} of the elements is 0 in {dtype} although they"
                " have a gradient: epsilon alone sets their steps"
            ),
            "subnormal": (
                "{parameter}: the second moment of {value:.0%} of the elements is below the normal numbers "
                "of {dtype}, where precision runs out"
            ),
        },
        remedy=_WIDE + "; gradients below {gone:.0e} leave nothing in {dtype}",
        source=(
            "(1 - beta2)·g² of half the smallest number, and less, rounds to 0; 3 % of such elements lost a "
            "training (own runs: character model, fp16 states, eps 1e-8)"
        ),
    ),
    Rule(
        name="second-moment-stuck",
        meaning="v · beta2 rounds back to v: where gradients get smaller, the second moment cannot follow.",
        measure=_second_moment_stuck,
        thresholds={"threshold": 0.5},
        patience=2,
        snapshot=True,
        sentence=(
            "{parameter}: {value:.0%} of the second moments cannot decay: in {dtype}, v·{beta2:g} rounds "
            "back to v"
        ),
        remedy="use beta2 <= {limit:.4f}, or " + _WIDE,
        source=(
            "round-to-nearest: v·beta2 is v again where 1 - beta2 < eps/2, for numbers just above a power of"
            " two, and everywhere where 1 - beta2 < eps/4 (bfloat16: 0.9961 and 0.998); below 6e-5, fp16 "
            "sooner"
        ),
    ),
    Rule(
        name="updates-lost",
        meaning=(
            "The update is smaller than half the distance to the next number: the parameter stands still."
        ),
        measure=_updates_lost,
        thresholds={"threshold": 0.5},
        patience=3,
        sentence=(
            "{parameter}: {value:.0%} of the updates are lost to rounding in {dtype}: with learning rate "
            "{lr:.0e} and weights of {size:.0e}, steps below {least:.0e} of a weight leave it as it is"
        ),
        remedy="keep a float32 copy of the weights (precision bf16-mixed), or round stochastically",
        source=("Revisiting BFloat16 Training (2020), arXiv:2010.06192; half of the elements: own choice"),
    ),
    Rule(
        name="state-dtype",
        meaning="The optimizer state is in a narrower dtype than its parameter, or than it was before.",
        measure=_state_dtype,
        columns=("state_bits",),
        window=None,
        snapshot=True,
        sentence={
            "narrow": "{parameter} is {dtype}, its optimizer state only {state}",
            "narrowed": "{parameter}: the optimizer state was {before:.0f} bits wide, and is {state} now",
        },
        remedy=(
            "load the state when parameters have their final dtype: load_state_dict casts it to theirs; a "
            "float32 state needs float32 parameters"
        ),
        source=(
            "torch.optim.Optimizer.load_state_dict casts floating-point state to the dtype of its parameter"
        ),
    ),
]
