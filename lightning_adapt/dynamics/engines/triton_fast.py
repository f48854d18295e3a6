"""Triton, in fp32: the figures of whole tiles at memory speed, and whether they can be trusted.

fp32 is enough for sums of sound numbers. It is not for squares that leave its range, for numbers that are not
finite, and for the rare element whose update is so close to half a step of the parameter's dtype that
rounding decides whether it is lost. Such cases raise ``doubt``, and the block is measured again in float64:
counts are those of the reference for every input, and sound inputs pay for none of it.

Loops work on vectors, one number a lane. Each thread first adds up the elements it holds itself (`fold`), so
that one register a figure suffices; threads are added up once, at the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adapt.dynamics.engines import triton_names as n
from lightning_adapt.dynamics.engines.triton_careful import no_figures, put, tiny
from lightning_adapt.dynamics.engines.triton_fast_figures import put_second, put_squares, put_step
from lightning_adapt.dynamics.engines.triton_wide import (
    address,
    hat_of,
    load,
    number,
    on_floor,
    round_to,
    whole_eps,
)

# More than fp32 arithmetic can be off by, relative to the terms that are added.
_SLACK = tl.constexpr(2.0**-17)
_TINY = tl.constexpr(2.0**-100)


@triton.jit
def tensor_at(table, rows, row, slot: tl.constexpr, start, DTYPE: tl.constexpr):
    """Address of element ``start`` of a slot; 0 without one."""
    begin = tl.full((), 0, tl.int64)
    if DTYPE is not None:
        begin = address(table, rows, row, slot)
        if DTYPE == tl.float64:
            begin += start * 8
        elif DTYPE == tl.float32:
            begin += start * 4
        else:
            begin += start * 2
    return begin


@triton.jit
def fetch(begin, at, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Elements of a slot in fp32; 0 where there is no tensor."""
    if DTYPE is None:
        x = tl.zeros(at.shape, tl.float32)
    else:
        x = load(begin, at, None, DTYPE, ALIGNED).to(tl.float32)
    return x


@triton.jit
def rows_of_threads(x, EACH: tl.constexpr, ALIGNED: tl.constexpr):
    """As a matrix in which the elements of one thread lie along axis 1 (aligned loads) or axis 0."""
    if ALIGNED:
        x = tl.reshape(x, (x.shape[0] // EACH, EACH))
    else:
        x = tl.reshape(x, (EACH, x.shape[0] // EACH))
    return x


@triton.jit
def fold(x, EACH: tl.constexpr, ALIGNED: tl.constexpr):
    """Add up what one thread holds."""
    return tl.sum(rows_of_threads(x, EACH, ALIGNED), axis=1 if ALIGNED else 0)


@triton.jit
def fold_max(x, EACH: tl.constexpr, ALIGNED: tl.constexpr):
    """The largest number that one thread holds."""
    return tl.max(rows_of_threads(x, EACH, ALIGNED), axis=1 if ALIGNED else 0)


@triton.jit
def two(low, high):
    """Two counts in one int32: a block has fewer than 2^15 elements."""
    return tl.where(low, 1, 0) + tl.where(high, 65536, 0)


@triton.jit
def floor_threshold(correction, eps, FORM: tl.constexpr):
    """The largest fp32 number that, stored as second moment, is on the epsilon floor: exactly.

    Whether an element is on the floor is monotone in what is stored; so the neighbours of the solution of
    ``sqrt(v · correction) = eps`` are tried in float64, once a block, and elements only compared.
    """
    if n.IS_ROOT & FORM:
        guess = 2.0 * eps
    elif n.EPS_INSIDE & FORM:
        guess = eps / correction
    else:
        guess = eps * eps / correction
    bits = guess.to(tl.float32).to(tl.int32, bitcast=True)
    best = tl.full((), 0.0, tl.float32)
    for neighbour in tl.static_range(5):
        candidate = (bits + (neighbour - 2)).to(tl.float32, bitcast=True)
        hit = on_floor(hat_of(candidate.to(tl.float64), correction, eps, FORM), eps, FORM)
        best = tl.where(hit & (candidate > best), candidate, best)
    return best


@triton.jit
def reciprocal_root(v, factor, factor_if_small):
    """``1 / sqrt(v · factor)``, also for subnormal ``v``: those are lifted by 2^80 first.

    Finite for 0, so that ``root = hat · this`` is 0 there.
    """
    small = v < 2.0**-60
    lifted = tl.maximum(v * tl.where(small, factor_if_small, factor), 2.0**-126)
    return tl.rsqrt(lifted) * tl.where(small, 2.0**40, 1.0)


@triton.jit
def second_in_fp32(v, correction, eps, FORM: tl.constexpr):
    """v_hat, ``1 / denominator`` and ``1 / sqrt(v_hat)`` of each element: two special functions in all."""
    small_correction = (correction * 2.0**80).to(tl.float32)
    factor, narrow = correction.to(tl.float32), eps.to(tl.float32)
    if n.IS_ROOT & FORM:
        root = tl.maximum(v - narrow, 0.0)
        hat, inverse_root = root * root, 1.0 / tl.maximum(root, 2.0**-100)
        inverse = 1.0 / tl.maximum(v, narrow)
    else:
        hat, inverse_root = v * factor, reciprocal_root(v, factor, small_correction)
        if n.EPS_INSIDE & FORM:
            inverse = tl.rsqrt(hat + narrow)
        elif n.EPS_CLAMP & FORM:
            inverse = tl.minimum(inverse_root, (1.0 / eps).to(tl.float32))
        else:
            inverse = 1.0 / (hat * inverse_root + narrow)
    return hat, inverse, inverse_root


@triton.jit
def step_numbers(table, row, NUMERATOR: tl.constexpr, RATE: tl.constexpr):
    """What `step_in_fp32` needs to know of a row, and three reasons to move: 2^20, or 0 for none.

    A reason says that first moment (or numerator), gradient or parameter can move the parameter at all. Times
    2^20, so that in fp32 no number but 0 becomes 0.
    """
    lr, decay, pull = number(table, row, n.LR), number(table, row, n.DECAY), number(table, row, n.PULL)
    first = number(table, row, n.FIRST_FACTOR)
    weight = number(table, row, n.GRADIENT_WEIGHT) * number(table, row, n.GRADIENT_FACTOR)
    applied = number(table, row, n.APPLIED) != 0
    moves = applied & (lr != 0)
    if RATE is not None:
        moves = applied
    if NUMERATOR is not None:
        first = tl.full((), 1.0, tl.float64)
    first_reason = tl.where(moves & (first != 0), 2.0**20, 0.0).to(tl.float32)
    weight_reason = tl.where(moves & (weight != 0), 2.0**20, 0.0).to(tl.float32)
    start_reason = tl.where(applied & ((decay != 0) | (moves & (pull != 0))), 2.0**20, 0.0).to(tl.float32)
    return (
        lr.to(tl.float32), first.to(tl.float32), weight.to(tl.float32), decay.to(tl.float32),
        pull.to(tl.float32), (1.0 / (1.0 - decay)).to(tl.float32), first_reason, weight_reason, start_reason,
        tl.where(applied, 1.0, 0.0).to(tl.float32),
    )  # fmt: skip


@triton.jit
def step_in_fp32(
    x, g, m, rate, start,
    lr, first, weight, decay, pull, growth, first_reason, weight_reason, start_reason, applied,
    PARAMETER: tl.constexpr, BEFORE: tl.constexpr, FORM: tl.constexpr, HAS_L2: tl.constexpr,
):  # fmt: skip
    """Parameter before the step, update, whether it was lost, and whether fp32 cannot tell.

    ``m`` is the first moment, or the numerator where that is given outright.
    """
    gain = rate
    if n.PRECONDITIONED & FORM:
        gain = tl.zeros_like(rate) + lr
    part1, part2 = m * first, g * weight
    numerator, size = part1 + part2, tl.abs(part1) + tl.abs(part2)
    doubtful = x != x
    before = start
    if BEFORE is None:
        if HAS_L2:
            doubtful = tl.abs(gain * pull) > 0.5  # else rounding errors would grow
            before = (x + gain * numerator) / (1.0 - decay - gain * pull)
        else:
            before = (x + gain * numerator) * growth
        before = tl.where(applied > 0, before, x)
    if HAS_L2:
        numerator, size = numerator + pull * before, size + tl.abs(pull * before)
    predicted = (-gain * numerator - decay * before) * applied
    slack = (tl.abs(gain) * size + tl.abs(decay * before)) * applied * _SLACK
    if BEFORE is None:
        low, high = round_to(x + (predicted - slack), PARAMETER), round_to(x + (predicted + slack), PARAMETER)
        still, update = (low == x) & (high == x), predicted
        doubtful = doubtful | ((low == x) != (high == x)) | ((low < x) & (high > x))
    else:
        still, update = x == start, x - start
    reason = tl.abs(m) * first_reason + tl.abs(g) * weight_reason + tl.abs(before) * start_reason
    lost = still & (reason > 0)
    doubtful = doubtful | (lost & (tl.abs(predicted) <= slack + _TINY))
    return before, update, lost, doubtful


@triton.jit
def fast(
    table, rows, row, start, tiles,
    PARAMETER: tl.constexpr, BEFORE: tl.constexpr, GRADIENT: tl.constexpr, FIRST: tl.constexpr,
    NUMERATOR: tl.constexpr, SECOND: tl.constexpr, RATE: tl.constexpr,
    FORM: tl.constexpr, HAS_L2: tl.constexpr, ALIGNED: tl.constexpr, TILE: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """The figures of ``tiles`` whole tiles from element ``start`` on, and whether to doubt them."""
    lr, eps, adaptive = number(table, row, n.LR), number(table, row, n.EPS), number(table, row, n.ADAPTIVE)
    correction = number(table, row, n.SECOND_CORRECTION)
    rate_slope, rate_rest = (lr * adaptive).to(tl.float32), (lr * (1.0 - adaptive)).to(tl.float32)
    lr32, factor1, factor2, decay, pull, growth, reason1, reason2, reason3, applied = step_numbers(
        table, row, NUMERATOR, RATE
    )
    l2 = number(table, row, n.L2).to(tl.float32)
    threshold, narrow = floor_threshold(correction, eps, FORM), eps.to(tl.float32)
    whole = whole_eps(eps, FORM)
    limit = (1.0 / whole).to(tl.float32)
    parameter = tensor_at(table, rows, row, n.PARAMETER_SLOT, start, PARAMETER)
    before_ = tensor_at(table, rows, row, n.BEFORE_SLOT, start, BEFORE)
    gradient = tensor_at(table, rows, row, n.GRADIENT_SLOT, start, GRADIENT)
    first = tensor_at(table, rows, row, n.FIRST_SLOT, start, FIRST)
    numerator = tensor_at(table, rows, row, n.NUMERATOR_SLOT, start, NUMERATOR)
    second = tensor_at(table, rows, row, n.SECOND_SLOT, start, SECOND)
    given_rate = tensor_at(table, rows, row, n.RATE_SLOT, start, RATE)

    x_sum = tl.zeros([TILE // EACH], tl.float32)
    g_sum, m_sum, hat_sum, share_sum, rms_sum, snr_sum = x_sum, x_sum, x_sum, x_sum, x_sum, x_sum
    u_sum, dot_sum, decay_sum, cancelled_sum = x_sum, x_sum, x_sum, x_sum
    x_top, g_top, m_top, u_top = x_sum, x_sum, x_sum, x_sum
    v_top, v_bottom = x_sum + float("-inf"), x_sum + float("-inf")  # of v and -v
    rate_top, rate_bottom = v_top, v_top
    tallies1 = tl.zeros([TILE // EACH], tl.int32)
    tallies2, tallies3, doubts = tallies1, tallies1, tallies1
    for tile in range(0, tiles):
        at = tile * TILE + tl.arange(0, TILE)
        x, begun = fetch(parameter, at, PARAMETER, ALIGNED), fetch(before_, at, BEFORE, ALIGNED)
        g, m = fetch(gradient, at, GRADIENT, ALIGNED), fetch(first, at, FIRST, ALIGNED)
        x_sum += fold(x * x, EACH, ALIGNED)
        g_sum += fold(g * g, EACH, ALIGNED)
        m_sum += fold(m * m, EACH, ALIGNED)
        x_top = tl.maximum(x_top, fold_max(tl.abs(x), EACH, ALIGNED))
        g_top = tl.maximum(g_top, fold_max(tl.abs(g), EACH, ALIGNED))
        m_top = tl.maximum(m_top, fold_max(tl.abs(m), EACH, ALIGNED))
        rate = tl.zeros([TILE], tl.float32) + lr32
        if SECOND is not None:
            v = fetch(second, at, SECOND, ALIGNED)
            hat, inverse, inverse_root = second_in_fp32(v, correction, eps, FORM)
            rate = inverse * rate_slope + rate_rest
            zero = v == 0
            if n.IS_ROOT & FORM:
                zero = v <= narrow
            bare = zero & (tl.abs(g) + tl.abs(m) == 0)
            tallies2 += fold(two(zero, v <= threshold), EACH, ALIGNED)
            tallies3 += fold(two(bare, (v > 0) & (v < tiny(SECOND))), EACH, ALIGNED)
            hat_sum += fold(hat, EACH, ALIGNED)
            share_sum += fold(inverse, EACH, ALIGNED)
            stale = g * tl.minimum(inverse_root, limit)
            rms_sum += fold(stale * stale, EACH, ALIGNED)
            snr_sum += fold(tl.where(zero, 0.0, tl.abs(m) * inverse_root), EACH, ALIGNED)
            v_top = tl.maximum(v_top, fold_max(v, EACH, ALIGNED))
            v_bottom = tl.maximum(v_bottom, fold_max(-v, EACH, ALIGNED))
        if RATE is not None:
            rate = fetch(given_rate, at, RATE, ALIGNED)
            rate_top = tl.maximum(rate_top, fold_max(rate, EACH, ALIGNED))
            rate_bottom = tl.maximum(rate_bottom, fold_max(-rate, EACH, ALIGNED))
        update, lost = x - begun, x != x
        if n.CANONICAL & FORM:
            pushed = m
            if NUMERATOR is not None:
                pushed = fetch(numerator, at, NUMERATOR, ALIGNED)
            begun, update, lost, doubtful = step_in_fp32(
                x, g, pushed, rate, begun,
                lr32, factor1, factor2, decay, pull, growth, reason1, reason2, reason3, applied,
                PARAMETER, BEFORE, FORM, HAS_L2,
            )  # fmt: skip
            doubts += fold(tl.where(doubtful, 1, 0), EACH, ALIGNED)
            part, cancelled = begun, update
            if HAS_L2:
                part, cancelled = part * (decay + l2 * rate), cancelled * (decay + l2 * rate)
            decay_sum += fold(part * part, EACH, ALIGNED)
            if BEFORE is None:
                cancelled_sum += fold(cancelled * cancelled, EACH, ALIGNED)
        tallies1 += fold(two(g == 0, lost), EACH, ALIGNED)
        u_sum += fold(update * update, EACH, ALIGNED)
        dot_sum += fold(update * g, EACH, ALIGNED)
        u_top = tl.maximum(u_top, fold_max(tl.abs(update), EACH, ALIGNED))
    figures, doubt = no_figures(), tl.max(doubts, axis=0) > 0
    count, factor = (tiles * TILE).to(tl.float64), number(table, row, n.GRADIENT_FACTOR)
    tallies, g_most, m_most = tl.sum(tallies1, axis=0), tl.max(g_top, axis=0), tl.max(m_top, axis=0)
    x_most, u_most = tl.max(x_top, axis=0), tl.max(u_top, axis=0)
    figures, doubt = put_squares(
        figures, doubt, x_sum, x_most, 1.0, count, n.PARAM_SQUARE, n.PARAM_FINITE, None
    )
    if GRADIENT is not None:
        figures, doubt = put_squares(
            figures, doubt, g_sum, g_most, factor, count, n.GRAD_SQUARE, n.GRAD_FINITE, n.GRAD_ABSMAX
        )
        figures = put(figures, n.GRAD_ZERO, tallies & 0xFFFF)
    if FIRST is not None:
        figures, doubt = put_squares(
            figures, doubt, m_sum, m_most, 1.0, count, n.FIRST_SQUARE, n.FIRST_FINITE, n.FIRST_ABSMAX
        )
    MEASURED: tl.constexpr = (n.CANONICAL & FORM) + (BEFORE is not None)
    if MEASURED:
        figures, doubt = put_squares(
            figures, doubt, u_sum, u_most, 1.0, count, n.UPDATE_SQUARE, n.UPDATE_FINITE, n.UPDATE_ABSMAX
        )
        if GRADIENT is not None:
            dot = tl.sum(dot_sum, axis=0)
            doubt = doubt | ((tl.abs(dot) < float("inf")) == 0)
            figures = put(figures, n.UPDATE_DOT_GRAD, dot * factor)
    if SECOND is not None:
        figures, doubt = put_second(
            figures, doubt, table, row, count, g_most, m_most,
            hat_sum, share_sum, rms_sum, snr_sum, v_top, v_bottom, tallies2, tallies3,
            GRADIENT, SECOND, RATE, FORM,
        )  # fmt: skip
    if n.CANONICAL & FORM:
        figures, doubt = put_step(
            figures, doubt, table, row, count, x_most + u_most, tallies >> 16,
            decay_sum, cancelled_sum, rate_top, rate_bottom,
            SECOND, RATE, HAS_L2,
        )  # fmt: skip
    return figures, doubt
