"""The fast way: float32 in vector registers, for blocks of large tensors in which nothing is unusual."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_adapt.dynamics.engines.cpu import _block
from lightning_adapt.dynamics.engines.cpu._block import SUM, TOP
from lightning_adapt.dynamics.engines.cpu._compiled import (
    BFLOAT16,
    BLOCK,
    FIGURE,
    FLOAT16,
    FLOAT64,
    SCALAR,
    SLOT,
    exactly,
    larger,
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
# Solving for the parameter before the step divides by this: less of it, and digits cancel.
_STABLE = np.float32(0.125)
_L2 = 9  # its place in `_constants`
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
        # Bias correction makes v larger: v_hat is a normal number where v is one.
        sound = 1 <= numbers[SCALAR.second_moment_correction] < np.inf and 0 <= numbers[SCALAR.eps] < 1e18
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


@exactly
def _constants(kinds: Any, numbers: Any, form: int) -> Any:
    """What a block is computed with, float32.

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
def _sound_second(least: float, sums: Any, kinds: Any, numbers: Any) -> bool:
    """Whether float32 holds what follows from the second moment.

    A subnormal float16 is a normal float32; a subnormal float32 has lost digits that v_hat may need.
    """
    zeros = sums[SUM.second_zero]
    if least < 0 or (sums[SUM.subnormal] > zeros and kinds[SLOT.second_moment] != FLOAT16):
        return False
    return bool(zeros == 0 or numbers[SCALAR.eps] >= 1e-30)


@exactly
def _rate(second: Any, numbers: Any) -> float:
    """The effective learning rate at a stored second moment, float64."""
    root = math.sqrt(np.float64(second) * numbers[SCALAR.second_moment_correction])
    return float(numbers[SCALAR.lr] / (root + numbers[SCALAR.eps]))


def _sweep(measured: bool, coupled: bool) -> Any:
    """Runs over a strip block by block; says whether float32 was enough to tell which updates were lost."""
    figures, losses = _block.figures(measured, coupled), _block.losses(measured, coupled)

    @exactly
    def sweep(x: Any, constants: Any, threshold: Any, tiny: Any, low: Any, sums: Any, tops: Any) -> bool:
        p, b, g, m, s, v = x
        sound = True
        sums[:], tops[:] = 0.0, -np.inf
        for at in range(0, len(p), BLOCK):
            piece = slice(at, at + BLOCK)
            y = (p[piece], b[piece], g[piece], m[piece], s[piece], v[piece])
            added, highest = figures(*y, constants)
            for k in range(len(added)):
                sums[k] += added[k]
            for k in range(len(highest)):
                tops[k] = max(tops[k], highest[k])
            if highest[TOP.gradient_negated] == _ZERO or -highest[TOP.second_negated] <= low:
                counts = _block.low(g[piece], m[piece], v[piece], threshold, tiny)
                for k in range(len(counts)):
                    sums[SUM.idle + k] += counts[k]
            if highest[TOP.closest] >= _ZERO:
                lost, unclear = losses(*y, constants)
                sums[SUM.lost] += lost
                sound = sound and unclear == _ZERO
        return sound and -tops[TOP.divisor] >= _STABLE

    return sweep


_measured, _measured_coupled = _sweep(True, False), _sweep(True, True)
_predicted, _predicted_coupled = _sweep(False, False), _sweep(False, True)


@exactly
def _finite(kinds: Any, numbers: Any, form: int, sums: Any, tops: Any) -> bool:
    """Whether float32 held everything in a strip."""
    # Sums of what may be negative are finite only where every term is.
    total = sums[SUM.second] + sums[SUM.share] + sums[SUM.snr] + sums[SUM.dot] + sums[SUM.decayed]
    if not np.isfinite(total):
        return False
    if not (_sound(sums[SUM.parameter], 1.0) and _sound(sums[SUM.gradient], tops[TOP.gradient])):
        return False
    if not (_sound(sums[SUM.first], tops[TOP.first]) and _sound(sums[SUM.update], tops[TOP.update])):
        return False
    if form & HAS_DECAY and numbers[SCALAR.applied] != 0 and sums[SUM.decayed] < _SMALL:
        return False
    if kinds[SLOT.second_moment] == 0:
        return True
    least = -tops[TOP.second_negated]
    return _sound(sums[SUM.rms_t], tops[TOP.gradient]) and _sound_second(least, sums, kinds, numbers)


@exactly
def add(
    p: Any, b: Any, g: Any, m: Any, s: Any, v: Any, kinds: Any, numbers: Any, form: int, threshold: Any,
    tiny: Any, sums: Any, tops: Any, out: Any,
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
        sums: Room for one float64 for each of `SUM`.
        tops: Room for one float64 for each of `TOP`.
        out: Shape ``(FIGURES,)``, float64.
    """
    constants = _constants(kinds, numbers, form)
    low = larger(threshold, tiny) if kinds[SLOT.second_moment] else -_ONE
    x = ((p, b, g, m, s, v), constants, threshold, tiny, low, sums, tops)
    coupled = constants[_L2] != _ZERO
    if kinds[SLOT.before]:
        sound = _measured_coupled(*x) if coupled else _measured(*x)
    else:
        sound = _predicted_coupled(*x) if coupled else _predicted(*x)
    sound = sound and _finite(kinds, numbers, form, sums, tops)
    if sound:
        _put(len(p), kinds, numbers, form, sums, tops, out)
    return sound


@exactly
def _put(n: int, kinds: Any, numbers: Any, form: int, sums: Any, tops: Any, out: Any) -> None:
    """Add what was found in a strip to the figures of its row."""
    v_zero, untouched = sums[SUM.second_zero], sums[SUM.untouched]
    second = kinds[SLOT.second_moment] != 0
    out[FIGURE.numel] += n
    out[FIGURE.param_finite] += n
    out[FIGURE.param_square] += sums[SUM.parameter]
    out[FIGURE.update_finite] += n
    out[FIGURE.update_square] += sums[SUM.update]
    out[FIGURE.update_absmax] = max(out[FIGURE.update_absmax], tops[TOP.update])
    out[FIGURE.lost_numel] += n
    out[FIGURE.lost] += sums[SUM.lost]
    out[FIGURE.decay_finite] += n
    out[FIGURE.decay_square] += sums[SUM.decayed]
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
        out[FIGURE.second_hat] += sums[SUM.second] * numbers[SCALAR.second_moment_correction]
        out[FIGURE.second_zero] += v_zero
        out[FIGURE.second_subnormal] += sums[SUM.subnormal] - v_zero
        out[FIGURE.second_moment_absmax] = max(out[FIGURE.second_moment_absmax], tops[TOP.second])
        if form & HAS_EPS:
            out[FIGURE.floor_numel] += n
            out[FIGURE.floor_untouched] += untouched
            out[FIGURE.floor_underflow] += v_zero - untouched
            out[FIGURE.floor_small] += sums[SUM.hits] - v_zero
            out[FIGURE.eps_share_numel] += n
            out[FIGURE.eps_share] += sums[SUM.share] * numbers[SCALAR.eps]
        if kinds[SLOT.gradient]:
            out[FIGURE.rms_t_numel] += n
            out[FIGURE.rms_t] += sums[SUM.rms_t]
        if form & HAS_SNR:
            out[FIGURE.snr_numel] += n - v_zero
            out[FIGURE.snr] += sums[SUM.snr] * numbers[SCALAR.first_moment_correction]
    out[FIGURE.effective_lr_max] = max(out[FIGURE.effective_lr_max], fastest)
    out[FIGURE.effective_lr_negated_min] = max(out[FIGURE.effective_lr_negated_min], -slowest)
