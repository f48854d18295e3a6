"""What the blocks of a row have in common: may they go the fast way at all, and the numbers they need."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from lightning_adapt.dynamics.engines.cpu._compiled import (
    BFLOAT16,
    FLOAT16,
    FLOAT64,
    SCALAR,
    SLOT,
    exactly,
    larger,
    smallest_normal,
)
from lightning_adapt.dynamics.engines.descriptors import (
    CANONICAL,
    EPS_CLAMP,
    EPS_INSIDE,
    IS_ROOT,
    PRECONDITIONED,
)

_ONE, _ZERO = np.float32(1), np.float32(0)


@exactly
def suits(kinds: Any, numbers: Any, form: int) -> bool:
    """Whether the blocks of a row with this form of step may go the fast way at all."""
    for kind in kinds:
        if kind == FLOAT64:
            return False
    if not form & CANONICAL or form & (EPS_INSIDE | EPS_CLAMP | IS_ROOT) or not numbers[SCALAR.lr] >= 0:
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
def _floor_threshold(kinds: Any, numbers: Any) -> np.float32:
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


Constants: Any = namedtuple(
    "Constants",
    "correction eps rated constant of_m of_g pull decay has_m has_g rest floor per_floor slope flat l2",
)
"""What a block is computed with, float32; the last five as `_block.moved` wants them."""


@exactly
def _constants(kinds: Any, numbers: Any, form: int, mixed: bool) -> Any:
    """The `Constants` of a row.

    Without a second moment the denominator is 1: v reads as 0, so epsilon is set to 1.
    """
    second = kinds[SLOT.second_moment] != 0
    applied = 1.0 if numbers[SCALAR.applied] != 0 else 0.0
    lr = numbers[SCALAR.lr]
    rated, constant = (0.0, lr * applied) if form & PRECONDITIONED else (lr * applied, 0.0)
    correction, eps = numbers[SCALAR.second_moment_correction], numbers[SCALAR.eps]
    if not second:
        correction, eps = 1.0, 1.0
    decay = numbers[SCALAR.decay] * applied
    of_m, of_g = numbers[SCALAR.first_moment_factor], numbers[SCALAR.gradient_weight]
    root = math.sqrt(correction)
    floor = eps / root
    factor = 1.0
    if not mixed and kinds[SLOT.numerator] == 0:
        factor = of_m if of_m != 0 else of_g
    return Constants(
        np.float32(correction),
        np.float32(eps),
        np.float32(rated),
        np.float32(constant),
        np.float32(of_m),
        np.float32(of_g),
        np.float32(numbers[SCALAR.pull]),
        np.float32(decay),
        _ONE if of_m != 0 and applied != 0 else _ZERO,
        _ONE if of_g != 0 and applied != 0 else _ZERO,
        np.float32(1 - decay),
        np.float32(floor),
        np.float32(1 / floor if floor > 1e-30 else 1e30),
        np.float32(rated / root * factor),
        np.float32(constant * factor),
        np.float32(numbers[SCALAR.l2] * lr / root * applied),
    )


Plan: Any = namedtuple("Plan", ("threshold", "tiny", "low", "mixed", "decay", "l2", "pushes", "constants"))


@exactly
def plan_of(kinds: Any, numbers: Any, form: int, suited: bool) -> Any:
    """What the blocks of a row that is ``suited`` have in common.

    Returns:
        The largest second moment on the epsilon floor, the smallest normal number of its dtype, the larger of
        the two, whether the numerator is a sum, both forms of decay (0 where no step was made), the slot that
        is the numerator or, where that is a sum, may be a part of it, `Constants`.
    """
    threshold = _floor_threshold(kinds, numbers) if suited else _ZERO  # no end is sure for any eps
    tiny = np.float32(smallest_normal(kinds[SLOT.second_moment]))
    low = larger(threshold, tiny) if kinds[SLOT.second_moment] else -_ONE
    both = numbers[SCALAR.first_moment_factor] != 0 and numbers[SCALAR.gradient_weight] != 0
    mixed = bool(both or numbers[SCALAR.l2] != 0)
    made = 1.0 if numbers[SCALAR.applied] != 0 else 0.0
    decay, l2 = numbers[SCALAR.decay] * made, numbers[SCALAR.l2] * made
    pushes = SLOT.numerator
    if not mixed and kinds[SLOT.numerator] == 0:
        pushes = SLOT.first_moment if numbers[SCALAR.first_moment_factor] != 0 else SLOT.gradient
    return Plan(threshold, tiny, low, mixed, decay, l2, pushes, _constants(kinds, numbers, form, mixed))
