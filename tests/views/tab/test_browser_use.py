"""The tab as it is used: by keyboard, by an address, while a training runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.board import board
from helpers.tab import GRID, Tab, numbers, read
from helpers.tables import table
from torch.utils.tensorboard import SummaryWriter

from lightning_adapt.dynamics import DynamicsHistory, DynamicsTable
from lightning_adapt.views.event_file import tag_of, to_summary
from lightning_adapt.views.reader import read_dynamics

pytestmark = pytest.mark.browser
LISTED = "run => [...document.querySelectorAll('option')].some(o => o.textContent.includes(run))"
STEPS = "n => document.querySelector('.grid .plot')?.data?.[0].x.length === n"


@contextmanager
def training(folder: Path) -> Iterator[Any]:
    """What writes tables as a running training does."""
    described: set[str] = set()
    with SummaryWriter(str(folder)) as writer:

        def write(*tables: DynamicsTable) -> None:
            for each in tables:
                summary = to_summary(each, describe=tag_of(each) not in described)
                described.add(tag_of(each))
                writer._get_file_writer().add_summary(summary, each.step)
            writer.flush()

        yield write


def drawn(tab: Tab) -> Any:
    """What the heat map shows on a log scale: lines × steps."""
    return 10 ** numbers(tab.chart(GRID)[0]["z"])


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


def test_a_running_training_is_followed(tab: Tab, logs: Path, tmp_path: Path):
    run = tmp_path.name  # found by TensorBoard while it runs
    with training(logs / run) as write:
        write(*(table(["a", "b"], step) for step in range(3)))
        tab.open(run="adam").look()
        tab.wait(LISTED, run)
        tab.choose("Run", tab.frame.evaluate("run => JSON.stringify([run, 'AdamW'])", run))
        tab.choose("Order", "worst")
        tab.frame.get_by_label("Search").fill("b")
        tab.settled().wait(STEPS, 3)
        write(table(["a", "b"], 3), table(["a", "b"], 4))
        tab.frame.wait_for_function(STEPS, arg=5)  # by itself
        tab.settled()
        assert tab.texts(".label .name") == ["b"]
        assert tab.frame.get_by_label("Search").input_value() == "b"
        expected = [table(["a", "b"], step)["b", "effective_lr_p50"] for step in range(5)]
        np.testing.assert_allclose(drawn(tab)[0], expected, rtol=1e-5)
        tab.frame.get_by_label("Follow").uncheck()
        write(table(["a", "b"], 5))
        tab.look().page.wait_for_timeout(3000)
        tab.look().settled()
        assert tab.frame.evaluate(STEPS, 5)
        assert "follow=off" in tab.state
        tab.frame.get_by_label("Follow").check()
        tab.wait(STEPS, 6)


def test_a_resumed_training_and_changed_parameters(tab: Tab, logs: Path, tmp_path: Path):
    folder = logs / f"{tmp_path.name}-resumed"
    with training(folder) as write:
        write(*(table(["a", "b"], step) for step in (1, 2, 3, 4)))
    tab.open(run=folder.name, sort="worst", search="b").wait(STEPS, 4)
    with training(folder) as write:  # from an earlier checkpoint, with one parameter less and another more
        write(*(table(["b", "c"], step, values=table(["b", "c"], 50 + step).values) for step in (3, 4, 5)))
        tab.wait(STEPS, 5)
    history = read_dynamics(folder)
    assert list(history.steps) == [1, 2, 3, 4, 5]
    expected = [each["b", "effective_lr_p50"] for each in history]
    tab.wait(
        "x => Math.abs(10 ** document.querySelector('.grid .plot').data[0].z[0][3] / x - 1) < 1e-4",
        expected[3],
    )
    np.testing.assert_allclose(drawn(tab)[0], expected, rtol=1e-5)
    assert tab.texts(".label .name") == ["b"]  # the selection stayed
    tab.frame.get_by_label("Search").fill("")
    tab.settled().choose("Order", "model")
    assert tab.texts(".label .name") == ["a", "b", "c"]
    for line, name in enumerate("abc"):
        wanted = [each[name, "effective_lr_p50"] if name in each.names else np.nan for each in history]
        np.testing.assert_allclose(drawn(tab)[line], wanted, rtol=1e-5)
    tab.open(run=folder.name, view="parameter", param="c")
    (fan,) = (trace for trace in tab.chart("[data-chart=fan] .plot") if trace["name"] == "p50")
    assert [value is None for value in fan["y"]] == [True, True, False, False, False]
    tab.open(run=folder.name, view="step", step="4")
    assert tab.texts(".figures tbody tr:first-child td") == ["–"] * len(history[3].columns)


def test_nothing_is_asked_for_behind_another_tab_and_the_view_is_there_again_after(tab: Tab):
    asked: list[str] = []
    tab.open(run="adam", view="step", step="9")

    def listen(request: Any) -> None:
        if "/lightning_adapt/runs" in request.url:
            asked.append(request.url)

    tab.page.on("request", listen)
    tab.page.get_by_role("tab", name="Time Series").click()
    tab.page.wait_for_function("() => location.hash.startsWith('#timeseries')")
    tab.page.wait_for_timeout(500)
    asked.clear()
    tab.look().page.wait_for_timeout(500)
    assert asked == []
    tab.page.get_by_role("tab", name="Optimizer dynamics").click()
    tab.page.wait_for_function("() => location.hash.startsWith('#lightning_adapt')")
    tab.look().page.wait_for_timeout(500)
    assert len(asked) >= 1
    tab.page.remove_listener("request", listen)
    assert "step=9" in tab.state
    assert tab.frame.get_by_label("Step", exact=True).input_value() == "9"


def test_a_run_that_comes_later_does_not_take_the_place_of_the_one_on_view(tab: Tab, logs: Path):
    tab.open(view="overview")
    run = tab.frame.get_by_label("Run", exact=True)
    before, lines = run.input_value(), tab.texts(".label .name")
    first = json.loads(before)[0]
    assert f"run={first}&" in tab.state  # an address that says so shows the same later
    with training(logs / f"0{first}") as write:
        write(table(["w"], 1))
        tab.wait(LISTED, f"0{first}")
    assert (run.input_value(), tab.texts(".label .name")) == (before, lines)


def test_what_is_open_or_has_the_focus_stays_while_more_is_drawn(tab: Tab, logs: Path, tmp_path: Path):
    folder = logs / f"{tmp_path.name}-focus"
    with training(folder) as write:
        write(table(["a", "b"], 1), table(["a", "b"], 2))
        tab.open(run=folder.name).wait(STEPS, 2)
        tab.click(".alerts summary")
        marked = "() => { window.kept = document.activeElement; }"
        for step, label in enumerate(("Statistic", "Order", "Search", "Loss"), start=3):
            tab.frame.get_by_label(label, exact=True).focus()
            tab.frame.evaluate(marked)
            write(table(["a", "b"], step))
            tab.wait(STEPS, step)
            assert tab.frame.evaluate("() => window.kept === document.activeElement"), label
    assert tab.frame.get_attribute(".alerts", "open") is not None


def test_words_are_typed_and_lists_chosen_with_the_keyboard_alone(tab: Tab):
    tab.open(run="adam")
    tab.frame.get_by_label("Search").focus()
    tab.page.keyboard.type("head bi", delay=60)
    tab.settled()
    assert tab.frame.get_by_label("Search").input_value() == "head bi"
    assert tab.texts(".label .name") == ["head.bias"]
    for _ in range(7):
        tab.page.keyboard.press("Backspace")
    tab.settled()
    tab.frame.get_by_label("Statistic", exact=True).focus()
    for _ in range(2):
        tab.page.keyboard.press("ArrowUp")
        tab.settled()
    names = tab.texts("select:has(option[value=grad_rms]) option")
    assert f"stat={names[names.index('effective_lr_p50') - 2]}" in tab.state


def test_another_step_and_a_range_with_the_keyboard_alone(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam", stat="grad_rms").button("Open all")
    tab.frame.get_by_role("tree").locator("[tabindex='0']").focus()
    for key in ("ArrowDown", "Shift+ArrowLeft", "Shift+ArrowLeft"):
        tab.page.keyboard.press(key)
        tab.settled()
    table = adam[-3]
    assert f"step={table.step}" in tab.state
    tab.frame.wait_for_selector(f".readout >> text=step {table.step} · body.weight · grad_rms")
    note = float(tab.texts(".label .note")[1])
    np.testing.assert_allclose(note, table["body.weight", "grad_rms"], rtol=2e-3)
    assert tab.frame.evaluate("() => document.activeElement.textContent.startsWith('weight')")
    for view in ("Overview", "One parameter", "One step"):
        tab.button(view)
        tab.frame.get_by_label("Step", exact=True).fill("9")
        tab.page.keyboard.press("Enter")
        tab.settled()
        assert "step=9" in tab.state, view
        tab.button("Step after")
        assert "step=10" in tab.state, view
        tab.button("Last")
        assert "step=" not in tab.state.replace("view=step", ""), view
    for view in ("Overview", "One parameter", "Compare runs"):
        tab.button(view)
        ends = [tab.frame.get_by_label(label, exact=True).input_value() for label in ("From step", "to step")]
        assert ends == [str(adam.steps[0]), str(adam.steps[-1])], view
        tab.frame.get_by_label("From step").fill("3")
        tab.page.keyboard.press("Enter")
        tab.settled().frame.get_by_label("to step", exact=True).fill("8")
        tab.page.keyboard.press("Enter")
        tab.settled()
        axis = "e => e._fullLayout.xaxis.range"
        plot = ".card .plot" if view == "One parameter" else GRID
        assert tab.frame.eval_on_selector(plot, axis) == [3, 8], view
        tab.button("All steps")
        assert "range=" not in tab.state, view


def test_the_table_is_sorted_with_the_keyboard_alone(tab: Tab, adam: DynamicsHistory):
    tab.open(run="adam", view="step", step="9")
    tab.frame.locator("[data-by=grad_rms]").focus()
    at_nine = next(each for each in adam if each.step == 9)
    order = [at_nine.names[i] for i in np.argsort(-at_nine["grad_rms"], kind="stable")]
    for expected in (order, order[::-1]):
        tab.page.keyboard.press("Enter")
        tab.settled()
        assert tab.texts(".figures tbody th") == expected
    assert tab.frame.evaluate("() => document.activeElement.dataset.by") == "grad_rms"


def test_everything_is_reached_by_tab_and_shows_that_it_has_the_focus(tab: Tab):
    seen = """() => { const e = document.activeElement, s = getComputedStyle(e);
        const label = e.id && document.querySelector(`label[for="${e.id}"]`)?.textContent;
        return [label || e.getAttribute('role') || e.getAttribute('aria-label') || e.textContent.trim(),
            s.outlineStyle, parseFloat(s.outlineWidth)]; }"""
    tab.open(run="adam")
    tab.frame.get_by_role("button", name="Overview").focus()
    tab.page.keyboard.press("Shift+Tab")
    found = {}
    for _ in range(30):
        tab.page.keyboard.press("Tab")
        name, style, width = tab.frame.evaluate(seen)
        found[name] = (style, width)
    reached = {
        "Overview",
        "Compare runs",
        "Run",
        "Statistic",
        "Scale",
        "Follow",
        "Search",
        "Order",
        "Open all",
    }
    reached |= {"All lines at once", "Loss", "Step", "Step before", "From step", "to step", "treeitem"}
    assert reached <= found.keys()
    assert {name: found[name] for name in reached if found[name] != ("solid", 2)} == {}


EVERYTHING: dict[str, Any] = {
    "overview": {
        "stat": "grad_rms", "scale": "linear", "module": "smallest", "step": "7", "range": "2,9",
        "loss": "none", "toggled": '["body"]', "fit": "1",
    },
    "parameter": {"param": "head.bias", "step": "7", "range": "2,9"},
    "step": {"step": "7", "search": "weight", "by": "grad_rms-up"},
    "compare": {
        "runs": '[["adam","Adam"],["adagrad","Adagrad"]]', "stat": "update_rms", "scale": "linear",
        "sort": "worst", "search": "bias", "range": "2,9",
    },
}  # fmt: skip


@pytest.mark.parametrize("view", EVERYTHING)
def test_a_shared_address_shows_the_same(tab: Tab, view: str):
    def shows() -> Any:
        code = """() => { const all = (what, show) => [...document.querySelectorAll(what)].map(show); return [
            all('select, input', e => [e.value, e.checked]),
            all('.label, .figures tbody th, .facts td, h2', e => e.textContent),
            all('.js-plotly-plot', e => e._fullLayout.xaxis.range.map(String))]; }"""
        return tab.frame.evaluate(code)

    tab.open(view=view, run="adam", **EVERYTHING[view])
    before, address = shows(), tab.page.url
    tab.open(run="one")
    assert shows() != before
    tab.page.goto("about:blank")
    tab.page.goto(address)
    tab.arrived().frame.wait_for_selector(".js-plotly-plot, .figures tbody")
    tab.settled()
    assert shows() == before
    assert tab.page.url == address


def test_the_page_of_a_long_table_is_in_the_address(tab: Tab):
    tab.open(run="wide", view="step").choose("Rows", "3")
    assert "page=3" in tab.state
    first = tab.texts(".figures tbody th")[0]
    assert first == "m6.p600"
    tab.page.go_back()
    tab.open(run="wide", view="step", page="3")
    assert tab.texts(".figures tbody th")[0] == first


def test_the_parameter_that_was_chosen_is_in_sight(tab: Tab):
    tab.open(run="wide", sort="worst").open(run="wide", search="m9", param="m99.p9950", view="step")
    tab.button("Overview").frame.wait_for_selector(".label[aria-selected] >> text=m99.p9950")


def test_an_empty_folder_is_told(browser: Any, tmp_path_factory: pytest.TempPathFactory):
    page = browser.new_page()
    page.set_default_timeout(60_000)
    with board(tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("board")) as url:
        tab = Tab(page, url).open()
        assert "No optimizer dynamics here yet" in tab.text("main")
    page.close()
