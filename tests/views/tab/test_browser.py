"""The tab in a real browser, on TensorBoard as users start it, with both of its loaders: what is drawn."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import shot
from helpers.tab import GRID, MARKS, Tab, numbers, read

from lightning_adapt.dynamics import COLUMNS, DynamicsHistory
from lightning_adapt.views.reader import read_dynamics

pytestmark = pytest.mark.browser


def test_the_overview_draws_what_read_dynamics_reads(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam", stat="grad_rms")
    tab.button("Open all")
    assert tab.page.locator("text=Optimizer dynamics").count() >= 1
    assert tab.texts(".label .name") == ["▾ body (2)", "weight", "bias", "▾ head (2)", "weight", "bias"]
    (heat,) = tab.chart(GRID)
    assert heat["x"] == list(adam.steps)
    drawn = 10 ** numbers(heat["z"])
    expected = read(adam, "grad_rms").T
    for line, rows in enumerate([[0, 1], [0], [1], [2, 3], [2], [3]]):
        with np.errstate(invalid="ignore"):
            wanted = np.fmax.reduce(expected[rows], axis=0)
        np.testing.assert_allclose(drawn[line], wanted, rtol=1e-5, equal_nan=True)
    shot(tab.page, "overview")


def test_another_statistic_is_drawn_on_its_own_scale(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam").choose("Statistic", "eps_floor_frac")
    assert "stat=eps_floor_frac" in tab.state
    assert "Share of elements with sqrt(v_hat) <= eps" in tab.text(".about")
    assert tab.frame.get_by_label("Scale", exact=True).input_value() == "linear"
    tab.button("Open all")
    (heat,) = tab.chart(GRID)
    np.testing.assert_allclose(numbers(heat["z"])[1], read(adam, "eps_floor_frac")[:, 0], equal_nan=True)
    tab.choose("Scale", "log")
    assert "scale=log" in tab.state


def test_loss_rates_and_skipped_steps_stand_above(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam")
    traces = {trace["name"]: trace for trace in tab.chart(MARKS)}
    assert traces["loss"]["x"] == list(range(16))
    (rate,) = (trace for name, trace in traces.items() if name.startswith("lr "))
    np.testing.assert_allclose(rate["y"], [0.01] * len(adam))
    skipped = [table.step for table in adam if table.skipped]
    assert skipped
    assert traces["skipped step"]["x"] == skipped
    assert f"{len(skipped)} skipped step" in tab.text(".marks-side")


def test_a_click_on_a_line_opens_the_parameter(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam").button("Open all")
    tab.click(".label >> text=weight >> nth=1")
    assert "view=parameter" in tab.state
    assert tab.text("h2") == "head.weight"
    fan = {trace["name"]: trace for trace in tab.chart("[data-chart=fan] .plot")}
    for label, name in {
        "p50": "effective_lr_p50",
        "p05 to p95": "effective_lr_p95",
        "min": "effective_lr_min",
    }.items():
        drawn = numbers([fan[label]["y"]])[0]
        np.testing.assert_allclose(drawn, read(adam, name)[:, 2], rtol=1e-6, equal_nan=True)
    shot(tab.page, "parameter")


def test_histograms_have_the_counts_and_a_log_axis_and_the_floor(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam", view="parameter", param="head.weight")
    traces = tab.chart("[data-chart=second_moment] .plot")
    heat = next(trace for trace in traces if trace["type"] == "heatmap")
    counts = np.array(
        [table.histogram("head.weight", "second_moment") for table in adam if not table.skipped]
    )
    shares = counts / counts.sum(axis=1, keepdims=True)
    drawn = np.nan_to_num(10 ** numbers(heat["z"]))
    assert len(heat["y"]) == len(heat["z"]) + 1
    kept = [at for at, table in enumerate(adam) if not table.skipped]
    occupied = np.flatnonzero(counts[:, 1:-1].any(axis=0))
    np.testing.assert_allclose(
        drawn[:, kept], shares[:, 1 + occupied[0] : 2 + occupied[-1]].T, rtol=1e-6, atol=1e-12
    )
    axis = "e => [e._fullLayout.yaxis.type, ...e._fullLayout.yaxis.range]"
    kind, low, high = tab.frame.eval_on_selector("[data-chart=second_moment] .plot", axis)
    assert kind == "log"
    assert low < np.log10(heat["y"][0]) + 0.5
    assert high > np.log10(heat["y"][-1]) - 0.5
    floor = next(trace for trace in traces if trace["name"].startswith("eps"))
    assert set(floor["y"]) == {1e-4}


def test_causes_of_the_floor_add_up(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam", view="parameter", param="body.bias")
    causes = tab.chart("[data-chart=floor] .plot")
    total = np.sum([numbers([trace["y"]])[0] for trace in causes], axis=0)
    np.testing.assert_allclose(total, read(adam, "eps_floor_frac")[:, 1], atol=1e-6, equal_nan=True)
    facts = dict(zip(tab.texts(".facts tbody th"), tab.texts(".facts tbody .number"), strict=True))
    assert tuple(facts) == COLUMNS
    for name, text in facts.items():
        value = adam[-1]["body.bias", name]
        assert (np.isnan(value) and text == "–") or np.float32(text) == np.float32(value)


def test_a_click_on_a_cell_opens_its_parameter_at_its_step(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam").button("Open all")
    tab.at(GRID, x=9, row=2)
    assert "param=body.bias" in tab.state
    assert "step=9" in tab.state
    assert "at step 9" in tab.text(".facts")
    tab.page.go_back()
    tab.settled()
    assert tab.frame.locator(".grid").count() == 1


def test_shift_click_and_the_chart_above_open_the_step(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam").at(GRID, x=3, row=0, modifiers=["Shift"])
    assert "view=step" in tab.state
    assert "step=3" in tab.state
    tab.button("Overview").at(MARKS, x=11)
    assert "view=step" in tab.state
    assert "step=11" in tab.state


def test_one_step_shows_exact_values(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam", view="step", step="9")
    at_nine = next(each for each in adam if each.step == 9)
    assert tab.texts(".figures tbody th") == list(at_nine.names)
    cells = np.array(tab.texts(".figures td")).reshape(len(at_nine.names), len(COLUMNS))
    for row, name in enumerate(at_nine.names):
        for column, statistic in enumerate(COLUMNS):
            value, text = at_nine[name, statistic], cells[row, column]
            assert (text == "–" and np.isnan(value)) or np.float32(text) == np.float32(value)
    shot(tab.page, "step")


def test_one_step_is_sorted_by_any_column(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam", view="step", step="9")
    at_nine = next(each for each in adam if each.step == 9)
    tab.click("[data-by=grad_rms]")
    order = [at_nine.names[i] for i in np.argsort(-at_nine["grad_rms"], kind="stable")]
    assert tab.texts(".figures tbody th") == order
    assert tab.frame.locator("th[aria-sort=descending]").count() == 1
    tab.click("[data-by=grad_rms]")
    assert tab.texts(".figures tbody th") == order[::-1]
    tab.click("[data-by=name]")
    assert tab.texts(".figures tbody th") == sorted(at_nine.names, reverse=True)


def test_one_step_as_csv(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam", view="step", step="9").button("Copy as CSV")
    tab.frame.wait_for_selector("text=4 rows copied")
    rows = list(csv.DictReader(io.StringIO(tab.page.evaluate("navigator.clipboard.readText()"))))
    at_nine = next(each for each in adam if each.step == 9)
    assert [row["parameter"] for row in rows] == list(at_nine.names)
    for row in rows:
        for statistic in COLUMNS:
            np.testing.assert_equal(
                np.float32(row[statistic]), np.float32(at_nine[row["parameter"], statistic])
            )


def test_runs_are_compared_by_name_and_step(tab: Tab, adam: DynamicsHistory, logs: Path):
    tab.open(view="compare", stat="update_rms", runs='[["adagrad","Adagrad"],["adam","Adam"]]')
    first, second, apart = tab.chart(GRID)
    other = read(read_dynamics(logs / "adagrad"), "update_rms").T
    mine = read(adam, "update_rms").T
    np.testing.assert_allclose(10 ** numbers(first["z"]), other, rtol=1e-5)
    moved = mine > 0  # at the skipped step nothing moved: the lowest colour, and no ratio
    assert not moved.all()
    drawn = numbers(second["z"])
    np.testing.assert_allclose(10 ** drawn[moved], mine[moved], rtol=1e-5)
    assert (drawn[~moved] == drawn.min()).all()
    ratios = numbers(apart["z"])
    np.testing.assert_allclose(10 ** ratios[moved], (mine / other)[moved], rtol=1e-4)
    largest = np.abs(np.log10(np.where(moved, mine / other, 1))).max(axis=1)
    tab.choose("Order", "worst")
    names = [adam[0].names[row] for row in np.argsort(-largest)]
    assert tab.texts(".label .name") == names
    shot(tab.page, "compare")
    tab.frame.get_by_label("adagrad", exact=True).uncheck()
    tab.settled()
    assert len(tab.chart(GRID)) == 1
