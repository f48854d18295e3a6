"""The exact way: any form of step, float64 all along, one element at a time as in the reference engine."""

from __future__ import annotations

import math
from typing import Any

from lightning_adapt.dynamics.engines.cpu._compiled import SCALAR, SLOT, exactly
from lightning_adapt.dynamics.engines.descriptors import (
    CANONICAL,
    EPS_CLAMP,
    EPS_INSIDE,
    IS_ROOT,
    PRECONDITIONED,
)

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
