"""Every column against its formula, written out by hand in float64, and the engines against each other."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers.cases import OPTIMIZERS, Case, all_optimizers, train_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_adapt.dynamics import COLUMNS, DynamicsProbe, DynamicsTable
from lightning_adapt.dynamics.canonical import CanonicalStep, Row
from lightning_adapt.dynamics.engines import eager, find_engine, reference
from lightning_adapt.dynamics.engines.packed import finalise
from lightning_adapt.dynamics.table import RowInfo


def _values(engine: object, rows: list[Row], **options: object) -> tuple[np.ndarray, np.ndarray]:
    packed = engine(rows, **options)  # type: ignore[operator]
    measured = packed.layout.unpack(packed.buffer())
    assert measured.counts is not None
    return finalise(measured), measured.counts


def _agree(rows: list[Row], *, chunk: int) -> None:
    theirs, expected = _values(reference.measure, rows)
    for engine in (partial(eager.measure, chunk=chunk), find_engine("numba")):
        ours, counts = _values(engine, rows)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-20, equal_nan=True)
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("snapshot", [True, False], ids=["measured", "predicted"])
@all_optimizers
def test_engines_agree_with_reference(case: Case, snapshot: bool) -> None:
    for rows, _ in train_rows(case, torch.float32, steps=3, snapshot=snapshot):
        _agree(rows, chunk=8)


HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", OPTIMIZERS[:2] + OPTIMIZERS[-8:-4], ids=lambda case: case.id)
def test_engines_agree_in_half_precision(case: Case, dtype: torch.dtype) -> None:
    for rows, _ in train_rows(case, dtype, steps=3):
        _agree(rows, chunk=16)


def _adamw_row(
    before: Tensor, gradient: Tensor, m: Tensor, v: Tensor, *, t: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Row, dict[str, float]]:
    """A row of AdamW with the given state after step ``t``, and every column by its formula."""
    lr, eps, wd, beta1, beta2 = 0.01, 1e-8, 0.1, 0.9, 0.999
    eps = torch.tensor(eps, dtype=dtype).item()
    c1, c2 = 1 - beta1**t, 1 - beta2**t
    before, gradient, m, v = (x.to(dtype) for x in (before, gradient, m, v))
    b, g, m_, v_ = (x.double().numpy() for x in (before, gradient, m, v))
    denominator = np.sqrt(v_ / c2) + eps
    wanted = -lr * (m_ / c1) / denominator - lr * wd * b
    after = (before.double() + torch.from_numpy(wanted)).to(dtype)
    a = after.double().numpy()
    step = CanonicalStep(
        lr=lr,
        first_moment=m,
        first_moment_factor=1 / c1,
        first_moment_correction=1 / c1,
        second_moment=v,
        second_moment_correction=1 / c2,
        eps=eps,
        decay=lr * wd,
    )
    row = Row(RowInfo("p"), after, before, gradient, step)
    v_hat, update, rate = v_ / c2, a - b, lr / denominator
    floor = np.sqrt(v_hat) <= eps

    def rms(x: np.ndarray) -> float:
        return math.sqrt(np.mean(x[np.isfinite(x)] ** 2))

    ratio = np.where(g == 0, 0, g**2 / np.maximum(v_hat, eps**2))
    norms = np.linalg.norm(update) * np.linalg.norm(g)
    expected = {
        "numel": b.size,
        "grad_rms": rms(g),
        "grad_absmax": np.abs(g).max(),
        "grad_zero_frac": np.mean(g == 0),
        "grad_nonfinite_frac": 0.0,
        "first_moment_rms": rms(m_),
        "first_moment_absmax": np.abs(m_).max(),
        "second_moment_rms": math.sqrt(np.mean(v_hat)),
        "second_moment_absmax": v_.max(),
        "second_moment_zero_frac": np.mean(v_ == 0),
        "second_moment_subnormal_frac": np.mean((v_ > 0) & (v_ < torch.finfo(dtype).tiny)),
        "effective_lr_min": rate.min(),
        "effective_lr_max": rate.max(),
        "eps_floor_frac": np.mean(floor),
        "eps_floor_untouched_frac": np.mean((v_ == 0) & (g == 0) & (m_ == 0)),
        "eps_floor_underflow_frac": np.mean((v_ == 0) & ((g != 0) | (m_ != 0))),
        "eps_floor_small_frac": np.mean((v_ > 0) & floor),
        "eps_share_mean": np.mean(eps / denominator),
        "update_rms": rms(update),
        "update_absmax": np.abs(update).max(),
        "update_lost_frac": np.mean((a == b) & (wanted != 0)),
        "update_grad_cosine": np.sum(update * g) / norms if norms else math.nan,
        "param_rms": rms(a),
        "update_ratio": rms(update) / rms(a),
        "decay_rms": rms(lr * wd * b),
        "rms_t": math.sqrt(np.mean(ratio)),
        "snr_mean": np.mean(np.abs(m_[v_ > 0]) / c1 / np.sqrt(v_hat[v_ > 0])),
    }
    quantiles = {f"effective_lr_p{q:02d}": np.quantile(rate, q / 100) for q in (5, 50, 95)}
    return row, {**expected, **quantiles}


def _example(seed: int, size: int = 400) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """State with everything in it: rows untouched, underflowed, on the floor, subnormal, and sound."""
    generator = torch.Generator().manual_seed(seed)
    before, gradient, m = (torch.randn(size, generator=generator) for _ in range(3))
    v = torch.rand(size, generator=generator) * 1e-2 + 1e-4
    n = size // 9
    v[:n] = 0
    gradient[:n], m[:n] = 0, 0
    v[n : 2 * n] = 0
    v[2 * n : 3 * n] = 1e-24
    v[3 * n : 4 * n] = 1e-40  # subnormal in fp32 and bf16
    gradient[2 * n : 4 * n] *= 1e-12
    return before, gradient, m, v


@pytest.mark.parametrize("engine", ["eager", "numba", "reference"])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-12), (torch.bfloat16, 1e-12)], ids=str
)
def test_columns_by_hand(engine: str, dtype: torch.dtype, rtol: float) -> None:
    row, expected = _adamw_row(*_example(0), dtype=dtype)
    values, _ = _values(find_engine(engine), [row])
    found = dict(zip(COLUMNS, values[0].tolist(), strict=True))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        within = 0.26 if name in ("effective_lr_p05", "effective_lr_p50", "effective_lr_p95") else rtol
        assert found[name] == pytest.approx(value, rel=within, abs=1e-300, nan_ok=True), name


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.integers(8, 200),
    t=st.integers(1, 10_000),
    scale=st.floats(-15, 10).map(lambda e: 10.0**e),
    chunk=st.integers(1, 64),
)
def test_columns_at_any_scale(seed: int, size: int, t: int, scale: float, chunk: int) -> None:
    before, gradient, m, v = _example(seed, size)
    row, expected = _adamw_row(before, gradient * scale, m * scale, v * scale * scale, t=t)
    values, _ = _values(eager.measure, [row], chunk=chunk)
    found = dict(zip(COLUMNS, values[0].tolist(), strict=True))
    for name, value in expected.items():
        if not name.startswith("effective_lr_p"):
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-300, nan_ok=True), name
    _agree([row], chunk=chunk)


def test_nonfinite_numbers_stay_in_their_element() -> None:
    before, gradient, m, v = _example(1)
    row, _ = _adamw_row(before, gradient, m, v)
    assert row.canonical is not None
    clean, _ = _values(eager.measure, [row])
    gradient[-1], m[-1], v[-1] = torch.inf, torch.nan, torch.inf
    row.gradient, row.canonical.first_moment, row.canonical.second_moment = gradient, m, v
    row.parameter[-1] = torch.nan
    dirty, _ = _values(eager.measure, [row])
    found = dict(zip(COLUMNS, dirty[0].tolist(), strict=True))
    assert found["grad_nonfinite_frac"] == pytest.approx(1 / 400)
    for column in ("grad_rms", "first_moment_rms", "second_moment_rms", "update_rms", "param_rms", "rms_t"):
        assert np.isfinite(found[column]), column
        assert found[column] == pytest.approx(clean[0, COLUMNS.index(column)], rel=0.05), column
    _agree([row], chunk=64)


def test_fp16_epsilon_of_zero_gives_an_infinite_rate_and_names_the_cause() -> None:
    model = nn.Linear(4, 2, bias=False).half()
    model.weight.grad = torch.full_like(model.weight, 1e-3)  # (1 - beta2) g² = 1e-9: no fp16 number
    optimizer = torch.optim.AdamW(model.parameters(), eps=1e-8, foreach=False)
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        optimizer.step()
    table = probe.table
    assert table is not None
    assert table["weight", "eps_floor_underflow_frac"] == 1.0
    assert table["weight", "eps_floor_untouched_frac"] == 0.0
    assert table["weight", "effective_lr_max"] == math.inf
    assert not torch.isfinite(model.weight).any()


def test_lost_updates_in_bf16_are_seen() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(20_000).bfloat16())
    parameter.grad = torch.randn(20_000).bfloat16()
    optimizer = torch.optim.Adam([parameter], lr=1e-4)
    before = parameter.detach().clone()
    with DynamicsProbe(optimizer, [("p", parameter)], strict=True) as probe:
        optimizer.step()
    assert probe.table is not None
    assert probe.table["p", "update_lost_frac"] == (before == parameter).double().mean().item()
    assert probe.table["p", "update_lost_frac"] == pytest.approx(0.975, abs=0.01)  # as measured elsewhere


@pytest.mark.parametrize("snapshot", [True, False])
def test_channels_last_and_transposed_parameters(snapshot: bool) -> None:
    torch.manual_seed(0)

    def run(memory_format: torch.memory_format) -> DynamicsTable:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 5, 3).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        optimizer = torch.optim.AdamW(model.parameters())
        with DynamicsProbe(optimizer, model, strict=True, snapshot=snapshot) as probe:
            model(torch.ones(2, 3, 6, 6)).square().sum().backward()
            optimizer.step()
        assert probe.table is not None
        return probe.table

    plain, channels_last = run(torch.contiguous_format), run(torch.channels_last)
    np.testing.assert_allclose(plain.values, channels_last.values, rtol=1e-4)


def test_sgd_leaves_what_it_has_not_as_nan() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    row = probe.table.row("weight")  # type: ignore[union-attr]
    absent = {name for name, value in row.items() if math.isnan(value)}
    assert absent == {
        *(name for name in COLUMNS if name.startswith(("first_moment", "second_moment", "eps_"))),
        "rms_t",
        "snr_mean",
    }
    assert row["effective_lr_min"] == row["effective_lr_max"] == pytest.approx(0.1)
    assert row["update_grad_cosine"] == pytest.approx(-1.0)


def test_l2_decay_goes_through_the_denominator_and_decoupled_does_not() -> None:
    table = {}
    for cls in (torch.optim.Adam, torch.optim.AdamW):
        parameter = nn.Parameter(torch.full((4,), 2.0))
        parameter.grad = torch.full((4,), 10.0)
        optimizer = cls([parameter], lr=0.1, weight_decay=0.5)
        with DynamicsProbe(optimizer, [("p", parameter)], strict=True) as probe:
            optimizer.step()
        table[cls] = probe.table
    # First step: v_hat = g'², with g' = g + wd·θ = 11 under L2.
    assert table[torch.optim.Adam]["p", "decay_rms"] == pytest.approx(0.1 * 0.5 * 2 / 11)
    assert table[torch.optim.AdamW]["p", "decay_rms"] == pytest.approx(0.1 * 0.5 * 2)


def test_unknown_engine_lists_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"`engine` must be one of .*eager.*got 'eeger'; did you mean 'eager'"
    ):
        find_engine("eeger")


@pytest.mark.parametrize("engine", ["eager", "numba", "reference"])
def test_no_rows_and_no_histograms(engine: str) -> None:
    packed = find_engine(engine)([], histograms=True)
    assert finalise(packed.layout.unpack(packed.buffer())).shape == (0, len(COLUMNS))
    row, _ = _adamw_row(*_example(0))
    packed = find_engine(engine)([row], histograms=False)
    found = dict(zip(COLUMNS, finalise(packed.layout.unpack(packed.buffer()))[0].tolist(), strict=True))
    assert math.isnan(found["effective_lr_p50"])
    assert found["effective_lr_max"] > 0
