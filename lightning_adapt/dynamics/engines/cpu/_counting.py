"""Counting elements into the three histograms of a row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from lightning_adapt.dynamics.engines.cpu import _exact
from lightning_adapt.dynamics.engines.cpu._compiled import SCALAR, SLOT, exactly, intrinsic
from lightning_adapt.dynamics.engines.descriptors import (
    CANONICAL,
    EPS_CLAMP,
    EPS_INSIDE,
    IS_ROOT,
    PRECONDITIONED,
)
from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, SECOND_MOMENT, UPDATE, WIDTH

# A bin is a shift of the upper half of a float64, see `histograms`.
_RATE_SHIFT, _RATE_FIRST = 20 - EFFECTIVE_LR.mantissa_bits, EFFECTIVE_LR.first_key
_HAT_SHIFT, _HAT_FIRST = 20 - SECOND_MOMENT.mantissa_bits, SECOND_MOMENT.first_key
_MOVED_SHIFT, _MOVED_FIRST = 20 - UPDATE.mantissa_bits, UPDATE.first_key


@intrinsic
def _bin_of(_: Any, x: Any, shift: Any, first: Any) -> Any:
    """The bin of a float64, in 32 bits all along: Numba's own integers have 64, of which half fit at once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, half = ir.IntType(64), ir.IntType(32)
        value, by, lowest = arguments
        upper = builder.trunc(builder.lshr(builder.bitcast(value, wide), wide(32)), half)
        key = builder.sub(builder.ashr(upper, builder.trunc(by, half)), builder.trunc(lowest, half))
        for beyond, bound in (("<", half(0)), (">", half(WIDTH - 1))):
            key = builder.select(builder.icmp_signed(beyond, key, bound), bound, key)
        return key

    return types.int32(x, types.int64, types.int64), generate


@exactly
def count(
    x: Any, n: int, kinds: Any, numbers: Any, form: int, weight: int, filled: Any, bins: Any, counts: Any
) -> None:
    """Count elements, each ``weight`` times.

    Args:
        x: Shape ``(slots, BLOCK)``, float64.
        n: Elements.
        kinds: Which slots are there.
        numbers: One float64 for each of `SCALARS`.
        form: Bits of the descriptor.
        weight: Of each element.
        filled: Room for what `_exact.elementwise` fills.
        bins: Shape ``(3, BLOCK)``, int32: room.
        counts: Shape ``(3, WIDTH)``, int32: what is added to.
    """
    if not (_is_plain(kinds, numbers, form) and _plainly(x, n, kinds, numbers, weight, bins, counts)):
        _exact.elementwise(x, n, kinds, numbers, form, filled)
        count_filled(filled, n, kinds, form, weight, bins, counts)


@exactly
def count_filled(y: Any, n: int, kinds: Any, form: int, weight: int, bins: Any, counts: Any) -> None:
    """Count the elements that `elementwise` filled in."""
    if form & CANONICAL:
        _each(y[_exact.RATE], n, _RATE_SHIFT, _RATE_FIRST, weight, bins[0], counts[0])
        if kinds[SLOT.second_moment]:
            _each(y[_exact.HAT], n, _HAT_SHIFT, _HAT_FIRST, weight, bins[1], counts[1])
    if form & CANONICAL or kinds[SLOT.before]:
        _each(y[_exact.MOVED], n, _MOVED_SHIFT, _MOVED_FIRST, weight, bins[2], counts[2])


@exactly
def _each(x: Any, n: int, shift: int, first: int, weight: int, bins: Any, counts: Any) -> None:
    """First all bins, which vectorises."""
    for i in range(n):
        bins[i] = _bin_of(x[i], shift, first)
    for i in range(n):
        if not np.isnan(x[i]):
            counts[bins[i]] += weight


@exactly
def _is_plain(kinds: Any, numbers: Any, form: int) -> bool:
    """Whether a step is one of Adam's kind, ``lr / (sqrt(v_hat) + eps)`` times a mix of m and gradient."""
    if kinds[SLOT.effective_lr] or kinds[SLOT.numerator] or kinds[SLOT.centering]:
        return False
    if form & (IS_ROOT | EPS_INSIDE | EPS_CLAMP | PRECONDITIONED) or not form & CANONICAL:
        return False
    return bool(
        kinds[SLOT.second_moment] != 0 and numbers[SCALAR.adaptive] != 0 and numbers[SCALAR.applied] != 0
    )


@exactly
def _plainly(x: Any, n: int, kinds: Any, numbers: Any, weight: int, bins: Any, counts: Any) -> bool:
    """What most steps need, without a detour through memory; ``False`` if any is NaN, and nothing counted."""
    unknown = (
        _bins_measured(x, n, numbers, bins) if kinds[SLOT.before] else _bins_predicted(x, n, numbers, bins)
    )
    if unknown:
        return False
    rates, hats, moves = counts[0], counts[1], counts[2]
    for i in range(n):  # in turn: who adds to what was just added to has to wait
        rates[bins[0, i]] += weight
        hats[bins[1, i]] += weight
        moves[bins[2, i]] += weight
    return True


@exactly
def _bins_predicted(x: Any, n: int, numbers: Any, bins: Any) -> int:
    """The bins of elements whose update is predicted, by the very operations of `elementwise`; counts NaN."""
    stored, after, m, g = x[SLOT.second_moment], x[SLOT.parameter], x[SLOT.first_moment], x[SLOT.gradient]
    rates, hats, moves = bins[0], bins[1], bins[2]
    lr, eps, correction = numbers[SCALAR.lr], numbers[SCALAR.eps], numbers[SCALAR.second_moment_correction]
    of_m, of_g = numbers[SCALAR.first_moment_factor], numbers[SCALAR.gradient_weight]
    decay, pull = numbers[SCALAR.decay], numbers[SCALAR.pull]
    unknown = 0
    for i in range(n):
        hat = stored[i] * correction
        rate = lr / (math.sqrt(hat) + eps)
        numerator = m[i] * of_m + g[i] * of_g
        before = (after[i] + rate * numerator) / (1 - decay - rate * pull)
        moved = abs(-rate * (numerator + pull * before) - decay * before)
        rates[i] = _bin_of(rate, _RATE_SHIFT, _RATE_FIRST)
        hats[i] = _bin_of(hat, _HAT_SHIFT, _HAT_FIRST)
        moves[i] = _bin_of(moved, _MOVED_SHIFT, _MOVED_FIRST)
        unknown |= np.isnan(rate) | np.isnan(moved)
    return unknown


@exactly
def _bins_measured(x: Any, n: int, numbers: Any, bins: Any) -> int:
    """As `_bins_predicted`, of elements that are known from before the step."""
    stored, after, before = x[SLOT.second_moment], x[SLOT.parameter], x[SLOT.before]
    rates, hats, moves = bins[0], bins[1], bins[2]
    lr, eps, correction = numbers[SCALAR.lr], numbers[SCALAR.eps], numbers[SCALAR.second_moment_correction]
    unknown = 0
    for i in range(n):
        hat, moved = stored[i] * correction, abs(after[i] - before[i])
        rate = lr / (math.sqrt(hat) + eps)
        rates[i] = _bin_of(rate, _RATE_SHIFT, _RATE_FIRST)
        hats[i] = _bin_of(hat, _HAT_SHIFT, _HAT_FIRST)
        moves[i] = _bin_of(moved, _MOVED_SHIFT, _MOVED_FIRST)
        unknown |= np.isnan(rate) | np.isnan(moved)
    return unknown
