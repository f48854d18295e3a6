"""The exact way: any form of step, float64 all along, one element at a time as in the reference engine."""

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
)
from lightning_adapt.dynamics.engines.descriptors import (
    CANONICAL,
    EPS_CLAMP,
    EPS_INSIDE,
    HAS_EPS,
    HAS_SNR,
    IS_ROOT,
    PRECONDITIONED,
)
from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, SECOND_MOMENT, UPDATE

#: Rows of the array that `elementwise` fills.
HAT, ROOT, DENOMINATOR, RATE, BEFORE, PREDICTED, MOVED, GAIN = range(8)


@exactly
def elementwise(x: Any, n: int, kinds: Any, numbers: Any, form: int, out: Any) -> None:
    """Everything that is told of a single element.

    Args:
        x: Shape ``(slots, BLOCK)``, float64.
        n: Elements.
        kinds: Which slots are there.
        numbers: One float64 for each of `SCALARS`.
        form: Bits of the descriptor.
        out: Shape ``(8, BLOCK)``, float64: v_hat, its root, denominator, effective learning rate, parameter
            before the step, predicted update, |update| (where one is known), and room.
    """
    if kinds[SLOT.second_moment]:
        _roots(x, n, numbers, form, out)
    rate, below = out[RATE], out[DENOMINATOR]
    if kinds[SLOT.effective_lr]:
        rate[:n] = x[SLOT.effective_lr, :n]
    elif kinds[SLOT.second_moment] and numbers[SCALAR.adaptive] != 0:
        for i in range(n):
            rate[i] = numbers[SCALAR.lr] / below[i]
    else:
        rate[:n] = numbers[SCALAR.lr]
    if form & CANONICAL:
        _predict(x, n, kinds, numbers, form, out)
    moved, after, before = out[MOVED], x[SLOT.parameter], x[SLOT.before]
    if kinds[SLOT.before]:
        for i in range(n):
            moved[i] = abs(after[i] - before[i])
    elif form & CANONICAL:
        for i in range(n):
            moved[i] = abs(out[PREDICTED, i])


@exactly
def _roots(x: Any, n: int, numbers: Any, form: int, out: Any) -> None:
    """v_hat, its root, and the denominator; NaN stays NaN."""
    stored, centre = x[SLOT.second_moment], x[SLOT.centering]
    hat, root, below = out[HAT], out[ROOT], out[DENOMINATOR]
    eps, correction = numbers[SCALAR.eps], numbers[SCALAR.second_moment_correction]
    if form & IS_ROOT:
        for i in range(n):
            value = stored[i] - eps
            root[i] = 0.0 if value < 0 else value
            hat[i] = root[i] * root[i]
    else:
        for i in range(n):
            value = stored[i] * correction - centre[i] * centre[i]  # minus 0 where it is not centered
            hat[i] = 0.0 if value < 0 and centre[i] != 0 else value
        for i in range(n):
            root[i] = math.sqrt(hat[i])
    if form & EPS_INSIDE:
        for i in range(n):
            below[i] = math.sqrt(hat[i] + eps)
    elif form & EPS_CLAMP:
        for i in range(n):
            below[i] = eps if root[i] < eps else root[i]
    else:
        for i in range(n):
            below[i] = root[i] + eps


@exactly
def _predict(x: Any, n: int, kinds: Any, numbers: Any, form: int, out: Any) -> None:
    """The parameter before the step and the update that the canonical step says."""
    before, predicted, after = out[BEFORE], out[PREDICTED], x[SLOT.parameter]
    if kinds[SLOT.before]:
        before[:n] = x[SLOT.before, :n]
    else:
        before[:n] = after[:n]
    predicted[:n] = 0.0
    if numbers[SCALAR.applied] == 0:
        return
    numerator, gain = out[MOVED], out[GAIN]
    if kinds[SLOT.numerator]:
        numerator[:n] = x[SLOT.numerator, :n]
    else:
        m, g = x[SLOT.first_moment], x[SLOT.gradient]
        of_m, of_g = numbers[SCALAR.first_moment_factor], numbers[SCALAR.gradient_weight]
        for i in range(n):
            numerator[i] = m[i] * of_m + g[i] * of_g
    if form & PRECONDITIONED:
        gain[:n] = numbers[SCALAR.lr]
    else:
        gain[:n] = out[RATE, :n]
    decay, pull = numbers[SCALAR.decay], numbers[SCALAR.pull]
    if not kinds[SLOT.before]:
        for i in range(n):
            before[i] = (after[i] + gain[i] * numerator[i]) / (1 - decay - gain[i] * pull)
    for i in range(n):
        predicted[i] = -gain[i] * (numerator[i] + pull * before[i]) - decay * before[i]


@exactly
def _rounded(x: float, kind: int) -> float:
    """``x`` rounded to the dtype of a parameter, through float32 as torch does it."""
    if kind != FLOAT64:
        x = np.float64(np.float32(x))
    if kind not in (BFLOAT16, FLOAT16) or x == 0 or not np.isfinite(x):
        return x
    digits, smallest = (8, -133) if kind == BFLOAT16 else (11, -24)
    exponent = max(math.frexp(x)[1] - digits, smallest)
    return math.ldexp(np.rint(math.ldexp(x, -exponent)), exponent)


@exactly
def _finite(x: float) -> bool:
    return x - x == 0


@exactly
def _squares(x: Any, n: int, out: Any, count: int, square: int, top: int) -> None:
    """Count, sum the squares, and take the largest of the finite elements; ``top`` below 0: no largest."""
    counted, total, largest = 0, 0.0, -np.inf
    for i in range(n):
        value = x[i]
        if _finite(value):
            counted += 1
            total += value * value
            largest = max(largest, abs(value))
    out[count] += counted
    out[square] += total
    if top >= 0:
        out[top] = max(out[top], largest)


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
    out[FIGURE.numel] += n
    _squares(x[SLOT.parameter], n, out, FIGURE.param_finite, FIGURE.param_square, -1)
    g = x[SLOT.gradient]
    if kinds[SLOT.gradient]:
        _squares(g, n, out, FIGURE.grad_finite, FIGURE.grad_square, FIGURE.grad_absmax)
        out[FIGURE.grad_numel] += n
        for i in range(n):
            out[FIGURE.grad_zero] += g[i] == 0
    if form & CANONICAL:
        _canonical(x, n, kinds, numbers, form, tiny, y, out)
    if not form & CANONICAL and not kinds[SLOT.before]:
        return
    for i in range(n):
        update = x[SLOT.parameter, i] - x[SLOT.before, i] if kinds[SLOT.before] else y[PREDICTED, i]
        if not _finite(update):
            continue
        out[FIGURE.update_finite] += 1
        out[FIGURE.update_square] += update * update
        out[FIGURE.update_absmax] = max(out[FIGURE.update_absmax], abs(update))
        if kinds[SLOT.gradient] and _finite(g[i]):
            out[FIGURE.update_dot_grad] += update * g[i]


@exactly
def _canonical(x: Any, n: int, kinds: Any, numbers: Any, form: int, tiny: float, y: Any, out: Any) -> None:
    """The figures that need a canonical step."""
    if kinds[SLOT.first_moment]:
        m = x[SLOT.first_moment]
        _squares(m, n, out, FIGURE.first_finite, FIGURE.first_square, FIGURE.first_moment_absmax)
    if kinds[SLOT.second_moment]:
        _second(x, n, numbers, form, tiny, y, out)
        if form & HAS_EPS and numbers[SCALAR.adaptive] != 0:
            _floor(x, n, kinds, numbers, form, y, out)
        _ratios(x, n, kinds, numbers, form, y, out)
    decay, l2 = numbers[SCALAR.decay], numbers[SCALAR.l2]
    applied = numbers[SCALAR.applied] != 0
    for i in range(n):
        rate = y[RATE, i]
        if not np.isnan(rate):
            out[FIGURE.effective_lr_max] = max(out[FIGURE.effective_lr_max], rate)
            out[FIGURE.effective_lr_negated_min] = max(out[FIGURE.effective_lr_negated_min], -rate)
        pulled = y[BEFORE, i] * (decay + l2 * rate if l2 != 0 else decay) if applied else 0.0
        if _finite(pulled):
            out[FIGURE.decay_finite] += 1
            out[FIGURE.decay_square] += pulled * pulled
        after, predicted = x[SLOT.parameter, i], y[PREDICTED, i]
        stayed = (
            after == x[SLOT.before, i]
            if kinds[SLOT.before]
            else _rounded(after + predicted, kinds[SLOT.parameter]) == after
        )
        out[FIGURE.lost] += stayed and predicted != 0
    out[FIGURE.lost_numel] += n


@exactly
def _second(x: Any, n: int, numbers: Any, form: int, tiny: float, y: Any, out: Any) -> None:
    out[FIGURE.second_numel] += n
    nothing = numbers[SCALAR.eps] if form & IS_ROOT and form & HAS_EPS else 0.0
    for i in range(n):
        stored = x[SLOT.second_moment, i]
        out[FIGURE.second_zero] += stored <= nothing if form & IS_ROOT else stored == 0
        out[FIGURE.second_subnormal] += 0 < stored < tiny
        if _finite(stored):
            out[FIGURE.second_finite] += 1
            out[FIGURE.second_hat] += y[HAT, i]
            out[FIGURE.second_moment_absmax] = max(out[FIGURE.second_moment_absmax], abs(stored))


@exactly
def _floor(x: Any, n: int, kinds: Any, numbers: Any, form: int, y: Any, out: Any) -> None:
    """Who sits on the epsilon floor, and why."""
    eps = numbers[SCALAR.eps]
    whole = math.sqrt(eps) if form & EPS_INSIDE else eps
    out[FIGURE.floor_numel] += n
    for i in range(n):
        hit = y[HAT, i] <= eps if form & EPS_INSIDE else y[ROOT, i] <= eps
        stored = x[SLOT.second_moment, i]
        if hit and (stored <= eps if form & IS_ROOT else stored == 0):
            # What is absent reads as 0.
            nothing = x[SLOT.gradient, i] == 0 and x[SLOT.first_moment, i] == 0
            out[FIGURE.floor_untouched if nothing else FIGURE.floor_underflow] += 1
        elif hit:
            out[FIGURE.floor_small] += 1
        share = whole / y[DENOMINATOR, i]
        if not np.isnan(share):
            out[FIGURE.eps_share_numel] += 1
            out[FIGURE.eps_share] += share


@exactly
def _ratios(x: Any, n: int, kinds: Any, numbers: Any, form: int, y: Any, out: Any) -> None:
    """rms_t and the signal-to-noise ratio."""
    eps = numbers[SCALAR.eps]
    floor = eps if form & EPS_INSIDE else eps * eps
    for i in range(n):
        hat = y[HAT, i]
        if kinds[SLOT.gradient]:
            g = x[SLOT.gradient, i]
            ratio = 0.0 if g == 0 else g * g / (floor if hat < floor else hat)
            if _finite(ratio):
                out[FIGURE.rms_t_numel] += 1
                out[FIGURE.rms_t] += ratio
        if form & HAS_SNR and hat > 0:
            ratio = abs(x[SLOT.first_moment, i]) * numbers[SCALAR.first_moment_correction] / y[ROOT, i]
            if _finite(ratio):
                out[FIGURE.snr_numel] += 1
                out[FIGURE.snr] += ratio


_RATE_SHIFT, _RATE_FIRST = 52 - EFFECTIVE_LR.mantissa_bits, EFFECTIVE_LR.first_key
_HAT_SHIFT, _HAT_FIRST = 52 - SECOND_MOMENT.mantissa_bits, SECOND_MOMENT.first_key
_MOVED_SHIFT, _MOVED_FIRST = 52 - UPDATE.mantissa_bits, UPDATE.first_key


@exactly
def count(y: Any, n: int, kinds: Any, form: int, weight: int, bins: Any, counts: Any) -> None:
    """Count the elements that `elementwise` filled into the three histograms, each ``weight`` times."""
    if form & CANONICAL:
        _count(y[RATE], n, _RATE_SHIFT, _RATE_FIRST, weight, bins, counts[0])
        if kinds[SLOT.second_moment]:
            _count(y[HAT], n, _HAT_SHIFT, _HAT_FIRST, weight, bins, counts[1])
    if form & CANONICAL or kinds[SLOT.before]:
        _count(y[MOVED], n, _MOVED_SHIFT, _MOVED_FIRST, weight, bins, counts[2])


@exactly
def _count(x: Any, n: int, shift: int, first: int, weight: int, bins: Any, counts: Any) -> None:
    """The bin is a shift of the bit pattern, see `histograms`; all of them first, which vectorises."""
    bits, last, unknown = x.view(np.int64), len(counts) - 1, 0
    for i in range(n):
        bins[i] = min(max((bits[i] >> shift) - first, 0), last)
        unknown += np.isnan(x[i])
    for i in range(n):
        if unknown == 0 or not np.isnan(x[i]):
            counts[bins[i]] += weight
