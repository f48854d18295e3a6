"""One buffer: what goes in comes out, however its parts lie in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_adapt.dynamics.engines.packed import FIGURES, SPARE, Layout, Packed
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH


def _filled(rows: int, *, in_one_piece: bool, counts: bool) -> Packed:
    packed = Packed.together(rows, torch.device("cpu"), counts=counts)
    packed.figures.copy_(torch.arange(rows * FIGURES).view(rows, FIGURES))
    if packed.counts is not None:
        packed.counts.copy_(torch.arange(packed.counts.numel()).view_as(packed.counts))
    if in_one_piece:
        return packed
    return Packed(packed.figures.clone(), None if packed.counts is None else packed.counts.clone())


@pytest.mark.parametrize("in_one_piece", [True, False])
@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("scalars", [0, 2, SPARE, SPARE + 1])
def test_what_goes_in_comes_out(in_one_piece: bool, counts: bool, rows: int, scalars: int) -> None:
    packed = _filled(rows, in_one_piece=in_one_piece, counts=counts)
    packed.scalars = [torch.tensor(i + 0.5, dtype=torch.float32) for i in range(scalars)]
    buffer, layout = packed.buffer(), Layout.of(packed)
    size = rows * (FIGURES * 8 + counts * len(HISTOGRAMS) * WIDTH * 4) + 8 * scalars
    spare = 8 * (SPARE - scalars) if in_one_piece and scalars <= SPARE else 0
    assert buffer.shape == (size + spare,)
    found = layout.unpack(buffer)
    assert found.scalars == [i + 0.5 for i in range(scalars)]
    figures = np.stack([*found.sums.values(), *found.maxima.values()], axis=1)
    np.testing.assert_array_equal(figures, packed.figures.numpy())
    if packed.counts is None:
        assert found.counts is None
    else:
        np.testing.assert_array_equal(found.counts, packed.counts.numpy())


def test_in_one_piece_nothing_is_copied() -> None:
    packed = _filled(3, in_one_piece=True, counts=True)
    assert packed.buffer().data_ptr() == packed.figures.data_ptr()
