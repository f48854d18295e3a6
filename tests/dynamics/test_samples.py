"""Histograms of large parameters: a sample that the table tells of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_adapt.dynamics import DynamicsProbe
from lightning_adapt.dynamics.engines import cpu
from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, SAMPLED_FROM, quantile, sample_stride


def test_a_large_parameter_is_sampled_and_its_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "sample_stride", sample_stride)
    model = nn.ParameterDict({"large": torch.randn(512, 384), "small": torch.randn(100)})
    optimizer = torch.optim.AdamW(model.parameters())
    with DynamicsProbe(optimizer, model, engine="numba", strict=True) as probe:
        for parameter in model.values():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    assert probe.table is not None
    strides = {row.name: row.histogram_stride for row in probe.table.rows}
    assert strides == {"large": 11, "small": 1}
    counted = probe.table.histogram("large", "effective_lr").sum()
    assert 512 * 384 <= counted < 512 * 384 + 11
    assert probe.table["large", "numel"] == 512 * 384


SHAPES = [
    (50_000,),
    (256, 256),
    (4097, 16),
    (1 << 17,),
    (512, 384),
    (127, 4001),
    (2048, 768),
    (61, 53, 113),
    (50257, 16),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("order", ["random", "sorted", "by column", "by row"])
def test_the_rank_of_a_sampled_quantile_is_off_by_less_than_two_per_cent(
    shape: tuple[int, ...], order: str
) -> None:
    stride = sample_stride(shape)
    assert stride > 1
    generator = np.random.default_rng(0)
    rates = np.exp(generator.standard_normal(shape))
    if order == "sorted":
        rates = np.sort(rates.ravel())
    elif order == "by column":
        rates = np.broadcast_to(np.exp(generator.standard_normal(shape[-1])), shape)
    elif order == "by row":
        rates = np.broadcast_to(
            np.exp(generator.standard_normal(shape[0]))[(..., *[None] * (len(shape) - 1))], shape
        )
    everything = np.sort(rates.ravel())
    sample = np.sort(rates.ravel()[::stride])
    for q in (0.05, 0.5, 0.95):
        value = sample[int(q * len(sample))]
        low, high = (
            np.searchsorted(everything, [value], "left")[0],
            np.searchsorted(everything, [value], "right")[0],
        )
        assert low / len(everything) - 0.02 < q < high / len(everything) + 0.02


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4).map(tuple))
def test_a_sample_meets_every_column_and_is_large_enough(shape: tuple[int, ...]) -> None:
    stride, numel = sample_stride(shape), int(np.prod(shape))
    assert stride == 1 or (numel // stride >= 1 << 14 and all(size % stride for size in shape))
    assert stride == 1 or numel >= SAMPLED_FROM


def test_quantiles_of_weighted_counts_are_those_of_the_sample() -> None:
    counts = np.zeros((1, EFFECTIVE_LR.size), dtype=int)
    counts[0, 200:210] = 3
    once = quantile(counts, 0.5, EFFECTIVE_LR, [0.0], [np.inf])
    assert quantile(counts * 61, 0.5, EFFECTIVE_LR, [0.0], [np.inf]) == pytest.approx(once)
