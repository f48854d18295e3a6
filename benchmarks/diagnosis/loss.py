"""When the loss shows that something is wrong: what a person who watches the loss would see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, linear_regression, stdev

WINDOW = 20
"""Losses that say where the loss is going, and how far it strays."""

SIGMAS = 3.2
"""Deviations above it that count as an outlier (Wortsman et al. 2023, arXiv:2304.13013)."""

MATTERS = 0.1
"""Share of the loss by which an outlier rises at least: without noise every deviation is many sigmas."""

TOGETHER = 10
"""A second outlier within so many steps makes a spike of the first (same paper)."""


def spikes(losses: Sequence[float]) -> list[int]:
    """Steps at which the loss leaves where it was going: the first outlier of each spike.

    An outlier is not finite, or lies above the line through the last `WINDOW` losses by `SIGMAS` of their
    deviations from it, and by `MATTERS` of the loss. The line may fall or be flat; where the losses rise, it
    is their mean. Outliers are left out of the window, until they are the rule. One may be a hard batch; two
    within `TOGETHER` steps are a spike. Spikes are `TOGETHER` steps apart.

    Example:
        >>> calm = [1.0, 1.1] * 20
        >>> spikes([*calm, 5.0, 6.0, *calm]), spikes([*calm, 5.0, *calm]), spikes([*calm, math.nan])
        ([40], [], [40])
        >>> spikes([*(2.0 - 0.04 * step for step in range(40)), 1.0, 0.9])
        [40]
    """
    found: list[int] = []
    outliers = _outliers(losses)
    for at, step in enumerate(outliers):
        if found and step - found[-1] < TOGETHER:
            continue
        close = at + 1 < len(outliers) and outliers[at + 1] - step < TOGETHER
        if close or not math.isfinite(losses[step]):
            found.append(step)
    return found


def stalls_at(losses: Sequence[float]) -> int | None:
    """First step at which the loss falls no more: the last `WINDOW` are no lower than those before.

    Lower means: the means differ by more than two standard errors of the difference, or by 2 %.

    Example:
        >>> stalls_at([1.0, 1.1] * 20), stalls_at([2.0 - 0.02 * step for step in range(60)])
        (39, None)
    """
    for end in range(2 * WINDOW, len(losses) + 1):
        before, last = losses[end - 2 * WINDOW : end - WINDOW], losses[end - WINDOW : end]
        error = math.sqrt((stdev(before) ** 2 + stdev(last) ** 2) / WINDOW)
        fall = fmean(before) - fmean(last)
        if not (fall > 2 * error or fall > 0.02 * abs(fmean(before))):
            return end - 1
    return None


def shows_at(losses: Sequence[float], onset: int = 0) -> int | None:
    """First step from ``onset`` on at which the loss shows it: leaves its running mean, or falls no more."""
    first = [step for step in spikes(losses) if step >= onset][:1]
    calm = losses[: first[0]] if first else losses
    stall = stalls_at(calm[max(0, onset - WINDOW) :])
    if stall is not None:
        first.append(stall + max(0, onset - WINDOW))
    return min(first, default=None)


def _outliers(losses: Sequence[float]) -> list[int]:
    found: list[int] = []
    window: list[float] = []
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            found.append(step)
            continue
        if _is_outlier(window, loss):
            found.append(step)
            if found[-TOGETHER:] != list(range(step - TOGETHER + 1, step + 1)):
                continue
            window = list(losses[step - TOGETHER : step])  # the loss is somewhere else now
        window = [*window, loss][-WINDOW:]
    return found


def _is_outlier(window: Sequence[float], loss: float) -> bool:
    if len(window) < WINDOW // 2:
        return False
    x = range(len(window))
    slope, intercept = linear_regression(x, window)
    if slope > 0:
        slope, intercept = 0.0, fmean(window)
    deviation = math.sqrt(
        sum((y - slope * at - intercept) ** 2 for at, y in zip(x, window, strict=True)) / (len(x) - 2)
    )
    rise = loss - (intercept + slope * (len(window) - 1))
    return rise > SIGMAS * deviation and rise > MATTERS * abs(fmean(window))
