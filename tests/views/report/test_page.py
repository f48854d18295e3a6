"""A report in a real browser, opened from a file with the network off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import shot
from helpers.report_page import ReportPage
from helpers.tab import GRID, HOSTILE, numbers, read

from lightning_adapt.dynamics import COLUMNS, DynamicsHistory
from lightning_adapt.views import read_dynamics
from lightning_adapt.views.report.runs import name_of

pytestmark = pytest.mark.browser


@pytest.fixture
def run(logs: Path) -> str:
    return name_of(logs / "adam")


def test_the_overview_draws_what_read_dynamics_reads(page: ReportPage, adam: DynamicsHistory, run: str):
    page.open(run=run, stat="grad_rms").button("Open all")
    (heat,) = page.chart(GRID)
    assert heat["x"] == list(adam.steps)
    drawn = 10 ** numbers(heat["z"])
    for line, row in {1: 0, 2: 1, 4: 2, 5: 3}.items():
        np.testing.assert_allclose(drawn[line], read(adam, "grad_rms")[:, row], rtol=1e-5, equal_nan=True)
    loss = next(trace for trace in page.chart(".marks .plot") if trace["name"] == "loss")
    assert loss["x"] == list(range(16))
    page.choose("Statistic", "eps_floor_frac")
    np.testing.assert_allclose(
        numbers(page.chart(GRID)[0]["z"])[1], read(adam, "eps_floor_frac")[:, 0], equal_nan=True
    )
    shot(page.page, "report")


def test_a_click_opens_the_parameter_and_its_histograms(page: ReportPage, adam: DynamicsHistory, run: str):
    page.open(run=run).button("Open all").click(".label >> text=weight >> nth=1")
    assert page.text("h2.name") == "head.weight"
    fan = {trace["name"]: trace for trace in page.chart("[data-chart=fan] .plot")}
    drawn = numbers([fan["p50"]["y"]])[0]
    np.testing.assert_allclose(drawn, read(adam, "effective_lr_p50")[:, 2], rtol=1e-6, equal_nan=True)
    traces = page.chart("[data-chart=update] .plot")
    heat = next(trace for trace in traces if trace["type"] == "heatmap")
    kept = [at for at, table in enumerate(adam) if not table.skipped]
    counts = np.array([adam[at].histogram("head.weight", "update") for at in kept])
    occupied = np.flatnonzero(counts[:, 1:-1].any(axis=0))
    shares = (counts / counts.sum(axis=1, keepdims=True))[:, 1 + occupied[0] : 2 + occupied[-1]]
    drawn = np.nan_to_num(10 ** numbers(heat["z"]))
    np.testing.assert_allclose(drawn[:, kept], shares.T, rtol=1e-6, atol=1e-12)
    floor = next(t for t in page.chart("[data-chart=second_moment] .plot") if t["name"].startswith("eps"))
    assert set(floor["y"]) == {1e-4}


def test_one_step_shows_exact_values(page: ReportPage, adam: DynamicsHistory, run: str):
    page.open(run=run).button("One step")
    page.open(run=run, view="step", step="9")
    table = next(each for each in adam if each.step == 9)
    assert page.texts(".figures tbody th") == list(table.names)
    cells = np.array(page.texts(".figures td")).reshape(len(table.names), len(COLUMNS))
    for row, name in enumerate(table.names):
        for column, statistic in enumerate(COLUMNS):
            value, text = table[name, statistic], cells[row, column]
            assert (text == "–" and np.isnan(value)) or np.float32(text) == np.float32(value)


def test_two_runs_are_compared(page: ReportPage, adam: DynamicsHistory, logs: Path, run: str):
    other = name_of(logs / "adagrad")
    page.open(view="compare", stat="update_rms", runs=json.dumps([[other, "Adagrad"], [run, "Adam"]]))
    first, second, apart = page.chart(GRID)
    theirs, mine = read(read_dynamics(logs / "adagrad"), "update_rms").T, read(adam, "update_rms").T
    moved = mine > 0
    np.testing.assert_allclose(10 ** numbers(first["z"]), theirs, rtol=1e-5)
    np.testing.assert_allclose(10 ** numbers(second["z"])[moved], mine[moved], rtol=1e-5)
    np.testing.assert_allclose(10 ** numbers(apart["z"])[moved], (mine / theirs)[moved], rtol=1e-4)


def test_the_summary_says_what_was_trained(page: ReportPage, adam: DynamicsHistory, run: str):
    page.open()
    section = f'section[data-run="{run}"]'
    text = page.text(section)
    assert "Adam" in text
    assert "eps 0.0001" in text
    assert f"{adam[-1].real_steps} made, {adam[-1].skipped_steps} skipped" in text
    assert "4 parameters float32, state float32; loss scale 1024 to 512" in text
    page.click(f"{section} details summary >> text=The worst 4 parameters")
    rows = page.texts(f"{section} .scrolled tbody th")
    assert sorted(rows) == sorted(adam[0].names)


def test_names_are_text_whatever_they_hold(page: ReportPage, logs: Path):
    page.open(run=name_of(logs / "hostile"), sort="worst")
    assert page.texts(".messages p") == []
    assert len(page.texts(".label")) == len(HOSTILE)
    assert page.frame.evaluate("typeof window.pwned") == "undefined"
    assert (
        page.frame.evaluate(
            "document.querySelectorAll('section script, section img, main img, main script').length"
        )
        == 0
    )
    for view in ("parameter", "step", "compare"):
        page.open(run=name_of(logs / "hostile"), view=view)
        assert page.texts(".messages p") == []


@pytest.mark.parametrize("name", ["odd", "one"])
@pytest.mark.parametrize("view", ["overview", "parameter", "step"])
def test_nan_inf_one_parameter_and_one_step(page: ReportPage, logs: Path, name: str, view: str):
    page.open(run=name_of(logs / name), view=view, stat="grad_rms")
    assert page.texts(".messages p") == []
    if view == "overview":
        notes = page.texts(".label .note")
        assert notes == (["–", "inf", "0"] if name == "odd" else notes[:1])


def test_nothing_but_its_own_scripts_runs(page: ReportPage):
    page.open()
    page.frame.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.tried=1>')")
    page.frame.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.tried=2'}))"
    )
    page.page.wait_for_timeout(100)
    assert page.frame.evaluate("typeof window.tried") == "undefined"
    assert any("Content Security Policy" in error for error in page.errors)
    page.errors.clear()
    assert all(url.endswith("/x") for url in page.foreign())  # what the test itself asked for
    page.asked.clear()
    page.open(fresh=True)  # without what was put into it


def test_accessibility(page: ReportPage):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page.open()
    found = axe.Axe().run(page.frame).response["violations"]
    serious = [
        (each["id"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_another_step_and_a_range_by_keyboard_without_a_server(
    page: ReportPage, adam: DynamicsHistory, run: str
):
    page.open(run=run, stat="grad_rms").button("Open all")
    assert page.frame.get_by_label("Follow").count() == 0  # there is nothing to follow
    page.frame.get_by_role("tree").locator("[tabindex='0']").focus()
    for key in ("ArrowDown", "Shift+ArrowLeft"):
        page.page.keyboard.press(key)
        page.settled()
    table = adam[-2]
    page.frame.wait_for_selector(f".readout >> text=step {table.step} · body.weight · grad_rms")
    np.testing.assert_allclose(
        float(page.texts(".label .note")[1]), table["body.weight", "grad_rms"], rtol=2e-3
    )
    page.frame.get_by_label("From step").fill("3")
    page.page.keyboard.press("Enter")
    page.settled().button("One parameter")
    assert page.text("h2.name") == "body.weight"
    assert f"at step {table.step}" in page.text(".facts")
    assert page.frame.eval_on_selector(".card .plot", "e => e._fullLayout.xaxis.range[0]") == 3
