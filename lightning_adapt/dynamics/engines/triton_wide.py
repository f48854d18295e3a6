"""Triton, in float64: the formulas of the reference engine, for what fp32 cannot decide.

Compiled kernels see no Python objects: every function takes the table of descriptors (see `engines.triton`)
and a row of it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adapt.dynamics.engines import triton_names as n


@triton.jit
def number(table, row, which: tl.constexpr):
    """One scalar of a row, fp64: the first section of the table."""
    return tl.load(table.to(tl.pointer_type(tl.float64), bitcast=True) + row * n.SCALARS + which)


@triton.jit
def address(table, rows, row, slot: tl.constexpr):
    """Where a tensor of a row begins, int64: the third section, after the addresses of device scalars."""
    return tl.load(table + rows * (2 * n.SCALARS) + row * n.SLOTS + slot)


@triton.jit
def load(begin, at, mask, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Elements ``at`` of a tensor: fp64 as it is, everything else as fp32, which holds it exactly.

    bf16 is the upper half of an fp32 number; said so outright, because the interpreter converts subnormal
    numbers wrongly.
    """
    if DTYPE == tl.bfloat16:
        where = begin.to(tl.pointer_type(tl.int16))
    elif DTYPE == tl.float16:
        where = begin.to(tl.pointer_type(tl.float16))
    elif DTYPE == tl.float32:
        where = begin.to(tl.pointer_type(tl.float32))
    else:
        where = begin.to(tl.pointer_type(tl.float64))
    if ALIGNED:  # the compiler cannot know, and loads 16 bytes at once only if it does
        where = tl.multiple_of(where, 16)
    if mask is None:
        x = tl.load(where + at)
    else:
        x = tl.load(where + at, mask=mask, other=0)
    if DTYPE == tl.bfloat16:
        x = (x.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif DTYPE == tl.float16:
        x = x.to(tl.float32)
    return x


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """An fp32 number rounded to fp32 (nothing to do), fp16 or bf16, and back; halves to even."""
    if DTYPE == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    if DTYPE == tl.float16:
        x = x.to(tl.float16).to(tl.float32)
    return x


@triton.jit
def hat_of(stored, correction, eps, FORM: tl.constexpr):
    """v_hat from what is stored, without centering. Comparisons are written so that NaN stays NaN."""
    if n.IS_ROOT & FORM:
        root = tl.where(stored - eps < 0, 0.0, stored - eps)
        hat = root * root
    else:
        hat = stored * correction
    return hat


@triton.jit
def denominator_of(hat, eps, FORM: tl.constexpr):
    """What the step is divided by."""
    if n.EPS_INSIDE & FORM:
        denominator = tl.sqrt(hat + eps)
    elif n.EPS_CLAMP & FORM:
        root = tl.sqrt(hat)
        denominator = tl.where(root < eps, eps, root)
    else:
        denominator = tl.sqrt(hat) + eps
    return denominator


@triton.jit
def whole_eps(eps, FORM: tl.constexpr):
    """What epsilon alone makes of the denominator."""
    whole = eps
    if n.EPS_INSIDE & FORM:
        whole = tl.sqrt(eps)
    return whole


@triton.jit
def on_floor(hat, eps, FORM: tl.constexpr):
    """Whether epsilon sets the step size."""
    if n.EPS_INSIDE & FORM:
        hit = hat <= eps
    else:
        hit = tl.sqrt(hat) <= eps
    return hit


@triton.jit
def read(table, rows, row, slot: tl.constexpr, at, mask, DTYPE: tl.constexpr):
    """Elements of a slot in fp64; 0 where there is no tensor."""
    if DTYPE is None:
        x = tl.zeros(at.shape, tl.float64)
    else:
        x = load(address(table, rows, row, slot), at, mask, DTYPE, False).to(tl.float64)
    return x


@triton.jit
def second_of(table, rows, row, at, mask, SECOND: tl.constexpr, CENTERING: tl.constexpr, FORM: tl.constexpr):
    """The stored second moment and v_hat."""
    stored = read(table, rows, row, n.SECOND_SLOT, at, mask, SECOND)
    hat = hat_of(stored, number(table, row, n.SECOND_CORRECTION), number(table, row, n.EPS), FORM)
    if CENTERING is not None:
        mean = read(table, rows, row, n.CENTERING_SLOT, at, mask, CENTERING)
        hat = hat - mean * mean
        hat = tl.where(hat < 0, 0.0, hat)
    return stored, hat


@triton.jit
def rate_of(table, rows, row, at, mask, hat, SECOND: tl.constexpr, RATE: tl.constexpr, FORM: tl.constexpr):
    """The effective learning rate."""
    lr = number(table, row, n.LR)
    rate = tl.zeros_like(hat) + lr
    if SECOND is not None:
        denominator = denominator_of(hat, number(table, row, n.EPS), FORM)
        rate = tl.where(number(table, row, n.ADAPTIVE) != 0, lr / denominator, lr)
    if RATE is not None:
        rate = read(table, rows, row, n.RATE_SLOT, at, mask, RATE)
    return rate


@triton.jit
def predict(
    table, rows, row, at, mask, x, g, m, rate,
    BEFORE: tl.constexpr, NUMERATOR: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """The parameter before the step, and the update that the canonical step says."""
    decay, pull = number(table, row, n.DECAY), number(table, row, n.PULL)
    applied = number(table, row, n.APPLIED) != 0
    if NUMERATOR is None:
        numerator = m * number(table, row, n.FIRST_FACTOR) + g * number(table, row, n.GRADIENT_WEIGHT)
    else:
        numerator = read(table, rows, row, n.NUMERATOR_SLOT, at, mask, NUMERATOR)
    gain = rate
    if n.PRECONDITIONED & FORM:
        gain = tl.zeros_like(rate) + number(table, row, n.LR)
    if BEFORE is None:
        before = tl.where(applied, (x + gain * numerator) / (1.0 - decay - gain * pull), x)
    else:
        before = read(table, rows, row, n.BEFORE_SLOT, at, mask, BEFORE)
    return before, tl.where(applied, -gain * (numerator + pull * before) - decay * before, 0.0)


@triton.jit
def decay_of(table, row, before, rate):
    """The part of the update that is weight decay."""
    l2 = number(table, row, n.L2)
    decay = before * (number(table, row, n.DECAY) + tl.where(l2 != 0, l2 * rate, 0.0))
    return tl.where(number(table, row, n.APPLIED) != 0, decay, 0.0)


@triton.jit
def step_of(
    table, rows, row, at, mask,
    PARAMETER: tl.constexpr, BEFORE: tl.constexpr, GRADIENT: tl.constexpr, FIRST: tl.constexpr,
    NUMERATOR: tl.constexpr, SECOND: tl.constexpr, CENTERING: tl.constexpr, RATE: tl.constexpr,
    FORM: tl.constexpr,
):  # fmt: skip
    """Parameter, gradient, rate, v_hat, parameter before, predicted and real update of elements ``at``."""
    x = read(table, rows, row, n.PARAMETER_SLOT, at, mask, PARAMETER)
    g = read(table, rows, row, n.GRADIENT_SLOT, at, mask, GRADIENT) * number(table, row, n.GRADIENT_FACTOR)
    hat = tl.zeros_like(x)
    rate, before, predicted = hat, hat, hat
    if n.CANONICAL & FORM:
        m = read(table, rows, row, n.FIRST_SLOT, at, mask, FIRST)
        if SECOND is not None:
            stored, hat = second_of(table, rows, row, at, mask, SECOND, CENTERING, FORM)
        rate = rate_of(table, rows, row, at, mask, hat, SECOND, RATE, FORM)
        before, predicted = predict(table, rows, row, at, mask, x, g, m, rate, BEFORE, NUMERATOR, FORM)
    update = predicted
    if BEFORE is not None:
        update = x - read(table, rows, row, n.BEFORE_SLOT, at, mask, BEFORE)
    return x, g, rate, hat, before, predicted, update
