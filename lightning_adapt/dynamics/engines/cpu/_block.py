"""What runs over a block of float32 in vector registers: sums, extremes, counts."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from lightning_adapt.dynamics.engines.cpu._compiled import exactly, in_any_order, larger, nearly, smaller

# Relative error of an update computed in float32, with room to spare.
_SLACK = np.float32(1e-6)
# An update smaller than this share of the parameter may be lost to rounding (half an ulp is at most 2^-24).
_ULP = np.float32(1.3e-7)
_ONE, _ZERO = np.float32(1), np.float32(0)

_SUMS = (
    *("parameter", "gradient", "first", "second", "share", "snr", "rms_t"),
    *("update", "parts", "dot", "before", "decayed"),
)
_COUNTS = ("idle", "second_zero", "subnormal", "hits", "untouched", "lost")
_TOPS = ("gradient", "first", "second", "update", "parts", "pulled")
_LEAST = ("gradient_negated", "second_negated", "closest")
#: Positions of sums (of squares, but for ``second``, ``share``, ``snr`` and ``dot``), then of counts. The
#: ``parts`` are the sizes of what a mixed update is added up from: is it much smaller, digits cancelled.
SUM: Any = namedtuple("SUM", (*_SUMS, *_COUNTS))(*range(len(_SUMS + _COUNTS)))
#: How many of them are sums.
ADDED = len(_SUMS)
#: Positions of the largest, then of the least, which are negated.
TOP: Any = namedtuple("TOP", (*_TOPS, *_LEAST))(*range(len(_TOPS + _LEAST)))


@in_any_order
def low(g: Any, m: Any, v: Any, threshold: Any, tiny: Any) -> Any:
    """Counts that only a block with a zero gradient or a low second moment has."""
    idle = zero = subnormal = hits = untouched = _ZERO  # float32 counts vectorise, and are exact below 2^24
    for i in range(len(v)):
        idle += _ONE if g[i] == _ZERO else _ZERO
        zero += _ONE if v[i] == _ZERO else _ZERO
        subnormal += _ONE if v[i] < tiny else _ZERO
        hits += _ONE if v[i] <= threshold else _ZERO
        untouched += _ONE if abs(g[i]) + abs(m[i]) + v[i] == _ZERO else _ZERO
    return idle, zero, subnormal, hits, untouched


def figures(measured: bool, mixed: bool) -> Any:
    """The pass over a block that gives its sums and extremes, in the order of `SUM` and of `TOP`.

    What it gives means something only where it is finite: it assumes that nothing is inf or NaN.

    Args:
        measured: Whether the parameter before the step is known.
        mixed: Whether the numerator is a sum: of momentum and gradient, or with L2 in it. What that takes is
            too much for the registers of some processors, and not asked of plain Adam and AdamW.
    """

    @nearly
    def block(p: Any, b: Any, g: Any, m: Any, s: Any, v: Any, c: Any) -> Any:
        correction, eps, per_eps, rated, constant, of_m, of_g, pull, decay, l2, _, _, rest = c
        pp = gg = mm = second = share = snr = rms_t = square = parts_square = dot = start = decayed = _ZERO
        g_top = m_top = v_top = top = parts_top = pulled_top = _ZERO
        g_least = v_least = closest = np.float32(np.inf)
        whole, from_m, from_g = _ONE / rest, abs(of_m), abs(of_g)
        ulp = _ULP + np.float32(2) * _SLACK * abs(decay)
        for i in range(len(p)):
            size, momentum = abs(g[i]), abs(m[i])
            pp += p[i] * p[i]
            gg += size * size
            mm += momentum * momentum
            second += v[i]
            g_top, g_least = larger(g_top, size), smaller(g_least, size)
            m_top = larger(m_top, momentum)
            v_top, v_least = larger(v_top, v[i]), smaller(v_least, v[i])

            v_hat = v[i] * correction
            some = v[i] > _ZERO  # where v is 0 epsilon is all there is
            inverse = _ONE / np.sqrt(v_hat) if some else _ZERO
            e = _ONE / (v_hat * inverse + eps)
            share += e
            snr += momentum * inverse
            ratio = size * (smaller(inverse, per_eps) if some else per_eps)
            rms_t += ratio * ratio

            gain = rated * e + constant
            parts = _ZERO
            if measured:
                before = b[i]
                update = p[i] - before
            else:
                pushed = gain * (m[i] * of_m + g[i] * of_g + s[i])
                if mixed:
                    pulled = gain * pull
                    before = (p[i] + pushed) / (rest - pulled)
                    shrunk = (decay + pulled) * before
                    pulled_top = larger(pulled_top, abs(pulled))
                    parts = gain * (momentum * from_m + size * from_g + abs(s[i])) + abs(shrunk)
                    parts_square += parts * parts
                    parts_top = larger(parts_top, parts)
                else:
                    before = (p[i] + pushed) * whole
                    shrunk = decay * before
                update = -pushed - shrunk
            square += update * update
            dot += update * g[i]
            moved = abs(update)
            top = larger(top, moved)
            closest = smaller(closest, moved - (ulp * abs(p[i]) + _SLACK * parts))
            start += before * before
            if mixed:
                away = before * (decay + l2 * e)
                decayed += away * away
        return (
            (pp, gg, mm, second, share, snr, rms_t, square, parts_square, dot, start, decayed),
            (g_top, m_top, v_top, top, parts_top, pulled_top, -g_least, -v_least, -closest),
        )

    return block


@exactly
def _stays(p: Any, update: Any, slack: Any) -> Any:
    """Whether rounding keeps ``p + update ± slack`` at ``p``.

    Compiled as written: in any other order both would be one.
    """
    return p + (update - slack) == p, p + (update + slack) == p


def losses(measured: bool, mixed: bool) -> Any:
    """The pass over a block in which rounding may have lost an update."""

    @in_any_order
    def lost(p: Any, b: Any, g: Any, m: Any, s: Any, v: Any, c: Any) -> Any:
        correction, eps, _, rated, constant, of_m, of_g, pull, decay, _, has_m, has_g, rest = c
        lost = unclear = _ZERO
        for i in range(len(p)):
            gain = rated / (np.sqrt(v[i] * correction) + eps) + constant
            pushed = gain * (m[i] * of_m + g[i] * of_g + s[i])
            before = b[i] if measured else (p[i] + pushed) / (rest - gain * pull)
            drawn = decay + gain * pull if mixed else decay
            shrunk = drawn * before
            predicted = -pushed - shrunk
            anything = abs(m[i]) * has_m + abs(g[i]) * has_g + abs(s[i]) + abs(shrunk) > _ZERO
            # Lost for certain, or moved for certain, if both ends of what float32 leaves open are.
            parts = gain * (abs(m[i] * of_m) + abs(g[i] * of_g) + abs(s[i])) + abs(shrunk)
            slack = _SLACK * parts
            if measured:
                stays = stays_too = p[i] == before
            else:
                stays, stays_too = _stays(p[i], predicted, slack)
            lost += _ONE if stays & stays_too & anything else _ZERO
            near = anything & (abs(predicted) <= slack)
            vanished = (shrunk == _ZERO) & (drawn != _ZERO) & (before != _ZERO)  # in float32 only
            unclear += _ONE if near | vanished | (stays != stays_too) else _ZERO
        return lost, unclear

    return lost
