"""The Triton engine, interpreted: the same figures as the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.cases import Case, all_optimizers, train_rows
from helpers.triton_rows import adamw_row, agree, columns_of, engine, small_blocks
from torch import Tensor

from lightning_adapt.dynamics import histograms
from lightning_adapt.dynamics.canonical import CanonicalStep, Row
from lightning_adapt.dynamics.engines import choose, find_engine, reference
from lightning_adapt.dynamics.engines.packed import COUNTS, SUMS
from lightning_adapt.dynamics.statistics import COLUMNS
from lightning_adapt.dynamics.table import RowInfo

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, on NaN, inf and 1 / 0


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)


snapshots = pytest.mark.parametrize("snapshot", [True, False], ids=["measured", "predicted"])


@snapshots
@all_optimizers
def test_agrees_with_reference(case: Case, snapshot: bool) -> None:
    steps = 7 if case.cls is torch.optim.RAdam else 2  # RAdam is adaptive from the sixth step on
    *_, (last, _) = train_rows(case, torch.float32, steps=steps, snapshot=snapshot)
    agree([row for row in last if row.info.name == "first.weight"])


@snapshots
@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.RAdam, torch.optim.SGD])
def test_agrees_for_all_rows_with_0_dim_empty_and_without_gradient(cls: Any, snapshot: bool) -> None:
    rows, _ = next(train_rows(Case(cls), torch.float32, steps=1, snapshot=snapshot))
    assert {row.parameter.dim() for row in rows} == {0, 1, 2}
    assert any(row.gradient is None for row in rows)
    assert any(row.parameter.numel() == 0 for row in rows)
    agree(rows)


HALF, BRAIN, WIDE = torch.float16, torch.bfloat16, torch.float64


@snapshots
@pytest.mark.parametrize("dtype", [HALF, BRAIN, WIDE], ids=str)
@pytest.mark.parametrize(
    "case", [Case(torch.optim.AdamW), Case(torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1})], ids=str
)
def test_agrees_in_other_dtypes(case: Case, dtype: torch.dtype, snapshot: bool) -> None:
    *_, (last, _) = train_rows(case, dtype, steps=3, snapshot=snapshot)
    agree(last[:2])


@snapshots
@pytest.mark.parametrize(
    ("dtype", "state"),
    [
        (torch.float32, torch.float32),
        (torch.float32, BRAIN),
        (BRAIN, torch.float32),
        (HALF, HALF),
        (BRAIN, BRAIN),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, 15, 16, 64, 65, (13, 11)], ids=str)
def test_every_cause_in_mixed_dtypes(
    size: Any, dtype: torch.dtype, state: torch.dtype, snapshot: bool
) -> None:
    agree([adamw_row(size, dtype=dtype, state=state, snapshot=snapshot)])


@pytest.mark.parametrize("scale", [1e-30, 1e-21, 1e-13, 1e10, 1e18])
@snapshots
def test_squares_outside_the_range_of_fp32(scale: float, snapshot: bool) -> None:
    row = adamw_row(scale=scale, snapshot=snapshot)
    assert row.canonical is not None
    if scale < 1:
        row.canonical.second_moment = torch.rand(150) * 1e-38
    agree([row])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("where", ["parameter", "before", "gradient", "first_moment", "second_moment"])
def test_what_is_not_finite_stays_in_its_element(where: str, bad: float) -> None:
    row = adamw_row()
    holder = row.canonical if where.endswith("moment") else row
    getattr(holder, where)[70] = bad
    agree([row])


@snapshots
def test_sums_are_fp32_where_fp32_does_and_float64_where_not(
    snapshot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the tests above test both: a sound block is trusted, and one huge number makes it doubted."""
    row = adamw_row(64, snapshot=snapshot, decay=0.0)
    assert row.canonical is not None
    assert row.canonical.second_moment is not None
    row.canonical.second_moment.clamp_(min=1e-3)
    column = (*COUNTS, *SUMS).index("param_square")
    exact = reference.measure([row]).figures[0, column].item()
    quick = agree([row]).figures[0, column].item()
    assert quick != exact
    assert quick == np.float32(quick)
    row.parameter[3] = 1e20
    sure = agree([row]).figures[0, column].item()
    assert sure == pytest.approx(1e40, rel=1e-6)


@pytest.mark.parametrize("placement", ["outside", "inside", "clamp", "root"])
@pytest.mark.parametrize("correction", [1.0, 1 / (1 - 0.999**3)], ids=["plain", "corrected"])
def test_the_floor_is_hit_to_the_last_bit(placement: str, correction: float) -> None:
    eps = torch.tensor(1e-8).item()
    limit = {"outside": eps**2 / correction, "inside": eps / correction, "root": 2 * eps}
    near = torch.tensor(limit.get(placement, limit["outside"]))
    v = (near.view(torch.int32) + torch.arange(-16, 16, dtype=torch.int32)).view(torch.float32)
    form: dict[str, Any] = (
        {"second_moment_is_root": True} if placement == "root" else {"eps_placement": placement}
    )
    row = adamw_row(32, second_moment_correction=1.0 if placement == "root" else correction, **form)
    assert row.canonical is not None
    row.canonical.second_moment, row.canonical.eps = v, eps
    packed = agree([row])
    assert 0 < packed.figures[0, COUNTS.index("floor_small")] < 32


@pytest.mark.parametrize("dtype", [torch.float32, HALF, BRAIN], ids=str)
def test_lost_is_decided_at_half_a_step_of_the_dtype(dtype: torch.dtype) -> None:
    """Updates within 2^-19 of half a unit in the last place, on both sides: fp32 alone would be wrong."""
    ulp = torch.finfo(dtype).eps
    update = 0.5 * ulp * (1 + torch.linspace(-1, 1, 64, dtype=torch.float64) * 2.0**-21)
    numerator = update.float()
    for lr in (1.0, 1.0 + 2.0**-22):
        step = CanonicalStep(lr=lr, numerator=numerator)
        row = Row(RowInfo("p"), torch.full((64,), 1.0 + ulp, dtype=dtype), None, numerator, step)
        agree([row])


def _flat(row: Row, stride: int) -> Row:
    """Every ``stride``-th element of a row."""
    step = row.canonical
    assert step is not None
    cut = {
        name: value.reshape(-1)[::stride].clone()
        for name in ("first_moment", "second_moment")
        if isinstance(value := getattr(step, name), Tensor)
    }
    parts = (row.parameter, row.before, row.gradient)
    parameter, before, gradient = (None if x is None else x.reshape(-1)[::stride].clone() for x in parts)
    assert parameter is not None
    return replace(row, parameter=parameter, before=before, gradient=gradient, canonical=replace(step, **cut))


@pytest.mark.parametrize("counted", [64, 16])
def test_large_tensors_are_counted_by_a_sample(counted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histograms, "SAMPLED_FROM", 128)
    monkeypatch.setattr(engine, "COUNTED_BLOCK", counted)
    monkeypatch.setattr(engine, "sample_stride", lambda shape: 3 if np.prod(shape) >= 128 else 1)
    rows = [adamw_row((20, 10)), adamw_row(100)]
    packed = engine.measure(rows)
    expected = [reference.measure([_flat(rows[0], 3)]).counts, reference.measure([rows[1]]).counts]
    assert packed.counts is not None
    assert expected[0] is not None
    assert expected[1] is not None
    np.testing.assert_array_equal(packed.counts[0].numpy(), 3 * expected[0][0].numpy())
    np.testing.assert_array_equal(packed.counts[1].numpy(), expected[1][0].numpy())
    wanted = reference.measure(rows).figures[:, : len(COUNTS)]
    assert torch.equal(packed.figures[:, : len(COUNTS)], wanted)  # shares count every element


def test_the_kernel_samples_as_the_histograms_say() -> None:
    shape = (1 << 9, 1 << 9)
    assert histograms.sample_stride(shape) == engine.sample_stride(shape) == 13


def test_tensors_that_are_not_contiguous_or_not_aligned() -> None:
    transposed, moved = adamw_row((12, 13)), adamw_row(150)
    assert transposed.canonical is not None
    assert moved.canonical is not None
    for row, change in ((transposed, lambda x: x.t()), (moved, _shifted)):
        row.parameter, row.gradient = change(row.parameter), change(row.gradient)
        row.before = change(row.before)
        for name in ("first_moment", "second_moment"):
            setattr(row.canonical, name, change(getattr(row.canonical, name)))
    gradient = adamw_row((12, 13))
    gradient.gradient = torch.randn(13, 12).t()  # lies in memory otherwise than the parameter
    assert moved.parameter.data_ptr() % 16
    agree([transposed, moved, gradient])


def _shifted(x: Tensor | None) -> Tensor:
    assert x is not None
    return torch.cat([x.new_zeros(1), x])[1:]


@pytest.mark.parametrize("applied", [0.0, 1.0])
@snapshots
def test_numbers_that_only_the_device_knows(snapshot: bool, applied: float) -> None:
    row = adamw_row(snapshot=snapshot)
    step = row.canonical
    assert step is not None
    plain = replace(row, applied=applied, gradient_factor=0.5)
    known = replace(
        plain,
        applied=torch.tensor(applied),
        gradient_factor=torch.tensor(0.5),
        canonical=replace(
            step,
            lr=torch.tensor(step.lr, dtype=torch.float64),
            second_moment_correction=torch.tensor(step.second_moment_correction, dtype=torch.float64),
            decay=torch.tensor([step.decay], dtype=torch.float64),
            adaptive=torch.tensor(1),
        ),
    )
    assert torch.equal(agree([known]).figures, agree([plain]).figures)


@snapshots
def test_a_step_that_did_not_use_its_denominator(snapshot: bool) -> None:
    agree([adamw_row(snapshot=snapshot, adaptive=0.0), adamw_row(snapshot=snapshot, eps=None)])


def test_rows_without_a_step_or_gradient() -> None:
    row = adamw_row()
    bare = replace(row, canonical=None)
    rows = [bare, replace(bare, before=None), replace(row, gradient=None), replace(bare, gradient=None)]
    agree(rows)


def test_no_rows_and_no_histograms() -> None:
    assert columns_of(engine.measure([])).shape == (0, len(COLUMNS))
    packed = engine.measure([adamw_row(20)], histograms=False)
    assert packed.counts is None
    assert np.isnan(columns_of(packed)[0, COLUMNS.index("effective_lr_p50")])


def test_rows_the_kernels_cannot_read_go_to_eager_and_keep_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strange = adamw_row(20)
    monkeypatch.setitem(engine.DTYPES, torch.bfloat16, None)
    monkeypatch.delitem(engine.DTYPES, torch.bfloat16)
    agree([adamw_row(20, dtype=BRAIN), strange, adamw_row(30, dtype=BRAIN), adamw_row(40)])


def test_rules_say_how_much_they_compute() -> None:
    computed = {}
    for cls in (torch.optim.AdamW, torch.optim.Rprop, torch.optim.RMSprop):
        rows, _ = next(train_rows(Case(cls), torch.float32, steps=1))
        computed[cls] = {row.info.name: row.temporary for row in rows}["first.weight"]
    assert computed == {torch.optim.AdamW: 0, torch.optim.Rprop: 35 * 4, torch.optim.RMSprop: 0}


def test_results_repeat_bit_for_bit() -> None:
    rows = [adamw_row(150, seed=seed) for seed in range(2)]
    one, other = engine.measure(rows), engine.measure(rows)
    assert torch.equal(one.figures, other.figures)
    assert one.counts is not None
    assert other.counts is not None
    assert torch.equal(one.counts, other.counts)


def test_it_changes_nothing() -> None:
    row = adamw_row()
    step = row.canonical
    assert step is not None
    tensors = [row.parameter, row.before, row.gradient, step.first_moment, step.second_moment]
    kept = [x.clone() for x in tensors if x is not None]
    engine.measure([row])
    assert all(torch.equal(a, b) for a, b in zip(kept, [x for x in tensors if x is not None], strict=True))


def test_auto_takes_it_on_cuda_where_triton_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(torch.device("cuda", 0))[0] == "triton"
    monkeypatch.setattr("lightning_adapt.dynamics.engines.find_spec", lambda name: None)
    assert choose(torch.device("cuda", 0))[0] == "eager"
    with pytest.raises(ValueError, match="pip install triton"):
        find_engine("triton")
