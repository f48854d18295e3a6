"""The wire format: what goes in comes out, aligned and little-endian."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lightning_adapt.views.tab import wire

arrays = st.dictionaries(
    st.text(max_size=9),
    st.sampled_from(["<f4", ">f4", "<f8", "<i4"]).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(max_dims=3, min_side=0, max_side=5))
    ),
    max_size=4,
)
meta = st.dictionaries(st.text(max_size=9), st.integers() | st.text() | st.none() | st.booleans(), max_size=4)


@given(meta=meta, arrays=arrays)
def test_arrays_come_back(meta, arrays):
    body = wire.pack(meta, arrays)
    again, found = wire.unpack(body)
    assert again == meta
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype.str in ("<f4", "<f8", "<i4")


def test_arrays_lie_where_a_browser_can_view_them():
    body = wire.pack({"a": 1}, {"odd": np.zeros(3, "<f4"), "next": np.ones(2, "<f8")})
    length = int.from_bytes(body[:4], "little")
    assert (4 + length) % 8 == 0
    json.loads(body[4 : 4 + length])
    assert np.frombuffer(body, "<f8", 2, 4 + length + 16).tolist() == [1.0, 1.0]


def test_what_a_browser_cannot_view_is_refused():
    with pytest.raises(ValueError, match="`x` must be of one of <f4, <f8, <i4, got"):
        wire.pack({}, {"x": np.zeros(1, np.int64)})
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire.pack({"x": float("nan")}, {})
