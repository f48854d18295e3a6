"""Reports of real trainings, in a browser without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.report_page import ReportPage

from lightning_adapt.health.offline import values_found
from lightning_adapt.views.report import write_report


@pytest.fixture(scope="session")
def report(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One report of all runs of `logs`."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        [logs / "adam", logs / "adagrad", logs / "hostile", logs / "odd", logs / "one"],
        path,
        judge=values_found,
    )
    return path


@pytest.fixture(scope="session")
def offline(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture(scope="session")
def opened(offline: Any, report: Path) -> ReportPage:
    """One page for all tests: the chart library takes a second to load."""
    return ReportPage(offline.new_page(), report)


@pytest.fixture
def page(opened: ReportPage) -> Iterator[ReportPage]:
    page = opened
    page.errors.clear()
    page.asked.clear()
    yield page
    assert page.errors == []
    assert page.foreign() == []
