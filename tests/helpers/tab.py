"""The tab in a page of the browser, as a person uses it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import numpy as np

HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\"quotes\" & 'more', comma",
    "line\nbreak\ttab\u202eright to left",
    "ünïcödé 🦉 参数",
    "%{x} <b>bold</b> $\\alpha$ ${1}",
    "x" * 2000,
    "a" + ".b" * 400,
    "__proto__",
    "constructor.prototype",
    "=cmd('x')",
    "..",
    "\ufeff",
    " ",
    "",
]
GRID, MARKS = ".grid .plot", ".marks .plot"
_SETTLED = "main:not([aria-busy]) > *"
_DATA = """e => JSON.stringify(e.data, (key, value) => ArrayBuffer.isView(value) ? Array.from(value)
    : typeof value === 'number' && !Number.isFinite(value) ? String(value) : value)"""


def f32(values: Any) -> Any:
    """As a table keeps it."""
    return np.asarray(values, dtype=np.float32)


def numbers(values: Any) -> Any:
    """What a chart holds: null is NaN, inf is text."""
    return np.array([[np.nan if v is None else float(v) for v in row] for row in values])


def read(history: Any, statistic: str) -> Any:
    """A statistic of all tables of a `DynamicsHistory`."""
    return f32([table[statistic] for table in history])


class Tab:
    """The tab of TensorBoard at ``url``; collects what goes wrong in the page."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.frame: Any = None
        self.query = ""
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))

    def open(self, query: str = "", *, fresh: bool = False, **state: str) -> Tab:
        """Show this state, by the address, and wait until it is drawn; ``fresh`` loads TensorBoard anew."""
        parts = "".join(f"&p.lightning_adapt.{key}={quote(value, safe='')}" for key, value in state.items())
        if self.frame is None or fresh or (query and query != self.query):
            self.query = query
            self.page.goto("about:blank")
            self.page.goto(f"{self.url}{query}#lightning_adapt{parts}")
            return self.arrived()
        self.page.evaluate("hash => { location.hash = hash; }", f"#lightning_adapt{parts}")
        # The address tells its listeners a moment later.
        self.frame.evaluate("() => new Promise(done => setTimeout(done, 50))")
        return self.settled()

    def arrived(self) -> Tab:
        """Wait for the frame of the tab after the page was loaded."""
        self.frame = self.page.wait_for_selector("iframe[src*=lightning_adapt]").content_frame()
        return self.settled()

    def settled(self) -> Tab:
        """Wait until nothing is loaded any more."""
        self.frame.wait_for_selector(_SETTLED, state="attached")
        return self

    def look(self) -> Tab:
        """Have it look for news at once, as when a person comes back to it."""
        self.frame.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        return self

    def wait(self, condition: str, argument: Any = None) -> Tab:
        """Wait until ``condition`` holds in the page, which looks for news all the while."""
        for _ in range(240):
            if self.frame.evaluate(condition, argument):
                return self.settled()
            self.look()
            self.page.wait_for_timeout(250)
        raise AssertionError(f"it never held: {condition} for {argument!r}")

    def click(self, selector: str, **options: Any) -> Tab:
        self.frame.click(selector, **options)
        return self.settled()

    def button(self, name: str) -> Tab:
        self.frame.get_by_role("button", name=name, exact=True).click()
        return self.settled()

    def choose(self, label: str, value: str) -> Tab:
        self.frame.get_by_label(label, exact=True).select_option(value)
        return self.settled()

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.frame.eval_on_selector_all(selector, "all => all.map(e => e.textContent)")
        return found

    def text(self, selector: str) -> str:
        found: str = self.frame.text_content(selector)
        return found

    def chart(self, selector: str) -> list[dict[str, Any]]:
        """The traces that a chart draws; NaN and inf as text."""
        found: list[dict[str, Any]] = json.loads(self.frame.eval_on_selector(selector, _DATA))
        return found

    def at(self, selector: str, x: float, row: int | None = None, **options: Any) -> Tab:
        """Click into a chart, at a step and a line of a heat map, or half way up."""
        code = """(e, [x, row]) => {
            const {xaxis, yaxis} = e._fullLayout;
            const up = row === null ? yaxis._length / 2 : yaxis.d2p(row);
            return [xaxis._offset + xaxis.d2p(x), yaxis._offset + up]; }"""
        left, top = self.frame.eval_on_selector(selector, code, [x, row])
        self.frame.hover(selector, position={"x": left, "y": top})
        return self.click(selector, position={"x": left, "y": top}, **options)

    @property
    def state(self) -> str:
        """What the address says."""
        found: str = self.page.url.partition("#")[2]
        return found
