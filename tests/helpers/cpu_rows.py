"""Rows for the compiled engine of the host, and how its figures are compared."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep, Row
from lightning_adapt.dynamics.engines.packed import COUNTS, MAXIMA, SUMS, Packed
from lightning_adapt.dynamics.table import RowInfo

SIZE = 5 * 1024 + 77  # blocks that are full, and one that is not
STRIDE = 3


def figures_of(packed: Packed) -> dict[str, np.ndarray]:
    return dict(zip((*COUNTS, *SUMS, *MAXIMA), packed.figures.numpy().T, strict=True))


def assert_close(ours: Packed, theirs: Packed, rtol: float) -> None:
    found, expected = figures_of(ours), figures_of(theirs)
    for name in COUNTS:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for name in MAXIMA:
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, err_msg=name)
    for name in SUMS:
        # A dot product may cancel: what counts is its error beside the norms.
        norms = np.sqrt(expected["update_square"] * expected["grad_square"])
        atol = rtol * norms if name == "update_dot_grad" else 0
        apart = np.abs(found[name] - expected[name])
        assert (apart <= rtol * np.abs(expected[name]) + atol + 1e-300).all(), (name, apart, expected[name])


def adamw_row(p: Tensor, g: Tensor, m: Tensor, v: Tensor, *, eps: float = 1e-8, decay: float = 1e-4) -> Row:
    step = CanonicalStep(
        lr=1e-3,
        first_moment=m,
        first_moment_factor=1.5,
        first_moment_correction=1.5,
        second_moment=v,
        second_moment_correction=1.25,
        eps=eps,
        decay=decay,
    )
    return Row(RowInfo("p"), p, None, g, step)


def ordinary(size: int = SIZE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    p, g, m, v = (torch.randn(size, generator=generator) for _ in range(4))
    return p, g * 1e-3, m * 1e-3, v.square() * 1e-6
