"""Triton: the kernels that are launched. See `engines.triton` for the table they read."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adapt.dynamics.engines import triton_names as n
from lightning_adapt.dynamics.engines.triton_careful import careful, histograms, no_figures, put
from lightning_adapt.dynamics.engines.triton_fast import fast
from lightning_adapt.dynamics.engines.triton_wide import number


@triton.jit(do_not_specialize=["rows", "size"])
def begin(table, counts, rows, size, FETCH: tl.constexpr, SIZE: tl.constexpr):
    """Set ``size`` counts to 0, and put numbers that only the device knows into the table.

    Their addresses have two flags: `NARROW` fp32 rather than fp64, `CORRECTS` a step count, for which
    ``1 / (1 - beta**t)`` is put in the place of beta.
    """
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(counts + at, tl.zeros([SIZE], tl.int32), mask=at < size)
    if FETCH:
        address = tl.load(table + rows * n.SCALARS + at, mask=at < rows * n.SCALARS, other=0)
        narrow, corrects, there = (address & 1) == 1, (address & 2) == 2, address != 0
        place = address - (address & 3)
        short = tl.load(place.to(tl.pointer_type(tl.float32)), mask=there & narrow, other=1.0)
        long = tl.load(place.to(tl.pointer_type(tl.float64)), mask=there & (narrow == 0), other=1.0)
        value = tl.where(narrow, short.to(tl.float64), long)
        values = table.to(tl.pointer_type(tl.float64), bitcast=True) + at
        beta = tl.load(values, mask=there & corrects, other=0.5)
        power = tl.exp(value * tl.log(beta))  # 0 for beta = 0, whose logarithm is -inf
        power = tl.where(value == 1, beta, tl.where(value == 0, 1.0, power))
        tl.store(values, tl.where(corrects, 1.0 / (1.0 - power), value), mask=there)


@triton.jit(do_not_specialize=["rows", "blocks", "first_block"])
def measure_blocks(
    table, partials, counts, rows, blocks, first_block,
    PARAMETER: tl.constexpr, BEFORE: tl.constexpr, GRADIENT: tl.constexpr, FIRST: tl.constexpr,
    NUMERATOR: tl.constexpr, SECOND: tl.constexpr, CENTERING: tl.constexpr, RATE: tl.constexpr,
    FORM: tl.constexpr, HAS_L2: tl.constexpr, ALIGNED: tl.constexpr, FAST: tl.constexpr,
    HISTOGRAMS: tl.constexpr,
    TILE: tl.constexpr, EACH: tl.constexpr, WIDE: tl.constexpr, COUNTED: tl.constexpr,
):  # fmt: skip
    """Measure one block of one row: a column of ``partials``, and the row's histograms."""
    block = first_block + tl.program_id(0)
    facts = table + rows * (2 * n.SCALARS + n.SLOTS)
    row = tl.load(facts + rows * n.FACTS + block)
    numel, stride = tl.load(facts + row * n.FACTS), tl.load(facts + row * n.FACTS + 1)
    place, first_of_row = tl.load(facts + row * n.FACTS + 2), tl.load(facts + row * n.FACTS + 3)
    size = tl.load(facts + row * n.FACTS + 5)
    start = (block - first_of_row) * size
    end = tl.minimum(start + size, numel)
    begin, figures = start, no_figures()
    if FAST:
        tiles = ((end - start) // TILE).to(tl.int32)
        quick, doubt = fast(
            table, rows, row, start, tiles,
            PARAMETER, BEFORE, GRADIENT, FIRST, NUMERATOR, SECOND, RATE,
            FORM, HAS_L2, ALIGNED, TILE, EACH,
        )  # fmt: skip
        sound = (doubt == 0) & (tiles > 0)
        begin = start + tl.where(sound, tiles * TILE, 0)
        figures = tl.where(sound, quick, figures)
    if begin < end:
        rest = careful(
            table, rows, row, begin, end,
            PARAMETER, BEFORE, GRADIENT, FIRST, NUMERATOR, SECOND, CENTERING, RATE, FORM, WIDE,
        )  # fmt: skip
        figures = tl.where(tl.arange(0, 64) >= n.FIRST_MAXIMUM, tl.maximum(figures, rest), figures + rest)
    count = (end - start).to(tl.float64)
    figures = put(figures, n.NUMEL, count)
    if GRADIENT is not None:
        figures = put(figures, n.GRAD_NUMEL, count)
    if n.CANONICAL & FORM:
        figures = put(figures, n.LOST_NUMEL, count)
        if SECOND is not None:
            figures = put(figures, n.SECOND_NUMEL, count)
            if n.HAS_EPS & FORM:
                figures = put(figures, n.FLOOR_NUMEL, count)
            figures *= tl.where(is_of_floor(), number(table, row, n.ADAPTIVE), 1.0)
    which = tl.arange(0, 64)
    tl.store(partials + which.to(tl.int64) * blocks + block, figures, mask=which < n.ALL_FIGURES)
    if HISTOGRAMS:
        histograms(
            counts + place * (3 * n.HISTOGRAM_WIDTH), table, rows, row, start, end, stride,
            PARAMETER, BEFORE, GRADIENT, FIRST, NUMERATOR, SECOND, CENTERING, RATE, FORM, COUNTED,
        )  # fmt: skip


@triton.jit
def is_of_floor():
    """Which figures are left out when the step did not use the denominator."""
    which = tl.arange(0, 64)
    counts = (which >= n.FLOOR_NUMEL) & (which <= n.EPS_SHARE_NUMEL)
    return counts | (which == n.EPS_SHARE)


@triton.jit(do_not_specialize=["rows", "blocks"])
def merge_blocks(table, partials, figures, rows, blocks, SIZE: tl.constexpr, EACH: tl.constexpr):
    """``EACH`` figures of a row from its blocks, always in the same order: results repeat bit for bit."""
    row, which = tl.program_id(0), tl.program_id(1) * EACH + tl.arange(0, EACH)
    facts = table + rows * (2 * n.SCALARS + n.SLOTS) + row * n.FACTS
    place, first, number_of_blocks = tl.load(facts + 2), tl.load(facts + 3), tl.load(facts + 4)
    maximal = which[:, None] + tl.zeros([EACH, SIZE], tl.int32) >= n.FIRST_MAXIMUM
    sums, tops = tl.zeros([EACH, SIZE], tl.float64), tl.zeros([EACH, SIZE], tl.float64) + float("-inf")
    begin = partials + which.to(tl.int64)[:, None] * blocks + first
    for chunk in range(0, tl.cdiv(number_of_blocks, SIZE)):
        at = chunk * SIZE + tl.arange(0, SIZE)[None, :]
        mask = (at < number_of_blocks) & (which[:, None] < n.ALL_FIGURES)
        part = tl.load(begin + at, mask=mask, other=0.0)
        sums += tl.where(maximal, 0.0, part)
        tops = tl.maximum(tops, tl.where(mask, part, float("-inf")))
    merged = tl.where(which >= n.FIRST_MAXIMUM, tl.max(tops, axis=1), tl.sum(sums, axis=1))
    tl.store(figures + place * n.ALL_FIGURES + which, merged, mask=which < n.ALL_FIGURES)
