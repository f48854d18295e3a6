"""Packed counts lose nothing, whatever they are, and damage is told."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH
from lightning_adapt.views.packed_counts import pack, unpack, unpack_row


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 4),
    filled=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, WIDTH - 1), st.integers(1, 2**31 - 1))
    ),
)
def test_packing_loses_nothing(rows: int, filled: list[tuple[int, int, int, int]]) -> None:
    counts = np.zeros((rows, len(HISTOGRAMS), WIDTH), dtype=np.int32)
    for row, which, index, value in filled:
        if row < rows:
            counts[row, which, index] = value
    packed = pack(counts)
    np.testing.assert_array_equal(unpack(packed, rows), counts)
    for row in range(rows):
        np.testing.assert_array_equal(unpack_row(packed, rows, row), counts[row])


def test_empty_bins_cost_next_to_nothing() -> None:
    counts = np.zeros((128, len(HISTOGRAMS), WIDTH), dtype=np.int32)
    counts[:, :, 200:220] = 3
    assert pack(counts).nbytes < counts.nbytes / 500


@pytest.mark.parametrize(
    ("packed", "sentence"),
    [
        (b"no zlib at all", "cannot be unpacked"),
        (zlib.compress(b""), "do not fit their 2"),
        (zlib.compress(bytes(24) + b"1234"), "do not fit their 2"),
        (zlib.compress(np.array([-1] * 6 + [0] * 6, "<i2").tobytes()), "outside of their"),
        (zlib.compress(np.array([WIDTH] * 6 + [1] + [0] * 5, "<i2").tobytes() + b"1234"), "outside of their"),
    ],
)
def test_damage_is_told(packed: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        unpack(np.frombuffer(packed, dtype=np.uint8), 2)
