"""One buffer: what goes in comes out, however its parts lie in memory."""

from __future__ import annotations

import pytest
import torch

from lightning_adapt.dynamics.engines.packed import FIGURES, SPARE, Packed, concatenated
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH


def _filled(rows: int, *, apart: bool, histograms: bool, dtype: torch.dtype = torch.float64) -> Packed:
    figures = torch.arange(rows * FIGURES, dtype=dtype).view(rows, FIGURES)
    counts = torch.arange(rows * len(HISTOGRAMS) * WIDTH, dtype=torch.int32).view(
        rows, len(HISTOGRAMS), WIDTH
    )
    if apart:
        return Packed.of(figures, counts if histograms else None)
    packed = Packed.room(rows, torch.device("cpu"), histograms=histograms)
    packed.figures.copy_(figures)
    if packed.counts is not None:
        packed.counts.copy_(counts)
    return packed


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("histograms", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("scalars", [0, 2, SPARE, SPARE + 1])
def test_what_goes_in_comes_out(apart: bool, histograms: bool, rows: int, scalars: int) -> None:
    _comes_out(_filled(rows, apart=apart, histograms=histograms), scalars)


@pytest.mark.parametrize("scalars", [0, 3, SPARE + 1])
def test_a_device_without_float64(scalars: int) -> None:
    _comes_out(_filled(3, apart=True, histograms=True, dtype=torch.float32), scalars)


def _comes_out(packed: Packed, scalars: int) -> None:
    packed.scalars = [torch.tensor(i + 0.5, dtype=torch.float32) for i in range(scalars)]
    found = packed.layout.unpack(packed.buffer())
    assert found.scalars[:scalars] == [i + 0.5 for i in range(scalars)]
    assert found.figures.ravel().tolist() == list(range(packed.layout.rows * FIGURES))
    assert (found.counts is None) == (packed.counts is None)
    if found.counts is not None:
        assert found.counts.ravel().tolist() == list(range(found.counts.size))


@pytest.mark.parametrize("scalars", [0, SPARE])
def test_in_one_piece_nothing_is_copied(scalars: int) -> None:
    packed = _filled(3, apart=False, histograms=True)
    packed.scalars = [torch.zeros(())] * scalars
    assert packed.buffer().data_ptr() == packed.figures.data_ptr()


def test_rows_of_several_come_one_after_the_other() -> None:
    parts = [_filled(rows, apart=True, histograms=True) for rows in (2, 0, 1)]
    parts[0].strides = [3, 5]
    whole = concatenated(parts)
    assert whole.strides == [3, 5, 1]
    assert torch.equal(whole.figures, torch.cat([part.figures for part in parts]))
