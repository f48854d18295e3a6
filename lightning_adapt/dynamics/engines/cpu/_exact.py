"""The exact way: any form of step, float64 all along, one element at a time as in the reference engine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_adapt.dynamics.engines.cpu._compiled import SCALAR, SLOT, exactly
from lightning_adapt.dynamics.engines.descriptors import (
    CANONICAL,
    EPS_CLAMP,
    EPS_INSIDE,
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
