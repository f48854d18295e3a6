"""TensorBoard on logs, and a page of the browser on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.board import board
from helpers.tab import Tab


@pytest.fixture(scope="session", params=["true", "false"], ids=["rust", "python"])
def address(
    request: pytest.FixtureRequest, logs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """TensorBoard on `logs`, with the loader in Rust and the one in Python."""
    with board(logs, tmp_path_factory.mktemp("board"), f"--load_fast={request.param}") as url:
        yield url


@pytest.fixture(scope="session")
def page(browser: Any, address: str) -> Iterator[Tab]:
    """One page for all tests of a loader: TensorBoard itself takes seconds to load."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(60_000)
    yield Tab(context.new_page(), address)
    context.close()


@pytest.fixture
def tab(page: Tab) -> Iterator[Tab]:
    page.errors.clear()
    yield page
    assert page.errors == []
