from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lightning_adapt.views.report.numbers import EXACT, ROUNDED, decode, encode

FLOATS = npst.arrays(
    np.float32, npst.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(width=32)
)


@given(FLOATS)
def test_all_bits_come_back(values: npt.NDArray[np.float32]):
    back = decode(encode(values), values.shape)
    np.testing.assert_array_equal(back.view(np.uint32), values.view(np.uint32))


@given(FLOATS, st.integers(1, EXACT - 1))
def test_rounding_is_to_the_nearest_and_keeps_what_is_special(values: npt.NDArray[np.float32], mantissa: int):
    back = decode(encode(values, mantissa), values.shape, mantissa)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    np.testing.assert_array_equal(np.isinf(back), np.isinf(values))
    finite = np.isfinite(values)
    assert (np.signbit(back[finite]) == np.signbit(values[finite])).all()
    exact, found = values[finite].astype(np.float64), back[finite].astype(np.float64)
    spacing = 2.0**-mantissa * np.maximum(np.abs(exact), 2.0**-126)
    # Half a step, or a whole one where the next number would be inf.
    room = np.where(np.abs(exact) > 3.3e38, spacing, spacing / 2)
    assert (np.abs(found - exact) <= room).all()
    assert (found[exact == 0] == 0).all()


def test_what_changes_slowly_takes_little_room():
    generator = np.random.default_rng(0)
    walk = np.exp(np.cumsum(generator.normal(0, 1e-3, (1000, 50)), axis=0)).astype(np.float32)
    assert len(encode(walk, ROUNDED)) < walk.size * 1.2
    assert len(encode(np.full((1000, 50), np.nan, np.float32))) < 1000


@pytest.mark.parametrize("shape", [(1, 1), (3, 0), (1, 7)])
def test_small_and_empty(shape: tuple[int, int]):
    values = np.ones(shape, dtype=np.float32)
    np.testing.assert_array_equal(decode(encode(values), shape), values)
