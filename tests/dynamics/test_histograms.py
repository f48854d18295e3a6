"""Fixed bins: edges, bit-pattern indices, quantiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_adapt.dynamics.engines.eager import bin_index
from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, HISTOGRAMS, Bins, quantile


@pytest.mark.parametrize("bins", HISTOGRAMS, ids=lambda bins: bins.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bit_pattern_index_is_the_index_between_edges(bins: Bins, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    edges = bins.edges[(bins.edges > info.tiny) & (bins.edges < info.max)]
    x = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf), [0.0, np.inf]])
    x = torch.from_numpy(x).to(dtype)
    expected = np.searchsorted(bins.edges, x.double().numpy(), side="right")
    np.testing.assert_array_equal(bin_index(x, bins).numpy(), expected)


def test_nan_has_no_bin() -> None:
    assert bin_index(torch.tensor([torch.nan]), EFFECTIVE_LR).tolist() == [EFFECTIVE_LR.size]


@settings(max_examples=100, deadline=None)
@given(
    x=st.lists(st.floats(1e-18, 1e18), min_size=1, max_size=200),
    q=st.floats(0, 1),
)
def test_quantile_is_exact_to_a_bin(x: list[float], q: float) -> None:
    data = np.array(x)
    counts = np.bincount(np.searchsorted(EFFECTIVE_LR.edges, data, side="right"), minlength=EFFECTIVE_LR.size)
    found = quantile(counts[None], q, EFFECTIVE_LR, [data.min()], [data.max()])[0]
    # The q quantile of n numbers is any between two neighbours in rank.
    low, high = np.quantile(data, q, method="lower"), np.quantile(data, q, method="higher")
    below, above = np.quantile(data, max(q - 1 / len(data), 0), method="lower"), high
    assert min(low, below) / 1.2501 <= found <= above * 1.2501


def test_counts_of_parts_add_up_to_the_counts_of_the_whole() -> None:
    x = torch.rand(1000).exp()
    whole = torch.bincount(bin_index(x, EFFECTIVE_LR), minlength=EFFECTIVE_LR.size)
    parts = sum(torch.bincount(bin_index(p, EFFECTIVE_LR), minlength=EFFECTIVE_LR.size) for p in x.split(77))
    assert torch.equal(whole, parts)  # type: ignore[arg-type]


def test_quantile_of_open_bins_is_the_extreme() -> None:
    counts = np.zeros((2, EFFECTIVE_LR.size), dtype=int)
    counts[0, 0], counts[1, -1] = 5, 5
    assert quantile(counts, 0.5, EFFECTIVE_LR, [0.0, 1e30], [0.0, np.inf]).tolist() == [0.0, np.inf]
    assert np.isnan(quantile(np.zeros((1, EFFECTIVE_LR.size)), 0.5, EFFECTIVE_LR, [0.0], [0.0])[0])


def test_a_row_s_quantiles_are_its_own() -> None:
    counts = np.zeros((2, EFFECTIVE_LR.size), dtype=int)
    counts[0, 300], counts[1, 100] = 10, 10
    ends = np.array([1e-9, 1e-12]), np.array([1e6, 1e-6])
    for q in (0.0, 0.3, 1.0):
        both = quantile(counts, q, EFFECTIVE_LR, *ends)
        for row in range(2):
            alone = quantile(counts[row : row + 1], q, EFFECTIVE_LR, *(end[row : row + 1] for end in ends))
            assert both[row] == alone[0]
    assert quantile(counts, 0.0, EFFECTIVE_LR, *ends).tolist() == [1e-9, 1e-12]
