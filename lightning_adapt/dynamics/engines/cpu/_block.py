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

# What `moved` gives, then what `sizes` gives.
_SUMS = (
    *("share", "snr", "rms_t", "update", "parts", "dot", "before", "decayed"),
    *("parameter", "gradient", "first", "second"),
)
_COUNTS = ("idle", "second_zero", "subnormal", "hits", "untouched", "lost")
_TOPS = (
    *("update", "parts", "pulled", "closest_negated"),
    *("gradient", "first", "second", "gradient_negated", "second_negated"),
)
#: Positions of sums (of squares, but for ``second``, ``share``, ``snr`` and ``dot``), then of counts. The
#: ``parts`` are the sizes of what a mixed update is added up from: is it much smaller, digits cancelled.
SUM: Any = namedtuple("SUM", (*_SUMS, *_COUNTS))(*range(len(_SUMS + _COUNTS)))
#: How many of them are sums.
ADDED = len(_SUMS)
#: Positions of the largest; what is negated is a least.
TOP: Any = namedtuple("TOP", _TOPS)(*range(len(_TOPS)))


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


@nearly
def sizes(p: Any, g: Any, m: Any, v: Any) -> Any:
    """The sums and extremes of what is stored, in the order of `SUM` and of `TOP`."""
    pp = gg = mm = second = g_top = m_top = v_top = _ZERO
    g_least = v_least = np.float32(np.inf)
    for i in range(len(p)):
        size, momentum = abs(g[i]), abs(m[i])
        pp += p[i] * p[i]
        gg += size * size
        mm += momentum * momentum
        second += v[i]
        g_top, g_least = larger(g_top, size), smaller(g_least, size)
        m_top = larger(m_top, momentum)
        v_top, v_least = larger(v_top, v[i]), smaller(v_least, v[i])
    return (pp, gg, mm, second), (g_top, m_top, v_top, -g_least, -v_least)


def moved(measured: bool, mixed: bool) -> Any:
    """The pass that gives the sums and extremes of how a step moves, in the order of `SUM` and of `TOP`.

    It works on ``sqrt(v)`` instead of ``sqrt(v_hat) = r * sqrt(v)``, where ``r`` is the root of the second
    moment's correction: ``share``, ``snr`` and the root of ``rms_t`` come out ``r`` times too large.
    What it gives means something only where it is finite: it assumes that nothing is inf or NaN.

    Args:
        measured: Whether the parameter before the step is known.
        mixed: Whether the numerator is a sum: of momentum and gradient, or with L2 in it. What that takes is
            too much for the registers of some processors, and not asked of plain Adam and AdamW.
    """

    @nearly
    def block(p: Any, b: Any, g: Any, m: Any, s: Any, v: Any, c: Any) -> Any:
        share = snr = rms_t = square = parts_square = dot = start = decayed = _ZERO
        top = parts_top = pulled_top = _ZERO
        closest = np.float32(np.inf)
        from_m, from_g = abs(c.of_m), abs(c.of_g)
        drawn, ulp = c.decay / c.rest, _ULP + np.float32(2) * _SLACK * abs(c.decay)
        for i in range(len(p)):
            some = v[i] > _ZERO  # where v is 0 epsilon is all there is
            inverse = _ONE / np.sqrt(v[i]) if some else _ZERO
            e = _ONE / (v[i] * inverse + c.floor)
            share += e
            snr += abs(m[i]) * inverse
            ratio = g[i] * (smaller(inverse, c.per_floor) if some else c.per_floor)
            rms_t += ratio * ratio

            gain = c.slope * e + c.flat
            parts = _ZERO
            if measured:
                before = b[i]
                update = p[i] - before
            elif mixed:
                pushed = gain * (m[i] * c.of_m + g[i] * c.of_g + s[i])
                pulled = gain * c.pull
                before = (p[i] + pushed) / (c.rest - pulled)
                shrunk = (c.decay + pulled) * before
                pulled_top = larger(pulled_top, abs(pulled))
                parts = gain * (abs(m[i]) * from_m + abs(g[i]) * from_g + abs(s[i])) + abs(shrunk)
                parts_square += parts * parts
                parts_top = larger(parts_top, parts)
                update = -pushed - shrunk
            else:
                pushed = gain * s[i]
                before = p[i] + pushed  # times ``rest``
                update = -pushed - drawn * before
            square += update * update
            dot += update * g[i]
            top = larger(top, abs(update))
            closest = smaller(closest, abs(update) - (ulp * abs(p[i]) + _SLACK * parts))
            start += before * before
            if mixed:
                away = before * (c.decay + c.l2 * e)
                decayed += away * away
        if not measured and not mixed:
            start = start / (c.rest * c.rest)
        return (
            (share, snr, rms_t, square, parts_square, dot, start, decayed),
            (top, parts_top, pulled_top, -closest),
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
        lost = unclear = _ZERO
        for i in range(len(p)):
            gain = c.rated / (np.sqrt(v[i] * c.correction) + c.eps) + c.constant
            pushed = gain * (m[i] * c.of_m + g[i] * c.of_g + s[i])
            before = b[i] if measured else (p[i] + pushed) / (c.rest - gain * c.pull)
            drawn = c.decay + gain * c.pull if mixed else c.decay
            shrunk = drawn * before
            predicted = -pushed - shrunk
            anything = abs(m[i]) * c.has_m + abs(g[i]) * c.has_g + abs(s[i]) + abs(shrunk) > _ZERO
            # Lost for certain, or moved for certain, if both ends of what float32 leaves open are.
            parts = gain * (abs(m[i] * c.of_m) + abs(g[i] * c.of_g) + abs(s[i])) + abs(shrunk)
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
