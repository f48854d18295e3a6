"""Names for the kernels: where each figure, tensor and number stands.

A kernel may use a global name only if it is a `constexpr`; these follow the lists that all engines share.
"""

from __future__ import annotations

import triton.language as tl

from lightning_adapt.dynamics.engines import descriptors as form
from lightning_adapt.dynamics.engines.packed import ADDED, COUNTS, FIGURES, MAXIMA, SUMS
from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, SECOND_MOMENT, UPDATE, WIDTH

_NAMES = (*COUNTS, *SUMS, *MAXIMA)

# Where each figure stands. A kernel may only use global names that are `constexpr`.
NUMEL = tl.constexpr(_NAMES.index("numel"))
GRAD_NUMEL = tl.constexpr(_NAMES.index("grad_numel"))
GRAD_FINITE = tl.constexpr(_NAMES.index("grad_finite"))
GRAD_ZERO = tl.constexpr(_NAMES.index("grad_zero"))
FIRST_FINITE = tl.constexpr(_NAMES.index("first_finite"))
SECOND_NUMEL = tl.constexpr(_NAMES.index("second_numel"))
SECOND_FINITE = tl.constexpr(_NAMES.index("second_finite"))
SECOND_ZERO = tl.constexpr(_NAMES.index("second_zero"))
SECOND_SUBNORMAL = tl.constexpr(_NAMES.index("second_subnormal"))
FLOOR_NUMEL = tl.constexpr(_NAMES.index("floor_numel"))
FLOOR_UNTOUCHED = tl.constexpr(_NAMES.index("floor_untouched"))
FLOOR_UNDERFLOW = tl.constexpr(_NAMES.index("floor_underflow"))
FLOOR_SMALL = tl.constexpr(_NAMES.index("floor_small"))
EPS_SHARE_NUMEL = tl.constexpr(_NAMES.index("eps_share_numel"))
UPDATE_FINITE = tl.constexpr(_NAMES.index("update_finite"))
LOST_NUMEL = tl.constexpr(_NAMES.index("lost_numel"))
LOST = tl.constexpr(_NAMES.index("lost"))
PARAM_FINITE = tl.constexpr(_NAMES.index("param_finite"))
DECAY_FINITE = tl.constexpr(_NAMES.index("decay_finite"))
RMS_T_NUMEL = tl.constexpr(_NAMES.index("rms_t_numel"))
SNR_NUMEL = tl.constexpr(_NAMES.index("snr_numel"))
GRAD_SQUARE = tl.constexpr(_NAMES.index("grad_square"))
FIRST_SQUARE = tl.constexpr(_NAMES.index("first_square"))
SECOND_HAT = tl.constexpr(_NAMES.index("second_hat"))
EPS_SHARE = tl.constexpr(_NAMES.index("eps_share"))
UPDATE_SQUARE = tl.constexpr(_NAMES.index("update_square"))
UPDATE_DOT_GRAD = tl.constexpr(_NAMES.index("update_dot_grad"))
PARAM_SQUARE = tl.constexpr(_NAMES.index("param_square"))
DECAY_SQUARE = tl.constexpr(_NAMES.index("decay_square"))
RMS_T = tl.constexpr(_NAMES.index("rms_t"))
SNR = tl.constexpr(_NAMES.index("snr"))
GRAD_ABSMAX = tl.constexpr(_NAMES.index("grad_absmax"))
FIRST_ABSMAX = tl.constexpr(_NAMES.index("first_moment_absmax"))
SECOND_ABSMAX = tl.constexpr(_NAMES.index("second_moment_absmax"))
RATE_MAX = tl.constexpr(_NAMES.index("effective_lr_max"))
RATE_NEGATED_MIN = tl.constexpr(_NAMES.index("effective_lr_negated_min"))
UPDATE_ABSMAX = tl.constexpr(_NAMES.index("update_absmax"))
FIRST_MAXIMUM = tl.constexpr(ADDED)
ALL_FIGURES = tl.constexpr(FIGURES)

CANONICAL = tl.constexpr(form.CANONICAL)
HAS_EPS = tl.constexpr(form.HAS_EPS)
EPS_INSIDE = tl.constexpr(form.EPS_INSIDE)
EPS_CLAMP = tl.constexpr(form.EPS_CLAMP)
IS_ROOT = tl.constexpr(form.IS_ROOT)
PRECONDITIONED = tl.constexpr(form.PRECONDITIONED)
HAS_SNR = tl.constexpr(form.HAS_SNR)

# Slots and numbers of a row, see `descriptors`.
PARAMETER_SLOT = tl.constexpr(form.SLOTS.index("parameter"))
BEFORE_SLOT = tl.constexpr(form.SLOTS.index("before"))
GRADIENT_SLOT = tl.constexpr(form.SLOTS.index("gradient"))
FIRST_SLOT = tl.constexpr(form.SLOTS.index("first_moment"))
NUMERATOR_SLOT = tl.constexpr(form.SLOTS.index("numerator"))
SECOND_SLOT = tl.constexpr(form.SLOTS.index("second_moment"))
CENTERING_SLOT = tl.constexpr(form.SLOTS.index("centering"))
RATE_SLOT = tl.constexpr(form.SLOTS.index("effective_lr"))
SLOTS = tl.constexpr(len(form.SLOTS))
GRADIENT_FACTOR = tl.constexpr(form.SCALARS.index("gradient_factor"))
APPLIED = tl.constexpr(form.SCALARS.index("applied"))
LR = tl.constexpr(form.SCALARS.index("lr"))
FIRST_FACTOR = tl.constexpr(form.SCALARS.index("first_moment_factor"))
FIRST_CORRECTION = tl.constexpr(form.SCALARS.index("first_moment_correction"))
GRADIENT_WEIGHT = tl.constexpr(form.SCALARS.index("gradient_weight"))
L2 = tl.constexpr(form.SCALARS.index("l2"))
PULL = tl.constexpr(form.SCALARS.index("pull"))
DECAY = tl.constexpr(form.SCALARS.index("decay"))
SECOND_CORRECTION = tl.constexpr(form.SCALARS.index("second_moment_correction"))
EPS = tl.constexpr(form.SCALARS.index("eps"))
ADAPTIVE = tl.constexpr(form.SCALARS.index("adaptive"))
SCALARS = tl.constexpr(len(form.SCALARS))

HISTOGRAM_WIDTH = tl.constexpr(WIDTH)
BINS = tl.constexpr(1 << WIDTH.bit_length())  # the next one above WIDTH: a bin to throw into, too
RATE_LOWEST = tl.constexpr(EFFECTIVE_LR.lowest)
RATE_BITS = tl.constexpr(EFFECTIVE_LR.mantissa_bits)
SECOND_LOWEST = tl.constexpr(SECOND_MOMENT.lowest)
SECOND_BITS = tl.constexpr(SECOND_MOMENT.mantissa_bits)
UPDATE_LOWEST = tl.constexpr(UPDATE.lowest)
UPDATE_BITS = tl.constexpr(UPDATE.mantissa_bits)

# Facts of a row that stay while its shape does, see `engines.triton`.
FACTS = tl.constexpr(6)
