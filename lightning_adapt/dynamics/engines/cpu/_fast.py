"""The fast way: float32 in vector registers, for blocks of large tensors in which nothing is unusual."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from lightning_adapt.dynamics.engines.cpu import _block
from lightning_adapt.dynamics.engines.cpu._block import ADDED, SUM, TOP
from lightning_adapt.dynamics.engines.cpu._compiled import (
    BFLOAT16,
    BLOCK,
    FIGURE,
    FLOAT16,
    PART,
    SCALAR,
    SLOT,
    address_of,
    doubles_at,
    exactly,
    floats,
    single,
)
from lightning_adapt.dynamics.engines.descriptors import HAS_EPS, HAS_SNR

# A float32 sum of squares below this may have lost digits to subnormal numbers.
_SMALL = np.float32(1e-35)
# Of the squared sizes that something is added up from, a sum of squares must keep this share, and the largest
# this of the largest size: else digits cancelled.
_KEPT, _TOP_KEPT = 0.03, 0.2
# L2 may draw by this share of a parameter: solving for it before the step divides by what remains.
_DRAWN = 0.5
_ONE, _ZERO = np.float32(1), np.float32(0)

Room: Any = namedtuple("Room", ("narrow", "found", "sound", "sums", "tops"))
"""Where a strip is worked on: room for float32, figures of its blocks, which were sound, totals."""


@exactly
def _sound(total: Any, top: Any) -> bool:
    """Whether a sum of squares says what it should: finite, and not made of subnormal numbers."""
    return bool(np.isfinite(total) and (top == _ZERO or total >= _SMALL))


@exactly
def _unclear(least: Any, zeros: Any, subnormal: Any, kinds: Any, numbers: Any) -> bool:
    """Whether float32 does not hold what follows from the second moment.

    A subnormal float16 is a normal float32; a subnormal float32 has lost digits that v_hat may need.
    """
    if least < _ZERO or (subnormal > zeros and kinds[SLOT.second_moment] != FLOAT16):
        return True
    return bool(zeros > _ZERO and numbers[SCALAR.eps] < 1e-30)


@exactly
def _rate(second: Any, numbers: Any) -> float:
    """The effective learning rate at a stored second moment, float64."""
    root = math.sqrt(np.float64(second) * numbers[SCALAR.second_moment_correction])
    return float(numbers[SCALAR.lr] / (root + numbers[SCALAR.eps]))


def _sweep(measured: bool, mixed: bool) -> Any:
    """Runs over a strip, whose blocks count from ``first``, and notes the figures of each block.

    Nothing is decided on the way: whatever depends on a figure makes the processor wait for it, and memory,
    which is what takes long, waits with it. For the same reason what computes most runs first, while the
    block comes from memory, and what only adds up second, when it lies in the nearest cache.
    """
    moved = _block.moved(measured, mixed)

    @exactly
    def sweep(addresses: Any, kinds: Any, start: int, stop: int, first: int, plan: Any, room: Any) -> None:
        for i in range((stop - start + BLOCK - 1) // BLOCK):
            sums, tops = _found(room, first + i)
            sums[:], tops[:] = 0.0, -np.inf
            at = start + i * BLOCK
            n = min(BLOCK, stop - at)
            where = _whereabouts(addresses, kinds, at, n, room.narrow)
            for part in range(0, n, PART):
                few = min(PART, n - part)
                p, b, g, m, _, v = _arrays(where, part, few)
                s = floats(where[plan.pushes] + 4 * part, few)
                added, highest = moved(p, b, g, m, s, v, plan.constants)
                for k in range(len(added)):
                    sums[k] += added[k]
                for k in range(len(highest)):
                    tops[k] = max(tops[k], highest[k])
            for part in range(0, n, PART):
                p, _, g, m, _, v = _arrays(where, part, min(PART, n - part))
                added, highest = _block.sizes(p, g, m, v)
                for k in range(len(added)):
                    sums[SUM.parameter + k] += added[k]
                for k in range(len(highest)):
                    tops[TOP.gradient + k] = max(tops[TOP.gradient + k], highest[k])

    return sweep


@exactly
def _found(room: Any, i: int) -> Any:
    """Sums and tops of the ``i``-th block of a strip."""
    row = doubles_at(room.found + 8 * i * (ADDED + len(TOP)), ADDED + len(TOP))
    return row[:ADDED], row[ADDED:]


@exactly
def _whereabouts(addresses: Any, kinds: Any, at: int, n: int, narrow: int) -> Any:
    """Where ``n`` elements from ``at`` lie as float32, in the order of the slots."""
    return (
        single(addresses[0], kinds[0], at, n, narrow),
        single(addresses[1], kinds[1], at, n, narrow + 4 * BLOCK),
        single(addresses[2], kinds[2], at, n, narrow + 8 * BLOCK),
        single(addresses[3], kinds[3], at, n, narrow + 12 * BLOCK),
        single(addresses[4], kinds[4], at, n, narrow + 16 * BLOCK),
        single(addresses[5], kinds[5], at, n, narrow + 20 * BLOCK),
    )


@exactly
def _widened(addresses: Any, kinds: Any, at: int, narrow: int) -> Any:
    """As `_whereabouts`, for a block that was the last to be looked for: it lies there already."""
    return (
        address_of(addresses[0], kinds[0], at, narrow),
        address_of(addresses[1], kinds[1], at, narrow + 4 * BLOCK),
        address_of(addresses[2], kinds[2], at, narrow + 8 * BLOCK),
        address_of(addresses[3], kinds[3], at, narrow + 12 * BLOCK),
        address_of(addresses[4], kinds[4], at, narrow + 16 * BLOCK),
        address_of(addresses[5], kinds[5], at, narrow + 20 * BLOCK),
    )


@exactly
def _arrays(where: Any, at: int, n: int) -> Any:
    """Some of the parameter after the step, before it, gradient, first moment, numerator, second moment."""
    return (
        floats(where[0] + 4 * at, n),
        floats(where[1] + 4 * at, n),
        floats(where[2] + 4 * at, n),
        floats(where[3] + 4 * at, n),
        floats(where[4] + 4 * at, n),
        floats(where[5] + 4 * at, n),
    )


_measured, _measured_mixed = _sweep(True, False), _sweep(True, True)
_predicted, _predicted_mixed = _sweep(False, False), _sweep(False, True)
_loses, _loses_mixed = _block.losses(True, False), _block.losses(True, True)
_may_lose, _may_lose_mixed = _block.losses(False, False), _block.losses(False, True)


@exactly
def _cancelled(plan: Any, sums: Any, tops: Any) -> bool:
    """Whether digits of a predicted update, or of the parameter before it, were lost to a difference.

    A plain update is what momentum (or gradient) pushes and what decay takes: it is as large as one of the
    two, unless decay takes much more than remains.
    """
    if tops[TOP.pulled] > _DRAWN:
        return True
    whole = sums[SUM.parameter] + sums[SUM.update]
    if (plan.mixed or plan.decay != 0) and sums[SUM.before] < _KEPT * whole:
        return True
    parts, top = sums[SUM.parts], tops[TOP.parts]
    if not plan.mixed:
        parts = plan.decay * plan.decay * sums[SUM.before]
        top = math.sqrt(parts)
    return bool(sums[SUM.update] < _KEPT * parts or tops[TOP.update] < _TOP_KEPT * top)


@exactly
def _finite(kinds: Any, plan: Any, sums: Any, tops: Any) -> bool:
    """Whether float32 held everything in a block."""
    # Sums of what may be negative are finite only where every term is.
    total = sums[SUM.second] + sums[SUM.share] + sums[SUM.snr] + sums[SUM.dot]
    total += sums[SUM.parts] + sums[SUM.before] + sums[SUM.decayed]
    if not np.isfinite(total):
        return False
    if not kinds[SLOT.before] and _cancelled(plan, sums, tops):
        return False
    if not (_sound(sums[SUM.parameter], _ONE) and _sound(sums[SUM.gradient], tops[TOP.gradient])):
        return False
    if not (_sound(sums[SUM.first], tops[TOP.first]) and _sound(sums[SUM.update], tops[TOP.update])):
        return False
    pulled = sums[SUM.decayed] if plan.mixed else sums[SUM.before]
    if (plan.decay != 0 or plan.l2 != 0) and pulled < _SMALL:
        return False
    return bool(kinds[SLOT.second_moment] == 0 or _sound(sums[SUM.rms_t], tops[TOP.gradient]))


@exactly
def _has_counts(plan: Any, tops: Any) -> bool:
    """Whether a block has anything to count: a zero gradient, a low second moment, an update near nothing."""
    low = tops[TOP.gradient_negated] == _ZERO or -tops[TOP.second_negated] <= plan.low
    return bool(low or tops[TOP.closest_negated] >= _ZERO)


@exactly
def _counts(x: Any, kinds: Any, numbers: Any, plan: Any, tops: Any) -> Any:
    """The counts of a block, in the order of `SUM`, and whether float32 was enough to tell."""
    _, _, g, m, _, v = x
    idle = zero = subnormal = hits = untouched = lost = unclear = _ZERO
    if tops[TOP.gradient_negated] == _ZERO or -tops[TOP.second_negated] <= plan.low:
        idle, zero, subnormal, hits, untouched = _block.low(g, m, v, plan.threshold, plan.tiny)
        if kinds[SLOT.second_moment]:
            unclear = _ONE if _unclear(-tops[TOP.second_negated], zero, subnormal, kinds, numbers) else _ZERO
    if tops[TOP.closest_negated] >= _ZERO:
        c = plan.constants
        if kinds[SLOT.before]:
            lost, doubt = _loses_mixed(*x, c) if plan.mixed else _loses(*x, c)
        else:
            lost, doubt = _may_lose_mixed(*x, c) if plan.mixed else _may_lose(*x, c)
        unclear += doubt
    return (idle, zero, subnormal, hits, untouched, lost), unclear == _ZERO


@exactly
def strip(addresses: Any, start: int, stop: int, row: Any, plan: Any, room: Any) -> int:
    """Add what blocks of float32 say to the sums and tops of ``room``, and note which blocks were sound.

    Args:
        addresses: Of the first element of each tensor.
        start: First element.
        stop: End, at most `STRIP` further on.
        row: Kinds of the slots, a float64 for each of `SCALARS`, bits of the descriptor.
        plan: From `plan_of`.
        room: See `Room`.

    Returns:
        Elements in sound blocks; those of the others must be added the exact way.
    """
    kinds = row[0]
    # What has to be widened is looked at again at once, before another block takes its place.
    each = BLOCK if _narrow(kinds) else stop - start
    covered = 0
    for at in range(start, stop, each):
        first = (at - start) // BLOCK
        x = (addresses, kinds, at, min(at + each, stop), first, plan, room)
        if kinds[SLOT.before]:
            _measured_mixed(*x) if plan.mixed else _measured(*x)
        else:
            _predicted_mixed(*x) if plan.mixed else _predicted(*x)
        for i in range((x[3] - at + BLOCK - 1) // BLOCK):
            begin = at + i * BLOCK
            covered += _judged(addresses, begin, min(BLOCK, stop - begin), first + i, row, plan, room)
    return covered


@exactly
def _narrow(kinds: Any) -> bool:
    """Whether a row has tensors in half precision."""
    halves = 0
    for kind in kinds:
        halves += kind in (BFLOAT16, FLOAT16)
    return halves > 0


@exactly
def _judged(addresses: Any, at: int, n: int, i: int, row: Any, plan: Any, room: Any) -> int:
    """Add the ``i``-th block of a strip, ``n`` elements from ``at``, unless it is not sound.

    Returns:
        Elements that were added.
    """
    kinds, numbers, _, _ = row
    sums, tops = _found(room, i)
    room.sound[i] = _finite(kinds, plan, sums, tops)
    if room.sound[i] and _has_counts(plan, tops):
        arrays = _arrays(_widened(addresses, kinds, at, room.narrow), 0, n)
        counts, room.sound[i] = _counts(arrays, kinds, numbers, plan, tops)
        if room.sound[i]:
            for k in range(len(counts)):
                room.sums[ADDED + k] += counts[k]
    if not room.sound[i]:
        return 0
    for k in range(ADDED):
        room.sums[k] += sums[k]
    for k in range(len(tops)):
        room.tops[k] = max(room.tops[k], tops[k])
    return n


@exactly
def put(n: int, row: Any, plan: Any, sums: Any, tops: Any, out: Any) -> None:
    """Add what sound blocks said to the figures of their row.

    Args:
        n: Elements in those blocks.
        row: Kinds of the slots, a float64 for each of `SCALARS`, bits of the descriptor.
        plan: From `plan_of`.
        sums: One for each of `SUM`.
        tops: One for each of `TOP`.
        out: Shape ``(FIGURES,)``, float64.
    """
    kinds, numbers, form = row
    v_zero, untouched = sums[SUM.second_zero], sums[SUM.untouched]
    second, correction = kinds[SLOT.second_moment] != 0, numbers[SCALAR.second_moment_correction]
    root = math.sqrt(correction)
    out[FIGURE.numel] += n
    out[FIGURE.param_finite] += n
    out[FIGURE.param_square] += sums[SUM.parameter]
    out[FIGURE.update_finite] += n
    out[FIGURE.update_square] += sums[SUM.update]
    out[FIGURE.update_absmax] = max(out[FIGURE.update_absmax], tops[TOP.update])
    out[FIGURE.lost_numel] += n
    out[FIGURE.lost] += sums[SUM.lost]
    out[FIGURE.decay_finite] += n
    out[FIGURE.decay_square] += (
        sums[SUM.decayed] if plan.mixed else sums[SUM.before] * plan.decay * plan.decay
    )
    if kinds[SLOT.gradient]:
        out[FIGURE.grad_numel] += n
        out[FIGURE.grad_finite] += n
        out[FIGURE.grad_zero] += sums[SUM.idle]
        out[FIGURE.grad_square] += sums[SUM.gradient]
        out[FIGURE.grad_absmax] = max(out[FIGURE.grad_absmax], tops[TOP.gradient])
        out[FIGURE.update_dot_grad] += sums[SUM.dot]
    if kinds[SLOT.first_moment]:
        out[FIGURE.first_finite] += n
        out[FIGURE.first_square] += sums[SUM.first]
        out[FIGURE.first_moment_absmax] = max(out[FIGURE.first_moment_absmax], tops[TOP.first])
    fastest = slowest = numbers[SCALAR.lr]
    if second:
        fastest = _rate(-tops[TOP.second_negated], numbers)
        slowest = _rate(tops[TOP.second], numbers)
        out[FIGURE.second_numel] += n
        out[FIGURE.second_finite] += n
        out[FIGURE.second_hat] += sums[SUM.second] * correction
        out[FIGURE.second_zero] += v_zero
        out[FIGURE.second_subnormal] += sums[SUM.subnormal] - v_zero
        out[FIGURE.second_moment_absmax] = max(out[FIGURE.second_moment_absmax], tops[TOP.second])
        if form & HAS_EPS:
            out[FIGURE.floor_numel] += n
            out[FIGURE.floor_untouched] += untouched
            out[FIGURE.floor_underflow] += v_zero - untouched
            out[FIGURE.floor_small] += sums[SUM.hits] - v_zero
            out[FIGURE.eps_share_numel] += n
            out[FIGURE.eps_share] += sums[SUM.share] * numbers[SCALAR.eps] / root
        if kinds[SLOT.gradient]:
            out[FIGURE.rms_t_numel] += n
            out[FIGURE.rms_t] += sums[SUM.rms_t] / correction
        if form & HAS_SNR:
            out[FIGURE.snr_numel] += n - v_zero
            out[FIGURE.snr] += sums[SUM.snr] * numbers[SCALAR.first_moment_correction] / root
    out[FIGURE.effective_lr_max] = max(out[FIGURE.effective_lr_max], fastest)
    out[FIGURE.effective_lr_negated_min] = max(out[FIGURE.effective_lr_negated_min], -slowest)
