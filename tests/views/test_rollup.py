"""Roll-ups equal figures of the whole; the terminal page and the text page say what matters."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from lightning_adapt.dynamics import COLUMNS, DynamicsProbe, DynamicsTable, RowInfo
from lightning_adapt.views import print_worst, summarise
from lightning_adapt.views.rollup import floor_cause, worst, worst_rows
from lightning_adapt.views.scalars import GROUP_COLUMNS, WORST_COLUMNS, ScalarPlan, key
from lightning_adapt.views.tensorboard import log10_histogram, worst_markdown


def _read(parts: list[torch.Tensor], gradients: list[torch.Tensor]) -> DynamicsTable:
    parameters = [nn.Parameter(part.clone()) for part in parts]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)
    names = [(f"part_{i}", parameter) for i, parameter in enumerate(parameters)]
    with DynamicsProbe(optimizer, names, strict=True) as probe:
        optimizer.step()
    assert probe.table is not None
    return probe.table


def test_parts_roll_up_to_the_whole() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(10), torch.randn(300) * 5, torch.randn(7) * 0.1]
    gradients = [torch.randn(10), torch.randn(300) * 1e-6, torch.zeros(7)]
    whole = _read([torch.cat(parts)], [torch.cat(gradients)])
    rolled = summarise(_read(parts, gradients))
    for column in COLUMNS:
        assert rolled[column] == pytest.approx(whole["part_0", column], rel=1e-9, nan_ok=True), column


def test_rolling_up_some_rows() -> None:
    table = _read([torch.ones(4), torch.ones(4)], [torch.ones(4), torch.full((4,), 3.0)])
    assert summarise(table, np.array([False, True]))["grad_rms"] == pytest.approx(3.0)
    assert np.isnan(summarise(table, np.array([False, False]))["grad_rms"])


def _table(**columns: list[float]) -> DynamicsTable:
    rows = len(next(iter(columns.values())))
    values = np.full((rows, len(COLUMNS)), np.nan)
    values[:, COLUMNS.index("numel")] = 10
    for name, figures in columns.items():
        values[:, COLUMNS.index(name)] = figures
    return DynamicsTable(tuple(RowInfo(f"p{i}", "g", (10,), "float32") for i in range(rows)), values, step=1)


def test_a_cosine_weighs_the_finite_gradients() -> None:
    table = _table(
        update_rms=[1.0, 1.0],
        grad_rms=[1.0, 1.0],
        update_grad_cosine=[-1.0, 0.0],
        grad_nonfinite_frac=[0.5, 0.0],
    )
    # Squared norms of updates 10 and 10, of gradients 5 and 10; dot products -sqrt(10 * 5) and 0.
    assert summarise(table)["update_grad_cosine"] == pytest.approx(-np.sqrt(10 * 5) / np.sqrt(20 * 15))


def test_worst_rows_come_first() -> None:
    table = _table(
        eps_floor_frac=[0.0, 0.5, 0.0, 0.0],
        update_ratio=[1e-3, 1e-3, 1.0, 1e-4],
        grad_nonfinite_frac=[0, 0, 0, 0.9],
    )
    assert list(worst_rows(table, 4)) == [3, 1, 2, 0]
    assert worst(table, ["update_ratio", "eps_floor_frac"], 2).tolist() == [[1.0, 0.5], [1e-3, 0.0]]
    few = worst(_table(update_ratio=[np.nan, 0.2, np.inf, -1.0]), ["update_ratio"], 3)
    np.testing.assert_array_equal(few, [[0.2], [-1.0], [np.nan]])


def test_cause_in_words() -> None:
    table = _table(
        eps_floor_untouched_frac=[0.2, 0.0],
        eps_floor_underflow_frac=[0.3, 0.0],
        eps_floor_small_frac=[0.0, 0.0],
    )
    assert floor_cause(table, 0) == "underflow, untouched"
    assert floor_cause(table, 1) == ""


def _printed(table: DynamicsTable, width: int = 80, most: int = 12) -> str:
    out = io.StringIO()
    print_worst([table], most=most, console=Console(file=out, width=width))
    return out.getvalue()


def test_terminal_page() -> None:
    parts = [torch.ones(6), torch.ones(3, dtype=torch.bfloat16)]
    gradients = [torch.tensor([1.0, 1.0, 1.0, 1.0, 1e-12, 1e-12]), torch.zeros(3, dtype=torch.bfloat16)]
    table = _read(parts, gradients)
    page = _printed(table)
    lines = page.splitlines()
    assert lines[0].startswith("AdamW at step 1, lr 0.01")
    assert max(map(len, lines)) <= 80
    first, second = (next(line for line in lines if name in line) for name in ("part_1", "part_0"))
    assert page.index("part_1") < page.index("part_0")
    assert "100.0 %" in first
    assert "untouched" in first
    assert "bf16" in first
    assert "33.3 %" in second
    assert "small" in second
    assert "small: On the floor because 0 < sqrt(v_hat) <= eps" in page
    assert "1 of 2 parameters, worst first" in _printed(table, most=1)


def test_names_are_shown_as_text() -> None:
    name = "[bold]x[/bold]\x1b[31m|`<script>"
    table = DynamicsTable(
        (RowInfo(name),), np.full((1, len(COLUMNS)), 0.5), step=1, skipped=True, loss_scale=2.0
    )
    page = _printed(table, width=200)
    assert "[bold]x[/bold]\\x1b[31m|`<script>" in page
    assert "\x1b" not in page
    assert "this step was skipped" in page
    assert "loss scale 2" in page
    assert worst_markdown(table, 1).splitlines()[-1].startswith("| `[bold]x[/bold]\\x1b[31m\\|'<script>` |")


def test_most_must_be_positive() -> None:
    with pytest.raises(ValueError, match="`most` must be a positive number of rows, got 0"):
        print_worst([], most=0)


def test_log10_histogram_reads_right() -> None:
    torch.manual_seed(0)
    table = _read([torch.ones(1000)], [torch.randn(1000).mul(2.0).exp()])
    from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, SECOND_MOMENT

    histogram = log10_histogram(table, EFFECTIVE_LR)
    assert histogram is not None
    assert histogram["num"] == 1000
    assert len(histogram["bucket_limits"]) == len(histogram["bucket_counts"])
    assert sum(histogram["bucket_counts"]) == 1000
    low, high = np.log10(table["part_0", "effective_lr_min"]), np.log10(table["part_0", "effective_lr_max"])
    assert histogram["min"] <= low < histogram["min"] + 0.1
    assert histogram["max"] - 0.1 < high <= histogram["max"]
    assert histogram["sum"] / 1000 == pytest.approx(np.log10(table["part_0", "effective_lr_p50"]), abs=0.1)
    assert log10_histogram(_table(update_ratio=[1.0]), SECOND_MOMENT) is None
    empty = _read([torch.ones(2)], [torch.zeros(2)])
    assert log10_histogram(empty, SECOND_MOMENT) is None


def test_scalar_plan_keeps_to_its_budget_and_its_keys() -> None:
    table = _read([torch.ones(4)], [torch.ones(4)])
    for max_tags in (1, 5, 10, 26, 31, 40, 100):
        plan = ScalarPlan.of(table, prefix="dynamics", worst=3, max_tags=max_tags)
        scalars = plan.scalars(table)
        assert 1 <= len(scalars) <= max_tags
        assert scalars.keys() == plan.scalars(_read([torch.ones(4)], [torch.zeros(4)])).keys()
    assert key("dynamics", "worst", "x") == "dynamics/worst/x"
    assert set(GROUP_COLUMNS) <= set(COLUMNS)
    assert set(WORST_COLUMNS) <= set(COLUMNS)
    assert ScalarPlan("dynamics").margins() == {}


def test_the_title_shows_the_range_of_learning_rates() -> None:
    values = np.full((1, len(COLUMNS)), 0.5)
    rates = {"a": 1e-3, "b": 1e-2, "c": 2e-5}
    table = DynamicsTable((RowInfo("p"),), values, step=1, learning_rates=rates, optimizer="Adam")
    assert _printed(table).splitlines()[0].strip() == "Adam at step 1, lr 2e-05 … 0.01"


def test_without_histograms_no_quantiles_are_promised() -> None:
    values = np.full((1, len(COLUMNS)), 0.5)
    plan = ScalarPlan.of(DynamicsTable((RowInfo("p"),), values, step=1), prefix="d", worst=3, max_tags=100)
    assert not any("_p50" in column for column in plan.overall)
    assert plan.margins() == {}
