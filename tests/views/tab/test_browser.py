"""The tab in a real browser, on TensorBoard as users start it, with both of its loaders."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.board import board
from helpers.browser import shot
from helpers.tab import HOSTILE, Tab
from helpers.tables import table
from torch.utils.tensorboard import SummaryWriter

from lightning_adapt.dynamics import COLUMNS, DynamicsHistory
from lightning_adapt.views.event_file import to_summary
from lightning_adapt.views.reader import read_dynamics

pytestmark = pytest.mark.browser
GRID, MARKS = ".grid .plot", ".marks .plot"


def f32(values: Any) -> Any:
    return np.asarray(values, dtype=np.float32)


def numbers(values: Any) -> Any:
    """What a chart holds: null is NaN, inf is text."""
    return np.array([[np.nan if v is None else float(v) for v in row] for row in values])


@pytest.fixture(scope="module")
def adam(logs: Path) -> DynamicsHistory:
    return read_dynamics(logs / "adam")


def read(history: DynamicsHistory, statistic: str) -> Any:
    return f32([table[statistic] for table in history])


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
    assert f"{len(skipped)} skipped steps" in tab.text(".marks-side")


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
    tab.frame.get_by_label("adagrad").uncheck()
    tab.settled()
    assert len(tab.chart(GRID)) == 1


def test_search_and_worst_first(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam", stat="eps_floor_frac")
    tab.frame.get_by_label("Search").fill("HEAD bi")
    tab.settled()
    assert tab.texts(".label .name") == ["head.bias"]
    tab.frame.get_by_label("Search").fill("nothing of the kind")
    tab.settled()
    assert tab.frame.is_visible("text=No parameter's name holds all of these words.")
    tab.frame.get_by_label("Search").fill("")
    tab.settled().choose("Order", "worst")
    largest = np.nanmax(read(adam, "eps_floor_frac"), axis=0)
    assert tab.texts(".label .name") == [adam[0].names[i] for i in np.argsort(-largest, kind="stable")]


def test_the_address_holds_the_view(tab: Tab):
    tab.open(run="adam").choose("Statistic", "update_ratio")
    tab.choose("Order", "worst")
    names = tab.texts(".label .name")
    tab.page.reload()
    tab.arrived()
    assert tab.frame.get_by_label("Statistic", exact=True).input_value() == "update_ratio"
    assert tab.texts(".label .name") == names
    tab.page.evaluate("location.hash = location.hash.replace('update_ratio', 'param_rms')")
    tab.frame.wait_for_selector(".about >> text=Root mean square of the parameter")


@pytest.mark.parametrize(
    "state", [{"run": "no such", "stat": "none", "param": "%", "step": "x", "range": "b,a"}]
)
@pytest.mark.parametrize("view", ["overview", "parameter", "step", "compare", "nothing"])
def test_an_address_that_makes_no_sense_shows_what_there_is(tab: Tab, view: str, state: Any):
    tab.open(view=view, toggled="{", runs="[1,[2]]", **state)
    assert tab.texts(".messages p") == []
    assert tab.frame.locator(".js-plotly-plot, .figures").count() > 0


def test_modules_open_and_close_by_keyboard(tab: Tab):
    tab.open(run="adam")
    tree = tab.frame.get_by_role("tree")
    tree.locator("[tabindex='0']").focus()
    tab.page.keyboard.press("ArrowLeft")
    tab.settled()
    assert tab.texts(".label .name")[:2] == ["▸ body (2)", "▾ head (2)"]
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        tab.page.keyboard.press(key)
        tab.settled()
    assert "param=head.weight" in tab.state


def test_names_are_text_whatever_they_hold(tab: Tab):
    tab.open(run="hostile", sort="worst")
    drawn = "".join(tab.texts(".label .name"))
    assert "<script>window.pwned = 1</script>" in drawn
    assert "line␊break␉tab⟨202e⟩right" in drawn
    for name in HOSTILE:
        tab.open(run="hostile", view="parameter", param=name)
        assert tab.text("h2").startswith(name.partition("\n")[0][:500])
    tab.button("One step")
    assert len(tab.texts(".figures tbody th")) == len(HOSTILE)
    tab.button("Copy as CSV")
    tab.frame.wait_for_selector(f"text={len(HOSTILE)} rows copied")
    rows = list(csv.reader(io.StringIO(tab.page.evaluate("navigator.clipboard.readText()"), newline="")))
    assert [row[0] for row in rows[1:]] == HOSTILE
    tab.open(view="compare", runs='[["hostile","AdamW"],["one","AdamW"]]')
    assert tab.frame.evaluate("typeof window.pwned") == "undefined"
    assert tab.frame.locator("body img, main script").count() == 0


def test_nan_inf_and_zero_are_drawn_as_such(tab: Tab):
    tab.open(run="odd", stat="grad_rms")
    assert tab.texts(".label .note") == ["–", "inf", "0"]
    heat = numbers(tab.chart(GRID)[0]["z"])
    assert np.isnan(heat[0, 1])
    assert heat[1, 1] == heat[1:].max()
    assert heat[2, 1] == heat[1:].min()
    tab.open(run="odd", view="parameter", param="inf", step="2")
    assert "inf" in tab.texts(".facts .number")


def test_one_parameter_and_one_step(tab: Tab):
    tab.open(run="one")
    assert tab.texts(".label .name") == ["w"]
    assert np.array(tab.chart(GRID)[0]["z"]).shape == (1, 1)
    tab.button("One parameter").button("One step")
    assert tab.texts(".messages p") == []


def test_ten_thousand_parameters(tab: Tab):
    tab.open(run="wide")
    assert len(tab.texts(".label")) < 60
    tab.button("Open all")
    assert len(tab.texts(".label")) < 60
    tab.frame.eval_on_selector(".grid", "e => e.scrollTo(0, 1e9)")
    tab.frame.wait_for_selector(".label >> text=p9999")
    tab.frame.get_by_label("All lines at once").check()
    tab.settled()
    assert sum(1 for _ in tab.chart(GRID)[0]["z"]) < 600
    tab.button("One step")
    assert len(tab.texts(".figures tbody tr")) == 200


def test_dark_and_light(tab: Tab):
    tab.open("?darkMode=true", run="adam")
    assert tab.frame.get_attribute("html", "data-theme") == "dark"
    colour = "() => getComputedStyle(document.body).backgroundColor"
    dark = tab.frame.evaluate(colour)
    shot(tab.page, "dark")
    tab.open("?darkMode=false", run="adam")
    assert tab.frame.get_attribute("html", "data-theme") == "light"
    assert tab.frame.evaluate(colour) != dark


def test_nothing_is_cut_off_at_1280_pixels(tab: Tab):
    for view in ("overview", "parameter", "step", "compare"):
        tab.open(view=view)
        wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.frame.evaluate(wide) <= 0, view


@pytest.mark.parametrize(
    ("route", "code", "sentence"),
    [
        ("runs", 500, "the disk is gone"),
        ("column", 404, "`statistic` must be"),
        ("catalogue", 0, "does not answer"),
    ],
)
def test_a_fault_is_a_message_in_the_tab(tab: Tab, route: str, code: int, sentence: str):
    def answer(request: Any) -> None:
        request.abort() if code == 0 else request.fulfill(status=code, body=f"{sentence} <b>so</b>")

    pattern = re.compile(rf"/lightning_adapt/{route}\b")
    tab.page.route(pattern, answer)
    try:
        tab.page.reload()
        tab.frame = tab.page.wait_for_selector("iframe[src*=lightning_adapt]").content_frame()
        assert sentence in tab.frame.wait_for_selector(".messages p").text_content()
    finally:
        tab.page.unroute(pattern)
    # It comes right by itself once TensorBoard answers again.
    tab.frame.wait_for_selector(".messages p", state="detached")
    tab.frame.wait_for_selector(".js-plotly-plot")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", ["overview", "parameter", "step", "compare"])
def test_accessibility(tab: Tab, view: str, theme: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    tab.open(f"?darkMode={'true' if theme == 'dark' else 'false'}", view=view, run="adam")
    found = axe.Axe().run(tab.frame).response["violations"]
    serious = [
        (each["id"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_a_running_training_is_followed(tab: Tab, logs: Path, tmp_path: Path):
    run = tmp_path.name  # found by TensorBoard while it runs
    with SummaryWriter(str(logs / run)) as writer:

        def grow(*steps: int) -> None:
            for step in steps:
                writer._get_file_writer().add_summary(
                    to_summary(table(["a", "b"], step), describe=step == 0), step
                )
            writer.flush()

        grow(0, 1, 2)
        tab.open(run="adam")
        tab.frame.wait_for_selector(f"option >> text={run}", state="attached")
        key = tab.frame.evaluate("run => JSON.stringify([run, 'AdamW'])", run)
        tab.choose("Run", key).choose("Order", "worst")
        tab.frame.get_by_label("Search").fill("b")
        tab.settled()
        drawn = "n => document.querySelector('.grid .plot').data[0].x.length === n"
        tab.frame.wait_for_function(drawn, arg=3)
        grow(3, 4)
        tab.frame.wait_for_function(drawn, arg=5)
        tab.settled()
    assert tab.texts(".label .name") == ["b"]
    assert tab.frame.get_by_label("Search").input_value() == "b"
    expected = [table(["a", "b"], step)["b", "effective_lr_p50"] for step in range(5)]
    np.testing.assert_allclose(10 ** numbers(tab.chart(GRID)[0]["z"])[0], expected, rtol=1e-5)


def test_an_empty_folder_is_told(browser: Any, tmp_path_factory: pytest.TempPathFactory):
    page = browser.new_page()
    with board(tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("board")) as url:
        tab = Tab(page, url).open()
        assert "No optimizer dynamics here yet" in tab.text("main")
    page.close()
