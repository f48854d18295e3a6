"""Triton: from what `triton_fast` added up in fp32 to figures, and the reasons to doubt them."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adapt.dynamics.engines import triton_names as n
from lightning_adapt.dynamics.engines.triton_careful import put
from lightning_adapt.dynamics.engines.triton_wide import denominator_of, hat_of, number, whole_eps

# Squares from here on are exact enough in fp32; a tile of smaller numbers (but for 0) is measured in float64.
_SMALL = tl.constexpr(2.0**-50)
_SMALL_SQUARE = tl.constexpr(2.0**-100)
_TINY = tl.constexpr(2.0**-100)


@triton.jit
def put_squares(
    figures, doubt, sums, most, factor, count,
    square: tl.constexpr, finite: tl.constexpr, absmax: tl.constexpr,
):  # fmt: skip
    """The figures of one kind of number, ``factor`` times what was added up; nothing here is not finite."""
    total = tl.sum(sums, axis=0)
    # Out of the range of fp32, or met a number that is not finite.
    doubt = doubt | ((total < float("inf")) == 0) | ((most > 0) & (most < _SMALL))
    figures = put(put(figures, square, total.to(tl.float64) * factor * factor), finite, count)
    if absmax is not None:
        figures = put(figures, absmax, most.to(tl.float64) * tl.abs(factor))
    return figures, doubt


@triton.jit
def put_second(
    figures, doubt, table, row, count, g_most, m_most, hat_sum, share_sum, rms_sum, snr_sum, v_top, v_bottom,
    tallies2, tallies3,
    GRADIENT: tl.constexpr, SECOND: tl.constexpr, RATE: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """The figures that follow from the second moment."""
    eps, correction = number(table, row, n.EPS), number(table, row, n.SECOND_CORRECTION)
    highest, lowest = tl.max(v_top, axis=0).to(tl.float64), -tl.max(v_bottom, axis=0).to(tl.float64)
    total, share = tl.sum(hat_sum, axis=0), tl.sum(share_sum, axis=0)
    rms, snr = tl.sum(rms_sum, axis=0), tl.sum(snr_sum, axis=0)
    counted, further = tl.sum(tallies2, axis=0), tl.sum(tallies3, axis=0)
    zero, hit, untouched, subnormal = counted & 0xFFFF, counted >> 16, further & 0xFFFF, further >> 16
    doubt = doubt | ((total + share + rms + snr < float("inf")) == 0) | (lowest < 0) | (eps < 0)
    doubt = doubt | ((highest > 0) & (highest < _TINY)) | ((eps == 0) & (zero > 0))
    if n.IS_ROOT & FORM:
        doubt = (
            doubt | ((highest > eps) & (highest - eps < _SMALL)) | (eps.to(tl.float32).to(tl.float64) != eps)
        )
    figures = put(put(figures, n.SECOND_HAT, total), n.SECOND_ABSMAX, highest)
    figures = put(put(figures, n.SECOND_FINITE, count), n.SECOND_ZERO, zero)
    figures = put(figures, n.SECOND_SUBNORMAL, subnormal)
    if n.HAS_EPS & FORM:
        figures = put(put(figures, n.FLOOR_UNTOUCHED, untouched), n.FLOOR_UNDERFLOW, zero - untouched)
        figures = put(put(figures, n.FLOOR_SMALL, hit - zero), n.EPS_SHARE_NUMEL, count)
        figures = put(figures, n.EPS_SHARE, share * whole_eps(eps, FORM))
    if GRADIENT is not None:
        factor = number(table, row, n.GRADIENT_FACTOR)
        figures = put(put(figures, n.RMS_T, rms * factor * factor), n.RMS_T_NUMEL, count)
        doubt = doubt | ((rms < _SMALL_SQUARE) & (g_most > 0))
    if n.HAS_SNR & FORM:
        figures = put(figures, n.SNR, snr * number(table, row, n.FIRST_CORRECTION))
        figures = put(figures, n.SNR_NUMEL, count - zero)
        doubt = doubt | ((snr < _SMALL_SQUARE) & (m_most > 0) & (zero < count))
    if RATE is None:  # the rate is a monotone function of what is stored
        lr, adaptive = number(table, row, n.LR), number(table, row, n.ADAPTIVE)
        one = lr / denominator_of(hat_of(highest, correction, eps, FORM), eps, FORM)
        other = lr / denominator_of(hat_of(lowest, correction, eps, FORM), eps, FORM)
        one, other = tl.where(adaptive != 0, one, lr), tl.where(adaptive != 0, other, lr)
        figures = put(figures, n.RATE_MAX, tl.maximum(one, other))
        figures = put(figures, n.RATE_NEGATED_MIN, tl.maximum(-one, -other))
    return figures, doubt


@triton.jit
def put_step(
    figures, doubt, table, row, count, anything, lost, decay_sum, cancelled_sum, rate_top, rate_bottom,
    SECOND: tl.constexpr, RATE: tl.constexpr, HAS_L2: tl.constexpr,
):  # fmt: skip
    """The figures that follow from the canonical step; ``anything``: 0 if the parameter was and is 0."""
    decay, l2 = number(table, row, n.DECAY), number(table, row, n.L2)
    decays = (number(table, row, n.APPLIED) != 0) & ((decay != 0) | (l2 != 0))
    total = tl.sum(decay_sum, axis=0)
    doubt = doubt | (decays & (((total < float("inf")) == 0) | ((total < _SMALL_SQUARE) & (anything > 0))))
    # The parameter before the step, where it was not kept, is a difference: of numbers far larger than it?
    doubt = doubt | (decays & (tl.sum(cancelled_sum, axis=0) > 16.0 * total))
    square = total.to(tl.float64)
    if not HAS_L2:  # of the parameter before the step
        square = square * decay * decay
    figures = put(put(figures, n.LOST, lost), n.DECAY_FINITE, count)
    figures = put(figures, n.DECAY_SQUARE, tl.where(decays, square, 0.0))
    if RATE is not None:
        figures = put(figures, n.RATE_MAX, tl.max(rate_top, axis=0))
        figures = put(figures, n.RATE_NEGATED_MIN, tl.max(rate_bottom, axis=0))
    elif SECOND is None:
        figures = put(figures, n.RATE_MAX, number(table, row, n.LR))
        figures = put(figures, n.RATE_NEGATED_MIN, -number(table, row, n.LR))
    return figures, doubt
