"""Rows for the Triton engine, interpreted, and how its figures are compared; skips whoever cannot have it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version

from helpers.interpreter import shrink
from lightning_adapt.dynamics.canonical import CanonicalStep, Row
from lightning_adapt.dynamics.engines import reference
from lightning_adapt.dynamics.engines.packed import COUNTS, MAXIMA, SUMS, Packed, finalise
from lightning_adapt.dynamics.statistics import COLUMNS
from lightning_adapt.dynamics.table import RowInfo

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("there is a GPU: tests/gpu runs the compiled kernels", allow_module_level=True)
if Version(importlib.metadata.version("triton")) < Version("3.4"):
    pytest.skip("interpreters of older versions lack what the kernels use", allow_module_level=True)

from lightning_adapt.dynamics.engines import triton as engine

FIGURES = (*COUNTS, *SUMS, *MAXIMA)


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 elements, fp32 tiles of 16, float64 tiles of 32: the smallest tensors use all paths."""
    shrink(monkeypatch)
    monkeypatch.setattr(engine, "BLOCK", 64)
    monkeypatch.setattr(engine, "COUNTED_BLOCK", 64)
    monkeypatch.setattr(engine, "_plans", {})


def columns_of(packed: Packed) -> np.ndarray:
    return finalise(packed.layout.unpack(packed.buffer()))


def agree(rows: list[Row], *, rtol: float = 1e-6, **options: Any) -> Packed:
    """Counts and histograms exactly, sums and maxima within fp32."""
    ours, theirs = engine.measure(rows, **options), reference.measure(rows, **options)
    counts = len(COUNTS)
    for row, found, wanted in zip(rows, ours.figures.tolist(), theirs.figures.tolist(), strict=True):
        named = dict(zip(FIGURES, found, strict=True))
        assert named | dict(zip(COUNTS, wanted[:counts], strict=True)) == named, row.info.name
    found, wanted = columns_of(ours), columns_of(theirs)
    atol = np.where(np.array(COLUMNS) == "update_grad_cosine", 1e-6, 0.0)
    close = np.isclose(found, wanted, rtol=rtol, atol=1e-300, equal_nan=True) | (abs(found - wanted) <= atol)
    wrong = [(rows[i].info.name, COLUMNS[k], found[i, k], wanted[i, k]) for i, k in np.argwhere(~close)]
    assert not wrong
    if theirs.counts is not None:
        assert ours.counts is not None
        np.testing.assert_array_equal(ours.counts.numpy(), theirs.counts.numpy())
    return ours


def adamw_row(
    size: int | tuple[int, ...] = 150,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    state: torch.dtype | None = None,
    snapshot: bool = True,
    scale: float = 1.0,
    **step: Any,
) -> Row:
    """A row of AdamW with everything in it: untouched, underflowed, floored, subnormal and sound elements."""
    shape = (size,) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    before, gradient, m = (torch.randn(shape, generator=generator) * scale for _ in range(3))
    v = (torch.rand(shape, generator=generator) * 1e-2 + 1e-4) * scale * scale
    part = max(v.numel() // 9, 1)
    flat = [x.view(-1) for x in (gradient, m, v)]
    for x in flat:
        x[:part] = 0
    flat[2][part : 2 * part] = 0
    flat[2][2 * part : 3 * part] = 1e-24
    flat[2][3 * part : 4 * part] = 1e-40  # subnormal in fp32 and bf16
    flat[0][2 * part : 4 * part] *= 1e-9
    before, gradient, m, v = before.to(dtype), gradient.to(dtype), m.to(state or dtype), v.to(state or dtype)
    fields = {
        "lr": 0.01,
        "first_moment": m,
        "first_moment_factor": 1 / (1 - 0.9**3),
        "first_moment_correction": 1 / (1 - 0.9**3),
        "second_moment": v,
        "second_moment_correction": 1 / (1 - 0.999**3),
        "eps": 1e-8,
        "decay": 0.001,
    }
    canonical = CanonicalStep(**{**fields, **step})  # type: ignore[arg-type]
    row = Row(RowInfo(f"p{shape}", shape=shape), before, before, gradient, canonical)
    after = (before.double() + torch.from_numpy(reference.predicted_update(row))).to(dtype)
    return replace(row, parameter=after, before=before if snapshot else None)
