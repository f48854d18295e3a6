"""A report in a page of the browser: opened from a file, with the network off."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from helpers.tab import Tab


class ReportPage(Tab):
    """The report at ``path``; whatever it asks for beside itself is collected."""

    def __init__(self, page: Any, path: Path) -> None:
        super().__init__(page, path.as_uri())
        self.asked: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def open(self, query: str = "", *, fresh: bool = False, **state: str) -> ReportPage:
        """Show this state, by the address; ``fresh`` loads the page anew."""
        parts = "&".join(f"p.lightning_adapt.{key}={quote(value, safe='')}" for key, value in state.items())
        if self.frame is None or fresh:
            self.page.goto("about:blank")
            self.page.goto(f"{self.url}#{parts}")
            self.frame = self.page.main_frame
        else:
            self.page.evaluate("hash => { location.hash = hash; }", f"#{parts}")
            self.page.evaluate("() => new Promise(done => setTimeout(done, 50))")
        self.settled()
        return self

    def foreign(self) -> list[str]:
        """Requests for anything but the page itself and what it holds."""
        own = (self.url, "about:blank", "data:", "blob:")
        return [url for url in self.asked if not url.startswith(own)]
