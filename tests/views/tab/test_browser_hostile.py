"""The tab with names, figures, addresses and answers as bad as they can be; themes, accessibility."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import shot
from helpers.tab import GRID, HOSTILE, Tab, numbers, read

from lightning_adapt.views.reader import read_dynamics

pytestmark = pytest.mark.browser
SHOWN = {
    "line\nbreak\ttab\u202eright to left": "line␊break␉tab⟨202e⟩right to left",
    "\ufeff": "⟨feff⟩",
    " ": "␣",
    "": "⟨empty⟩",
}


@pytest.mark.parametrize(
    "state", [{"run": "no such", "stat": "none", "param": "%", "step": "x", "range": "b,a"}]
)
@pytest.mark.parametrize("view", ["overview", "parameter", "step", "compare", "constructor"])
def test_an_address_that_makes_no_sense_shows_what_there_is(tab: Tab, view: str, state: Any):
    tab.open(view=view, toggled="{", runs="[1,[2]]", **state)
    told = tab.texts(".messages p")
    asked = ["1", "2"] if view == "compare" else ["no such"]
    assert told[: len(asked)] == [
        f"There are no tables of the run {run} here (yet): others are shown." for run in asked
    ]
    assert (view == "parameter") == any("There is no parameter % in this run" in each for each in told)
    assert tab.frame.locator(".js-plotly-plot, .figures").count() > 0


def test_names_are_text_whatever_they_hold(tab: Tab):
    tab.open(run="hostile", sort="worst")
    drawn = "".join(tab.texts(".label .name"))
    assert "<script>window.pwned = 1</script>" in drawn
    assert "line␊break␉tab⟨202e⟩right" in drawn
    for name in HOSTILE:
        tab.open(run="hostile", view="parameter", param=name)
        assert tab.texts(".messages p") == []
        assert tab.text("h2") == SHOWN.get(name, name)
    tab.button("One step")
    assert len(tab.texts(".figures tbody th")) == len(HOSTILE)
    tab.button("Copy as CSV")
    tab.frame.wait_for_selector(f"text={len(HOSTILE)} rows copied")
    rows = list(csv.reader(io.StringIO(tab.page.evaluate("navigator.clipboard.readText()"), newline="")))
    assert [row[0] for row in rows[1:]] == [re.sub("^=", "'=", name) for name in HOSTILE]
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


def test_lines_that_share_one_show_the_largest_of_them_in_any_order(tab: Tab, logs: Path):
    values = read(read_dynamics(logs / "wide"), "grad_zero_frac")
    orders = {"model": np.arange(10_000), "worst": np.argsort(-values.max(axis=0), kind="stable")}
    tab.open(run="wide", stat="grad_zero_frac", scale="linear", fit="1", search="m")
    for sort, order in orders.items():  # one after the other, in the same view
        tab.choose("Order", sort)
        drawn = numbers(tab.chart(GRID)[0]["z"])
        size = -(-10_000 // len(drawn))
        assert size > 1
        for line, row in enumerate(drawn):
            shared = order[line * size : (line + 1) * size]
            np.testing.assert_allclose(row, values[:, shared].max(axis=1), rtol=1e-6)


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

    tab.open()  # there must be a page to be loaded again, whichever test a process begins with
    pattern = re.compile(rf"/lightning_adapt/{route}\b")
    tab.page.route(pattern, answer)
    try:
        tab.page.reload()
        tab.frame = tab.page.wait_for_selector("iframe[src*=lightning_adapt]").content_frame()
        assert sentence in tab.frame.wait_for_selector(".messages p").text_content()
    finally:
        tab.page.unroute(pattern)
    # It comes right by itself once TensorBoard answers again.
    tab.look()
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
