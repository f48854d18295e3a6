"""The fast way: float32 in vector registers, for blocks of large tensors in which nothing is unusual."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_adapt.dynamics.engines.cpu._compiled import (
    BFLOAT16,
    BLOCK,
    FIGURE,
    FLOAT16,
    FLOAT64,
    SCALAR,
    SLOT,
    exactly,
    in_any_order,
    larger,
    smaller,
)
from lightning_adapt.dynamics.engines.descriptors import (
    CANONICAL,
    EPS_CLAMP,
    EPS_INSIDE,
    HAS_DECAY,
    HAS_EPS,
    HAS_SNR,
    IS_ROOT,
    PRECONDITIONED,
)

# A float32 sum of squares below this may have lost digits to subnormal numbers.
_SMALL = np.float32(1e-35)
# Relative error of an update computed in float32, with room to spare.
_SLACK = np.float32(1e-6)
# An update smaller than this share of the parameter may be lost to rounding (half an ulp is at most 2^-24).
_ULP = np.float32(1.3e-7)
# Solving for the parameter before the step divides by this: less of it, and digits cancel.
_STABLE = np.float32(0.125)
_ONE, _ZERO = np.float32(1), np.float32(0)


@exactly
def suits(kinds: Any, numbers: Any, form: int) -> bool:
    """Whether the blocks of a row with this form of step may go the fast way at all."""
    for kind in kinds:
        if kind == FLOAT64:
            return False
    if not form & CANONICAL or form & (EPS_INSIDE | EPS_CLAMP | IS_ROOT):
        return False
    if kinds[SLOT.centering] or kinds[SLOT.effective_lr] or numbers[SCALAR.gradient_factor] != 1:
        return False
    half = kinds[SLOT.parameter] == BFLOAT16 or kinds[SLOT.parameter] == FLOAT16
    if half and not kinds[SLOT.before]:
        return False  # what rounding to it loses takes more than float32 to tell
    if kinds[SLOT.second_moment]:
        sound = 0 < numbers[SCALAR.second_moment_correction] < np.inf and 0 <= numbers[SCALAR.eps] < 1e18
        return bool(sound and numbers[SCALAR.adaptive] != 0)
    return True


@exactly
def floor_threshold(kinds: Any, numbers: Any) -> np.float32:
    """The largest stored second moment on the epsilon floor: ``v <= threshold`` is ``sqrt(v_hat) <= eps``."""
    if kinds[SLOT.second_moment] == 0:
        return np.float32(0)
    eps, correction = numbers[SCALAR.eps], numbers[SCALAR.second_moment_correction]
    threshold = np.float32(eps * eps / correction)
    while math.sqrt(np.float64(threshold) * correction) > eps:
        threshold = np.nextafter(threshold, np.float32(-1))
    above = np.nextafter(threshold, np.float32(np.inf))
    while math.sqrt(np.float64(above) * correction) <= eps:
        threshold, above = above, np.nextafter(above, np.float32(np.inf))
    return threshold


@in_any_order
def _look(p: Any, g: Any, m: Any, v: Any) -> Any:
    """Sums that are finite only where every element is, and extremes that mean something only then."""
    pp = gg = mm = total = _ZERO
    g_top = m_top = v_top = g_zero = _ZERO
    v_least = np.float32(np.inf)
    for i in range(len(p)):
        size, momentum = abs(g[i]), abs(m[i])
        pp += p[i] * p[i]
        gg += size * size
        mm += momentum * momentum
        total += v[i]
        g_top = larger(g_top, size)
        m_top = larger(m_top, momentum)
        v_top = larger(v_top, v[i])
        v_least = smaller(v_least, v[i])
        g_zero += _ONE if size == _ZERO else _ZERO  # a float32 count vectorises, and is exact below 2^24
    return (pp, gg, mm, total), (g_top, m_top, v_top, v_least), g_zero


@in_any_order
def _low(g: Any, m: Any, v: Any, threshold: Any, tiny: Any) -> Any:
    """Counts that only a block with a low second moment has."""
    zero = subnormal = hits = untouched = _ZERO
    for i in range(len(v)):
        zero += _ONE if v[i] == _ZERO else _ZERO
        subnormal += _ONE if v[i] < tiny else _ZERO
        hits += _ONE if v[i] <= threshold else _ZERO
        untouched += _ONE if abs(g[i]) + abs(m[i]) + v[i] == _ZERO else _ZERO
    return zero, subnormal, hits, untouched


def _passes(pulled: bool) -> Any:
    """The main pass and the one for updates that rounding may lose, with L2 in the numerator or without."""

    @in_any_order
    def step(p: Any, b: Any, g: Any, m: Any, s: Any, v: Any, measured: bool, c: Any) -> Any:
        correction, eps, per_eps, rated, constant, of_m, of_g, pull, decay, l2, _, _, rest = c
        share = snr = rms_t = square = dot = top = decayed = _ZERO
        closest = least = np.float32(np.inf)
        whole = _ONE / rest
        for i in range(len(p)):
            root = np.sqrt(v[i] * correction)
            below = root + eps
            # One division for both 1 / root and 1 / below; where v is 0 epsilon is all there is.
            both = _ONE / (root * below)
            some = v[i] > _ZERO
            e = root * both if some else per_eps
            inverse = below * both if some else _ZERO
            share += e
            snr += abs(m[i]) * inverse
            ratio = g[i] * (smaller(inverse, per_eps) if some else per_eps)
            rms_t += ratio * ratio
            gain = rated * e + constant
            pushed = gain * (m[i] * of_m + g[i] * of_g + s[i])
            divisor = rest - gain * pull if pulled else rest
            before = b[i] if measured else (p[i] + pushed) * (_ONE / divisor if pulled else whole)
            update = p[i] - before if measured else -pushed - (decay + gain * pull) * before
            square += update * update
            dot += update * g[i]
            size = abs(update)
            top = larger(top, size)
            closest = smaller(closest, size - _ULP * abs(p[i]))
            away = before * (decay + l2 * e)
            decayed += away * away
            if pulled:
                least = smaller(least, abs(divisor))
        return (share, snr, rms_t, square, dot, decayed), top, closest, least

    @in_any_order
    def lost(p: Any, b: Any, g: Any, m: Any, s: Any, v: Any, measured: bool, c: Any) -> Any:
        correction, eps, _, rated, constant, of_m, of_g, pull, decay, _, has_m, has_g, rest = c
        lost = unclear = _ZERO
        for i in range(len(p)):
            gain = rated / (np.sqrt(v[i] * correction) + eps) + constant
            pushed = gain * (m[i] * of_m + g[i] * of_g + s[i])
            before = b[i] if measured else (p[i] + pushed) / (rest - gain * pull)
            shrunk = (decay + gain * pull) * before
            predicted = -pushed - shrunk
            anything = abs(m[i]) * has_m + abs(g[i]) * has_g + abs(s[i]) + abs(shrunk) > _ZERO
            # Lost for certain, or moved for certain, if both ends of what float32 leaves open are.
            slack = _SLACK * (abs(pushed) + abs(shrunk))
            stays = p[i] == before if measured else p[i] + (predicted - slack) == p[i]
            stays_too = stays if measured else p[i] + (predicted + slack) == p[i]
            lost += _ONE if stays & stays_too & anything else _ZERO
            near = anything & (abs(predicted) <= slack)
            unclear += _ONE if near | (stays != stays_too) else _ZERO
        return lost, unclear

    return step, lost


_step, _lost = _passes(pulled=False)
_step_with_l2, _lost_with_l2 = _passes(pulled=True)


@exactly
def _constants(kinds: Any, numbers: Any, form: int) -> Any:
    """What `_step` multiplies with, float32.

    Without a second moment the denominator is 1: v reads as 0, so epsilon is set to 1.
    """
    second = kinds[SLOT.second_moment] != 0
    applied = 1.0 if numbers[SCALAR.applied] != 0 else 0.0
    lr = numbers[SCALAR.lr]
    rated, constant = (0.0, lr) if form & PRECONDITIONED else (lr, 0.0)
    eps = numbers[SCALAR.eps] if second else 1.0
    decay = numbers[SCALAR.decay] * applied
    of_m, of_g = numbers[SCALAR.first_moment_factor], numbers[SCALAR.gradient_weight]
    return (
        np.float32(numbers[SCALAR.second_moment_correction]),
        np.float32(eps),
        np.float32(1 / eps if eps > 1e-30 else 1e30),
        np.float32(rated * applied),
        np.float32(constant * applied),
        np.float32(of_m),
        np.float32(of_g),
        np.float32(numbers[SCALAR.pull]),
        np.float32(decay),
        np.float32(numbers[SCALAR.l2] * lr * applied),
        _ONE if of_m != 0 and applied != 0 else _ZERO,
        _ONE if of_g != 0 and applied != 0 else _ZERO,
        np.float32(1 - decay),
    )


@exactly
def _sound(total: Any, top: Any) -> bool:
    """Whether a sum of squares says what it should: finite, and not made of subnormal numbers."""
    return bool(np.isfinite(total) and (top == _ZERO or total >= _SMALL))


@exactly
def _sound_second(least: Any, zeros: Any, subnormal: Any, kinds: Any, numbers: Any) -> bool:
    """Whether float32 holds what follows from the second moment.

    A subnormal float16 is a normal float32; a subnormal float32 has lost digits that v_hat may need.
    """
    if least < _ZERO or (subnormal > zeros and kinds[SLOT.second_moment] != FLOAT16):
        return False
    return bool(zeros == _ZERO or numbers[SCALAR.eps] >= 1e-30)


@exactly
def _rate(second: Any, numbers: Any) -> float:
    """The effective learning rate at a stored second moment, float64."""
    root = math.sqrt(np.float64(second) * numbers[SCALAR.second_moment_correction])
    return float(numbers[SCALAR.lr] / (root + numbers[SCALAR.eps]))


@exactly
def _steps(p: Any, b: Any, g: Any, m: Any, s: Any, v: Any, kinds: Any, numbers: Any, form: int) -> Any:
    """What follows from the canonical step, block by block, and whether float32 was enough to tell."""
    share = snr = rms_t = square = dot = decayed = 0.0
    top = lost = _ZERO
    constants = _constants(kinds, numbers, form)
    measured, pulled = kinds[SLOT.before] != 0, constants[7] != _ZERO
    sound = True
    for at in range(0, len(p), BLOCK):
        piece = slice(at, at + BLOCK)
        x = (p[piece], b[piece], g[piece], m[piece], s[piece], v[piece])
        if pulled:
            sums, largest, closest, least = _step_with_l2(*x, measured, constants)
            sound = sound and (measured or least >= _STABLE)
        else:
            sums, largest, closest, least = _step(*x, measured, constants)
        if closest <= _ZERO:
            gone, unclear = (
                _lost_with_l2(*x, measured, constants) if pulled else _lost(*x, measured, constants)
            )
            lost += gone
            sound = sound and unclear == _ZERO
        share, snr, rms_t = share + sums[0], snr + sums[1], rms_t + sums[2]
        square, dot, decayed = square + sums[3], dot + sums[4], decayed + sums[5]
        top = max(top, largest)
    finite = np.isfinite(share + snr + rms_t + dot + decayed) and _sound(square, top)
    vanished = decayed < _SMALL and form & HAS_DECAY and numbers[SCALAR.applied] != 0
    return sound and finite and not vanished, (share, snr, rms_t, square, dot, decayed), top, lost


@exactly
def add(
    p: Any, b: Any, g: Any, m: Any, s: Any, v: Any, kinds: Any, numbers: Any, form: int, threshold: Any,
    tiny: Any, out: Any,
) -> bool:  # fmt: skip
    """Add the figures of one strip to ``out``; ``False``, and nothing added, where it must go the exact way.

    Args:
        p: Parameter after the step, shape ``(n,)``, float32; so are the next five.
        b: Before it, if known.
        g: Gradient; zeros if absent, and so on.
        m: First moment.
        s: Numerator given outright.
        v: Second moment.
        kinds: Which slots are there.
        numbers: One float64 for each of `SCALARS`.
        form: Bits of the descriptor.
        threshold: See `floor_threshold`.
        tiny: Smallest normal number of the second moment's dtype.
        out: Shape ``(FIGURES,)``, float64.
    """
    n, second = len(p), kinds[SLOT.second_moment] != 0
    pp = gg = mm = total = 0.0
    g_top = m_top = v_top = g_zero = _ZERO
    v_least = np.float32(np.inf)
    for at in range(0, n, BLOCK):
        piece = slice(at, at + BLOCK)
        sums, tops, zeros = _look(p[piece], g[piece], m[piece], v[piece])
        pp, gg, mm, total = pp + sums[0], gg + sums[1], mm + sums[2], total + sums[3]
        g_top, m_top, v_top = max(g_top, tops[0]), max(m_top, tops[1]), max(v_top, tops[2])
        v_least = min(v_least, tops[3])
        g_zero += zeros
    if not (np.isfinite(total) and _sound(pp, _ONE) and _sound(gg, g_top) and _sound(mm, m_top)):
        return False
    v_zero = subnormal = hits = untouched = _ZERO
    if second and v_least <= larger(threshold, tiny):
        v_zero, subnormal, hits, untouched = _low(g, m, v, threshold, tiny)
        if not _sound_second(v_least, v_zero, subnormal, kinds, numbers):
            return False
    sound, sums, top, lost = _steps(p, b, g, m, s, v, kinds, numbers, form)
    if not sound:
        return False
    share, snr, rms_t, square, dot, decayed = sums
    if second and not _sound(rms_t, g_top):
        return False
    out[FIGURE.numel] += n
    out[FIGURE.param_finite] += n
    out[FIGURE.param_square] += pp
    out[FIGURE.update_finite] += n
    out[FIGURE.update_square] += square
    out[FIGURE.update_absmax] = max(out[FIGURE.update_absmax], top)
    out[FIGURE.lost_numel] += n
    out[FIGURE.lost] += lost
    out[FIGURE.decay_finite] += n
    out[FIGURE.decay_square] += decayed
    if kinds[SLOT.gradient]:
        out[FIGURE.grad_numel] += n
        out[FIGURE.grad_finite] += n
        out[FIGURE.grad_zero] += g_zero
        out[FIGURE.grad_square] += gg
        out[FIGURE.grad_absmax] = max(out[FIGURE.grad_absmax], g_top)
        out[FIGURE.update_dot_grad] += dot
    if kinds[SLOT.first_moment]:
        out[FIGURE.first_finite] += n
        out[FIGURE.first_square] += mm
        out[FIGURE.first_moment_absmax] = max(out[FIGURE.first_moment_absmax], m_top)
    fastest = slowest = numbers[SCALAR.lr]
    if second:
        fastest, slowest = _rate(v_least, numbers), _rate(v_top, numbers)
        out[FIGURE.second_numel] += n
        out[FIGURE.second_finite] += n
        out[FIGURE.second_hat] += total * numbers[SCALAR.second_moment_correction]
        out[FIGURE.second_zero] += v_zero
        out[FIGURE.second_subnormal] += subnormal - v_zero
        out[FIGURE.second_moment_absmax] = max(out[FIGURE.second_moment_absmax], v_top)
        if form & HAS_EPS:
            out[FIGURE.floor_numel] += n
            out[FIGURE.floor_untouched] += untouched
            out[FIGURE.floor_underflow] += v_zero - untouched
            out[FIGURE.floor_small] += hits - v_zero
            out[FIGURE.eps_share_numel] += n
            out[FIGURE.eps_share] += share * numbers[SCALAR.eps]
        if kinds[SLOT.gradient]:
            out[FIGURE.rms_t_numel] += n
            out[FIGURE.rms_t] += rms_t
        if form & HAS_SNR:
            out[FIGURE.snr_numel] += n - v_zero
            out[FIGURE.snr] += snr * numbers[SCALAR.first_moment_correction]
    out[FIGURE.effective_lr_max] = max(out[FIGURE.effective_lr_max], fastest)
    out[FIGURE.effective_lr_negated_min] = max(out[FIGURE.effective_lr_negated_min], -slowest)
    return True
