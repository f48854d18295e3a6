"""Triton, in float64: the figures of some elements of a row, and the histograms.

Sums are kept by each thread over its tiles, and added up once at the end in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adapt.dynamics.engines import triton_names as n
from lightning_adapt.dynamics.engines.triton_wide import (
    decay_of,
    denominator_of,
    number,
    on_floor,
    read,
    round_to,
    second_of,
    step_of,
    whole_eps,
)


@triton.jit
def tally(condition, place: tl.constexpr):
    """A count in one of four 16-bit fields of an int64: a block has fewer than 2^15 elements."""
    return tl.where(condition, 1, 0).to(tl.int64) << (16 * place)


@triton.jit
def put(figures, which: tl.constexpr, value):
    """``figures`` with ``value`` in one place."""
    return tl.where(tl.arange(0, 64) == which, value, figures)


@triton.jit
def put_tally(figures, tallies, place: tl.constexpr, which: tl.constexpr):
    """``figures`` with one field of a sum of `tally` in one place."""
    return put(figures, which, ((tallies >> (16 * place)) & 0xFFFF).to(tl.float64))


@triton.jit
def no_figures():
    """Neutral: 0 for sums, -inf for maxima."""
    return tl.where(tl.arange(0, 64) >= n.FIRST_MAXIMUM, float("-inf"), 0.0).to(tl.float64)


@triton.jit
def is_finite(x):
    """Neither NaN nor inf."""
    return x - x == 0


@triton.jit
def squares(total, x, mask):
    """Add the squares of the finite elements."""
    return total + tl.where(mask & is_finite(x), x * x, 0.0)


@triton.jit
def highest(top, x, mask):
    """The larger, of finite magnitudes."""
    return tl.maximum(top, tl.where(mask & is_finite(x), tl.abs(x), float("-inf")))


@triton.jit
def unmoved(x, before, predicted, PARAMETER: tl.constexpr, BEFORE: tl.constexpr):
    """Where the parameter has the same value before and after the step."""
    if BEFORE is not None:
        same = x == before
    elif PARAMETER == tl.float64:
        same = x + predicted == x
    else:  # torch rounds a double to half precision by way of fp32
        same = round_to((x + predicted).to(tl.float32), PARAMETER).to(tl.float64) == x
    return same


@triton.jit
def staleness(g, hat, eps, FORM: tl.constexpr):
    """``g² / max(v_hat, eps²)``."""
    least = eps * eps
    if n.EPS_INSIDE & FORM:
        least = eps
    return tl.where(g == 0, 0.0, g * g / tl.where(hat < least, least, hat))


@triton.jit
def tiny(DTYPE: tl.constexpr):
    """The smallest normal number."""
    if DTYPE == tl.float16:
        smallest = 2.0**-14
    elif DTYPE == tl.float64:
        smallest = 2.0**-1022
    else:
        smallest = 2.0**-126
    return smallest


@triton.jit
def careful_magnitude(
    table, rows, row, slot: tl.constexpr, factor, begin, end, DTYPE: tl.constexpr, WIDE: tl.constexpr
):
    """Of one tensor: how many are finite, how many 0, the sum of squares and the largest magnitude."""
    total = tl.zeros([WIDE], tl.float64)
    top, tallies = total + float("-inf"), tl.zeros([WIDE], tl.int64)
    for tile in range(0, tl.cdiv(end - begin, WIDE)):
        at = begin + tile * WIDE + tl.arange(0, WIDE)
        mask = at < end
        x = read(table, rows, row, slot, at, mask, DTYPE) * factor
        total, top = squares(total, x, mask), highest(top, x, mask)
        tallies += tally(mask & is_finite(x), 0) + tally(mask & (x == 0), 1)
    return tl.sum(total, axis=0), tl.max(top, axis=0), tl.sum(tallies, axis=0)


@triton.jit
def careful_second(
    figures, table, rows, row, begin, end,
    GRADIENT: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, CENTERING: tl.constexpr,
    FORM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The second moment: its size, who sits on the epsilon floor and why, staleness, signal to noise."""
    hat_sum = tl.zeros([WIDE], tl.float64)
    share_sum, rms_sum, snr_sum, top = hat_sum, hat_sum, hat_sum, hat_sum + float("-inf")
    tallies1, tallies2, tallies3 = (
        tl.zeros([WIDE], tl.int64),
        tl.zeros([WIDE], tl.int64),
        tl.zeros([WIDE], tl.int64),
    )
    eps, correction = number(table, row, n.EPS), number(table, row, n.FIRST_CORRECTION)
    for tile in range(0, tl.cdiv(end - begin, WIDE)):
        at = begin + tile * WIDE + tl.arange(0, WIDE)
        mask = at < end
        stored, hat = second_of(table, rows, row, at, mask, SECOND, CENTERING, FORM)
        g = read(table, rows, row, n.GRADIENT_SLOT, at, mask, GRADIENT) * number(
            table, row, n.GRADIENT_FACTOR
        )
        m = read(table, rows, row, n.FIRST_SLOT, at, mask, FIRST)
        finite, zero = mask & is_finite(stored), mask & (stored == 0)
        if n.IS_ROOT & FORM:
            zero = mask & (stored <= eps)
        hat_sum, top = hat_sum + tl.where(finite, hat, 0.0), highest(top, stored, mask)
        tallies1 += tally(finite, 0) + tally(zero, 1)
        tallies1 += tally(mask & (stored > 0) & (stored < tiny(SECOND)), 2)
        hit, bare = mask & on_floor(hat, eps, FORM), (g == 0) & (m == 0)
        tallies2 += tally(hit & zero & bare, 0) + tally(hit & zero & (bare == 0), 1)
        tallies2 += tally(hit & (zero == 0), 2)
        share = whole_eps(eps, FORM) / denominator_of(hat, eps, FORM)
        good = mask & (share == share)
        share_sum, tallies2 = share_sum + tl.where(good, share, 0.0), tallies2 + tally(good, 3)
        ratio = staleness(g, hat, eps, FORM)
        good = mask & is_finite(ratio)
        rms_sum, tallies3 = rms_sum + tl.where(good, ratio, 0.0), tallies3 + tally(good, 0)
        ratio = tl.abs(m) * correction / tl.sqrt(hat)
        good = mask & (hat > 0) & is_finite(ratio)
        snr_sum, tallies3 = snr_sum + tl.where(good, ratio, 0.0), tallies3 + tally(good, 1)
    figures = put(put(figures, n.SECOND_HAT, tl.sum(hat_sum, axis=0)), n.SECOND_ABSMAX, tl.max(top, axis=0))
    counted = tl.sum(tallies1, axis=0)
    figures = put_tally(put_tally(figures, counted, 0, n.SECOND_FINITE), counted, 1, n.SECOND_ZERO)
    figures = put_tally(figures, counted, 2, n.SECOND_SUBNORMAL)
    if n.HAS_EPS & FORM:
        counted = tl.sum(tallies2, axis=0)
        figures = put_tally(put_tally(figures, counted, 0, n.FLOOR_UNTOUCHED), counted, 1, n.FLOOR_UNDERFLOW)
        figures = put_tally(put_tally(figures, counted, 2, n.FLOOR_SMALL), counted, 3, n.EPS_SHARE_NUMEL)
        figures = put(figures, n.EPS_SHARE, tl.sum(share_sum, axis=0))
    counted = tl.sum(tallies3, axis=0)
    if GRADIENT is not None:
        figures = put(put_tally(figures, counted, 0, n.RMS_T_NUMEL), n.RMS_T, tl.sum(rms_sum, axis=0))
    if n.HAS_SNR & FORM:
        figures = put(put_tally(figures, counted, 1, n.SNR_NUMEL), n.SNR, tl.sum(snr_sum, axis=0))
    return figures


@triton.jit
def careful_step(
    figures, table, rows, row, begin, end,
    PARAMETER: tl.constexpr, BEFORE: tl.constexpr, GRADIENT: tl.constexpr, FIRST: tl.constexpr,
    NUMERATOR: tl.constexpr, SECOND: tl.constexpr, CENTERING: tl.constexpr, RATE: tl.constexpr,
    FORM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The effective learning rate and the update."""
    u_sum = tl.zeros([WIDE], tl.float64)
    dot_sum, decay_sum, u_top = u_sum, u_sum, u_sum + float("-inf")
    rate_top, rate_bottom, tallies = u_top, u_top, tl.zeros([WIDE], tl.int64)
    for tile in range(0, tl.cdiv(end - begin, WIDE)):
        at = begin + tile * WIDE + tl.arange(0, WIDE)
        mask = at < end
        x, g, rate, hat, before, predicted, update = step_of(
            table, rows, row, at, mask,
            PARAMETER, BEFORE, GRADIENT, FIRST, NUMERATOR, SECOND, CENTERING, RATE, FORM,
        )  # fmt: skip
        known = mask & (rate == rate)
        rate_top = tl.maximum(rate_top, tl.where(known, rate, float("-inf")))
        rate_bottom = tl.maximum(rate_bottom, tl.where(known, -rate, float("-inf")))
        u_sum, u_top = squares(u_sum, update, mask), highest(u_top, update, mask)
        both = mask & is_finite(update) & is_finite(g)
        dot_sum += tl.where(both, update * g, 0.0)
        still = unmoved(x, before, predicted, PARAMETER, BEFORE)
        decay = decay_of(table, row, before, rate)
        decay_sum = squares(decay_sum, decay, mask)
        tallies += tally(mask & is_finite(update), 0) + tally(mask & still & (predicted != 0), 1)
        tallies += tally(mask & is_finite(decay), 2)
    counted = tl.sum(tallies, axis=0)
    MEASURED: tl.constexpr = (n.CANONICAL & FORM) + (BEFORE is not None)
    if MEASURED:
        figures = put(put_tally(figures, counted, 0, n.UPDATE_FINITE), n.UPDATE_SQUARE, tl.sum(u_sum, axis=0))
        figures = put(figures, n.UPDATE_ABSMAX, tl.max(u_top, axis=0))
        if GRADIENT is not None:
            figures = put(figures, n.UPDATE_DOT_GRAD, tl.sum(dot_sum, axis=0))
    if n.CANONICAL & FORM:
        figures = put(put_tally(figures, counted, 1, n.LOST), n.RATE_MAX, tl.max(rate_top, axis=0))
        figures = put(
            put_tally(figures, counted, 2, n.DECAY_FINITE), n.DECAY_SQUARE, tl.sum(decay_sum, axis=0)
        )
        figures = put(figures, n.RATE_NEGATED_MIN, tl.max(rate_bottom, axis=0))
    return figures


@triton.jit
def careful(
    table, rows, row, begin, end,
    PARAMETER: tl.constexpr, BEFORE: tl.constexpr, GRADIENT: tl.constexpr, FIRST: tl.constexpr,
    NUMERATOR: tl.constexpr, SECOND: tl.constexpr, CENTERING: tl.constexpr, RATE: tl.constexpr,
    FORM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """All figures of elements ``begin`` to ``end`` of a row, as far as they differ from element to element.

    One loop a theme: reading some tensors again is cheaper than the registers of one long loop.
    """
    figures = no_figures()
    total, top, counted = careful_magnitude(
        table, rows, row, n.PARAMETER_SLOT, 1.0, begin, end, PARAMETER, WIDE
    )
    figures = put(put_tally(figures, counted, 0, n.PARAM_FINITE), n.PARAM_SQUARE, total)
    if GRADIENT is not None:
        factor = number(table, row, n.GRADIENT_FACTOR)
        total, top, counted = careful_magnitude(
            table, rows, row, n.GRADIENT_SLOT, factor, begin, end, GRADIENT, WIDE
        )
        figures = put(put_tally(figures, counted, 0, n.GRAD_FINITE), n.GRAD_SQUARE, total)
        figures = put(put_tally(figures, counted, 1, n.GRAD_ZERO), n.GRAD_ABSMAX, top)
    if FIRST is not None:
        total, top, counted = careful_magnitude(table, rows, row, n.FIRST_SLOT, 1.0, begin, end, FIRST, WIDE)
        figures = put(put_tally(figures, counted, 0, n.FIRST_FINITE), n.FIRST_SQUARE, total)
        figures = put(figures, n.FIRST_ABSMAX, top)
    if SECOND is not None:
        figures = careful_second(
            figures, table, rows, row, begin, end, GRADIENT, FIRST, SECOND, CENTERING, FORM, WIDE
        )
    return careful_step(
        figures, table, rows, row, begin, end,
        PARAMETER, BEFORE, GRADIENT, FIRST, NUMERATOR, SECOND, CENTERING, RATE, FORM, WIDE,
    )  # fmt: skip


@triton.jit
def bin_of(x, lowest: tl.constexpr, bits: tl.constexpr, mask):
    """Index of each number in its bins, from its bit pattern; NaN goes into a bin nobody reads."""
    key = (x.to(tl.int64, bitcast=True) >> (52 - bits)) - ((lowest + 1023) << bits) + 1
    key = tl.minimum(tl.maximum(key, 0), n.HISTOGRAM_WIDTH - 1).to(tl.int32)
    return tl.where(mask & (x == x), key, n.BINS - 1)


@triton.jit
def add_histogram(counts, counted, stride):
    """Add one block's counts; integers, so that the order of blocks does not matter."""
    bins = tl.arange(0, n.BINS)
    tl.atomic_add(counts + bins, counted * stride, mask=(counted > 0) & (bins < n.HISTOGRAM_WIDTH))


@triton.jit
def histograms(
    counts, table, rows, row, begin, end, stride,
    PARAMETER: tl.constexpr, BEFORE: tl.constexpr, GRADIENT: tl.constexpr, FIRST: tl.constexpr,
    NUMERATOR: tl.constexpr, SECOND: tl.constexpr, CENTERING: tl.constexpr, RATE: tl.constexpr,
    FORM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Count every ``stride``-th element of ``begin`` to ``end`` into the row's histograms.

    In float64, so that each element falls into the very bin that the reference says; few elements are
    counted, so that this costs little even where float64 is slow. Masked lanes go into a bin of their own:
    older versions of `tl.histogram` take no mask.
    """
    first, last = tl.cdiv(begin, stride), tl.cdiv(end, stride)
    rate_counts = tl.zeros([n.BINS], tl.int32)
    second_counts, update_counts = rate_counts, rate_counts
    for tile in range(0, tl.cdiv(last - first, WIDE)):
        at = (first + tile * WIDE + tl.arange(0, WIDE)) * stride
        mask = at < end
        x, g, rate, hat, before, predicted, update = step_of(
            table, rows, row, at, mask,
            PARAMETER, BEFORE, GRADIENT, FIRST, NUMERATOR, SECOND, CENTERING, RATE, FORM,
        )  # fmt: skip
        rate_counts += tl.histogram(bin_of(rate, n.RATE_LOWEST, n.RATE_BITS, mask), n.BINS)
        second_counts += tl.histogram(bin_of(hat, n.SECOND_LOWEST, n.SECOND_BITS, mask), n.BINS)
        update_counts += tl.histogram(bin_of(tl.abs(update), n.UPDATE_LOWEST, n.UPDATE_BITS, mask), n.BINS)
    step = stride.to(tl.int32)
    if n.CANONICAL & FORM:
        add_histogram(counts, rate_counts, step)
    if SECOND is not None:
        add_histogram(counts + n.HISTOGRAM_WIDTH, second_counts, step)
    MEASURED: tl.constexpr = (n.CANONICAL & FORM) + (BEFORE is not None)
    if MEASURED:
        add_histogram(counts + 2 * n.HISTOGRAM_WIDTH, update_counts, step)
