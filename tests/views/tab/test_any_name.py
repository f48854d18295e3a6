"""Any name and any value, drawn by the front end itself from the bodies that a server would send."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.kept import series_of
from helpers.tables import table
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lightning_adapt.dynamics import COLUMNS
from lightning_adapt.views.tab import answers, static_files
from lightning_adapt.views.tab.catalogue import catalogue

pytestmark = pytest.mark.browser
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
PAGE = "http://tab.test/"
# What TensorBoard sends with the frame.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' data: 'unsafe-inline'; "
    "script-src 'self' 'unsafe-eval'"
)
START = Path(__file__).resolve().parents[2] / "helpers" / "any_name.js"
HTML = """<!doctype html><title>tab</title>
<script src="plotly.min.js"></script><script type="module" src="start.js"></script>"""


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))

    def serve(route: Any) -> None:
        name = route.request.url.removeprefix(PAGE).partition("#")[0].removeprefix("static/")
        if name == "":
            route.fulfill(body=HTML, content_type="text/html", headers={"Content-Security-Policy": POLICY})
        elif name == "start.js":
            route.fulfill(path=START, content_type="text/javascript")
        elif name == static_files.PLOTLY:
            route.fulfill(body=static_files.content(name), content_type="text/javascript")
        elif not (static_files.FOLDER / name).is_file():
            route.fulfill(status=404)
        else:
            route.fulfill(path=static_files.FOLDER / name, content_type=static_files.content_type(name))

    page.route(f"{PAGE}**", serve)
    page.goto(PAGE)
    page.wait_for_function("window.ready && window.Plotly")
    yield page
    page.close()


def told(series: Any) -> str:
    """What a server would answer about a series, as one text."""

    def body(content: bytes) -> str:
        return base64.b64encode(content).decode()

    return json.dumps(
        {
            "catalogue": catalogue(),
            "runs": {
                "series": [
                    {"run": "<b>run</b>", "optimizer": "Adam", "rows": 1, "last_step": 2, "changed": 0}
                ],
                "problems": [],
            },
            "rows": json.loads(answers.rows(series)),
            "steps": body(answers.steps(series)),
            "column": body(answers.column(series, catalogue()["first"])),
            "step": body(answers.step(series, series.steps[-1])),
            "parameter": body(answers.parameter(series, 0)),
        }
    )


markup = st.sampled_from(
    [
        "<script>window.pwned=1</script>",
        "<img src=x onerror=window.pwned=1>",
        "&lt;",
        "</div>",
        "%{y}",
        "<br>",
    ]
)
pieces = st.lists(markup | st.text(max_size=3), min_size=1, max_size=4).map("".join).filter(bool)
name = st.text(st.characters(), min_size=1, max_size=30) | pieces
figures = st.floats(width=32) | st.sampled_from([0.0, np.nan, np.inf, 1e-38])


@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
@given(names=st.lists(name, min_size=1, max_size=4, unique=True), data=st.data(), group=st.text(max_size=9))
@example(names=["\ud800", "\udc00a"], data=None, group="\ud800")
def test_any_name_and_value_is_drawn_and_stays_text(page: Any, names: list[str], data: Any, group: str):
    shape = (2, len(names), len(COLUMNS))
    values = (
        np.zeros(shape)
        if data is None
        else data.draw(npst.arrays(np.float32, shape, elements=figures)).astype(float)
    )
    more = {"learning_rates": {group: 0.1}, "hyperparameters": {group: {"eps": 1e-8}}}
    text = told(series_of(*(table(names, step, values=values[step], **more) for step in (0, 1))))
    for view in ("overview", "parameter", "step", "compare"):
        found = page.evaluate("([text, view]) => window.show(text, view)", [text, view])
        assert found["messages"] == [], view
        shown = found["expected"][:1] if view == "parameter" else found["expected"]
        assert sorted(found["shown"]) == sorted(shown), view
        assert (found["foreign"], found["pwned"]) == (0, "undefined"), view
    assert page.faults == []


def test_the_browser_obeys_the_policy(page: Any):
    """Else the test above would prove nothing about it."""
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.tried=1>')")
    page.wait_for_timeout(200)
    assert page.evaluate("typeof window.tried") == "undefined"
    assert re.search("script-src 'self'", POLICY)
