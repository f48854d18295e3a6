"""Sums, counts and extremes of what `_exact.elementwise` tells of a block, float64.

What counts is decided for each element as in the reference engine. Each loop does one thing, so that elements
go through vector registers side by side: the compiler makes a branch, and one element after the other, of a
condition that two things depend on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_adapt.dynamics.engines.cpu._compiled import (
    BFLOAT16,
    FIGURE,
    FLOAT16,
    FLOAT64,
    SCALAR,
    SLOT,
    exactly,
    in_any_order,
    larger,
)
from lightning_adapt.dynamics.engines.cpu._exact import BEFORE, DENOMINATOR, GAIN, HAT, PREDICTED, RATE, ROOT
from lightning_adapt.dynamics.engines.descriptors import CANONICAL, EPS_INSIDE, HAS_EPS, HAS_SNR, IS_ROOT

ROOM = GAIN  # which is not needed any more
_LARGEST = float(np.finfo(np.float64).max)


@exactly
def add(x: Any, n: int, kinds: Any, numbers: Any, form: int, tiny: float, y: Any, out: Any) -> None:
    """Add the figures of one block.

    Args:
        x: As in `elementwise`.
        n: Elements.
        kinds: As in `elementwise`.
        numbers: As in `elementwise`.
        form: As in `elementwise`.
        tiny: Smallest normal number of the second moment's dtype.
        y: What `elementwise` filled.
        out: Shape ``(FIGURES,)``, float64.
    """
    parameter, gradient = x[SLOT.parameter], x[SLOT.gradient]
    out[FIGURE.numel] += n
    _squares(parameter, n, y[ROOM], out, FIGURE.param_finite, FIGURE.param_square, -1)
    if kinds[SLOT.gradient]:
        _squares(gradient, n, y[ROOM], out, FIGURE.grad_finite, FIGURE.grad_square, FIGURE.grad_absmax)
        out[FIGURE.grad_numel] += n
        out[FIGURE.grad_zero] += _zeros(gradient, n)
    if form & CANONICAL:
        _canonical(x, n, kinds, numbers, form, tiny, y, out)
    if not form & CANONICAL and not kinds[SLOT.before]:
        return
    update, before = y[PREDICTED], x[SLOT.before]
    if kinds[SLOT.before]:
        for i in range(n):
            update[i] = parameter[i] - before[i]
    _squares(update, n, y[ROOM], out, FIGURE.update_finite, FIGURE.update_square, FIGURE.update_absmax)
    if kinds[SLOT.gradient]:
        out[FIGURE.update_dot_grad] += _dot(update, gradient, n)


@exactly
def _canonical(x: Any, n: int, kinds: Any, numbers: Any, form: int, tiny: float, y: Any, out: Any) -> None:
    """The figures that need a canonical step."""
    if kinds[SLOT.first_moment]:
        m = x[SLOT.first_moment]
        _squares(m, n, y[ROOM], out, FIGURE.first_finite, FIGURE.first_square, FIGURE.first_moment_absmax)
    if kinds[SLOT.second_moment]:
        _second(x[SLOT.second_moment], y, n, numbers, form, tiny, out)
        if form & HAS_EPS and numbers[SCALAR.adaptive] != 0:
            _floor(x, n, numbers, form, y, out)
        _ratios(x, n, kinds, numbers, form, y, out)
    _rates(y[RATE], n, out)
    if numbers[SCALAR.applied] != 0:
        _pull(y[BEFORE], y[RATE], n, numbers[SCALAR.decay], numbers[SCALAR.l2])
    else:
        y[BEFORE, :n] = 0.0
    _squares(y[BEFORE], n, y[ROOM], out, FIGURE.decay_finite, FIGURE.decay_square, -1)
    out[FIGURE.lost_numel] += n
    out[FIGURE.lost] += _lost(x[SLOT.parameter], x[SLOT.before], y[PREDICTED], n, kinds)


@exactly
def _finite(x: float) -> bool:
    return abs(x) <= _LARGEST  # false for NaN; x - x might be taken for 0


@in_any_order
def _only_finite(x: Any, n: int) -> float:
    """Put 0 where ``x`` is not finite; returns how many elements are."""
    counted = 0.0
    for i in range(n):
        counted += 1.0 if _finite(x[i]) else 0.0
    for i in range(n):
        x[i] = x[i] if _finite(x[i]) else 0.0
    return counted


@in_any_order
def _only_numbers(x: Any, n: int) -> float:
    """Put 0 where ``x`` is NaN; returns how many elements are not."""
    counted = 0.0
    for i in range(n):
        counted += 1.0 if x[i] == x[i] else 0.0
    for i in range(n):
        x[i] = x[i] if x[i] == x[i] else 0.0
    return counted


@in_any_order
def _total(x: Any, n: int) -> float:
    total = 0.0
    for i in range(n):
        total += x[i]
    return total


@in_any_order
def _squares(x: Any, n: int, room: Any, out: Any, count: int, square: int, top: int) -> None:
    """Count, sum the squares, and take the largest of the finite elements; below 0: do not."""
    counted = total = largest = 0.0
    for i in range(n):
        room[i] = abs(x[i]) if _finite(x[i]) else 0.0
    for i in range(n):
        counted += 1.0 if _finite(x[i]) else 0.0
    for i in range(n):
        total += room[i] * room[i]
        largest = larger(largest, room[i])
    out[count] += counted
    if square >= 0:
        out[square] += total
    if top >= 0 and counted > 0:
        out[top] = max(out[top], largest)


@in_any_order
def _zeros(x: Any, n: int) -> float:
    zeros = 0.0
    for i in range(n):
        zeros += 1.0 if x[i] == 0 else 0.0
    return zeros


@in_any_order
def _dot(update: Any, gradient: Any, n: int) -> float:
    total = 0.0
    for i in range(n):
        known = _finite(update[i]) and _finite(gradient[i])
        total += (update[i] if known else 0.0) * (gradient[i] if known else 0.0)
    return total


@in_any_order
def _second(stored: Any, y: Any, n: int, numbers: Any, form: int, tiny: float, out: Any) -> None:
    nothing = numbers[SCALAR.eps] if form & IS_ROOT and form & HAS_EPS else 0.0
    zero = subnormal = total = 0.0
    if form & IS_ROOT:
        for i in range(n):
            zero += 1.0 if stored[i] <= nothing else 0.0
    else:
        zero = _zeros(stored, n)
    for i in range(n):
        subnormal += 1.0 if (stored[i] > 0) & (stored[i] < tiny) else 0.0
    hat = y[HAT]
    for i in range(n):
        total += hat[i] if _finite(stored[i]) else 0.0
    _squares(stored, n, y[ROOM], out, FIGURE.second_finite, -1, FIGURE.second_moment_absmax)
    out[FIGURE.second_numel] += n
    out[FIGURE.second_zero] += zero
    out[FIGURE.second_subnormal] += subnormal
    out[FIGURE.second_hat] += total


@in_any_order
def _floor(x: Any, n: int, numbers: Any, form: int, y: Any, out: Any) -> None:
    """Who sits on the epsilon floor, and why."""
    eps, root = numbers[SCALAR.eps], (form & IS_ROOT) != 0
    measure, zero = y[HAT] if form & EPS_INSIDE else y[ROOT], eps if form & IS_ROOT else 0.0
    stored, g, m = x[SLOT.second_moment], x[SLOT.gradient], x[SLOT.first_moment]
    hits = nothing = untouched = 0.0
    for i in range(n):
        hits += 1.0 if measure[i] <= eps else 0.0
    for i in range(n):
        none = stored[i] <= zero if root else stored[i] == 0
        nothing += 1.0 if (measure[i] <= eps) & none else 0.0
    for i in range(n):
        none = stored[i] <= zero if root else stored[i] == 0
        idle = (g[i] == 0) & (m[i] == 0)  # what is absent reads as 0
        untouched += 1.0 if (measure[i] <= eps) & none & idle else 0.0
    out[FIGURE.floor_numel] += n
    out[FIGURE.floor_untouched] += untouched
    out[FIGURE.floor_underflow] += nothing - untouched
    out[FIGURE.floor_small] += hits - nothing
    share, below, whole = y[ROOM], y[DENOMINATOR], math.sqrt(eps) if form & EPS_INSIDE else eps
    for i in range(n):
        share[i] = whole / below[i]
    out[FIGURE.eps_share_numel] += _only_numbers(share, n)
    out[FIGURE.eps_share] += _total(share, n)


@in_any_order
def _ratios(x: Any, n: int, kinds: Any, numbers: Any, form: int, y: Any, out: Any) -> None:
    """rms_t and the signal-to-noise ratio."""
    eps = numbers[SCALAR.eps]
    floor = eps if form & EPS_INSIDE else eps * eps
    hat, root, g, m = y[HAT], y[ROOT], x[SLOT.gradient], x[SLOT.first_moment]
    ratio = y[ROOM]
    if kinds[SLOT.gradient]:
        for i in range(n):
            whole = g[i] * g[i] / (floor if hat[i] < floor else hat[i])
            ratio[i] = 0.0 if g[i] == 0 else whole
        out[FIGURE.rms_t_numel] += _only_finite(ratio, n)
        out[FIGURE.rms_t] += _total(ratio, n)
    if form & HAS_SNR:
        correction = numbers[SCALAR.first_moment_correction]
        for i in range(n):
            whole = abs(m[i]) * correction / root[i]
            ratio[i] = whole if hat[i] > 0 else np.nan
        out[FIGURE.snr_numel] += _only_finite(ratio, n)
        out[FIGURE.snr] += _total(ratio, n)


@in_any_order
def _rates(rate: Any, n: int, out: Any) -> None:
    """The extremes of the effective learning rate; NaN is none."""
    unknown, fastest, slowest = 0.0, -np.inf, -np.inf
    for i in range(n):
        unknown += 1.0 if rate[i] != rate[i] else 0.0
    if unknown == 0:
        for i in range(n):
            fastest, slowest = larger(fastest, rate[i]), larger(slowest, -rate[i])
    else:
        for i in range(n):
            if rate[i] == rate[i]:
                fastest, slowest = larger(fastest, rate[i]), larger(slowest, -rate[i])
    out[FIGURE.effective_lr_max] = max(out[FIGURE.effective_lr_max], fastest)
    out[FIGURE.effective_lr_negated_min] = max(out[FIGURE.effective_lr_negated_min], slowest)


@in_any_order
def _pull(before: Any, rate: Any, n: int, decay: float, l2: float) -> None:
    """From the parameter before the step to what decay took of it."""
    if l2 != 0:
        for i in range(n):
            before[i] *= decay + l2 * rate[i]
    else:
        for i in range(n):
            before[i] *= decay


@exactly
def _lost(after: Any, before: Any, predicted: Any, n: int, kinds: Any) -> int:
    """How many updates rounding lost: the parameter is as before, though the step was not 0."""
    lost = 0
    if kinds[SLOT.before]:
        for i in range(n):
            lost += (after[i] == before[i]) & (predicted[i] != 0)
    elif kinds[SLOT.parameter] == BFLOAT16 or kinds[SLOT.parameter] == FLOAT16:
        for i in range(n):
            stays = _rounded(after[i] + predicted[i], kinds[SLOT.parameter]) == after[i]
            lost += stays & (predicted[i] != 0)
    elif kinds[SLOT.parameter] == FLOAT64:
        for i in range(n):
            lost += (after[i] + predicted[i] == after[i]) & (predicted[i] != 0)
    else:
        for i in range(n):
            stays = np.float64(np.float32(after[i] + predicted[i])) == after[i]
            lost += stays & (predicted[i] != 0)
    return lost


@exactly
def _rounded(x: float, kind: int) -> float:
    """``x`` rounded to half precision, through float32 as torch does it."""
    x = np.float64(np.float32(x))
    if x == 0 or not np.isfinite(x):
        return x
    digits, smallest = (8, -133) if kind == BFLOAT16 else (11, -24)
    exponent = max(math.frexp(x)[1] - digits, smallest)
    return math.ldexp(np.rint(math.ldexp(x, -exponent)), exponent)
