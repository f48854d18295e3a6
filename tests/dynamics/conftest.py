"""What tests of several engines share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The host's engine cuts rows into tasks of two blocks."""
    from lightning_adapt.dynamics.engines.cpu import _tasks  # needs numba, as not all tests here do

    monkeypatch.setattr(_tasks, "TASK", 2 * _tasks.BLOCK)
    _tasks.tasks_of.cache_clear()
    yield
    _tasks.tasks_of.cache_clear()
