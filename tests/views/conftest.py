"""Logs of real trainings and of made-up tables, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import Missing, chromium
from helpers.logged import train
from helpers.tab import HOSTILE
from helpers.tables import table, write

from lightning_adapt.dynamics import DynamicsHistory
from lightning_adapt.views import read_dynamics


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real trainings, one with a skipped step, and runs of made-up tables."""
    folder = tmp_path_factory.mktemp("logs")
    train(folder, "adagrad")
    train(folder, "adam", "16-mixed", poison=5)
    write(folder / "hostile", [table(HOSTILE, step) for step in (1, 2, 3)])
    write(folder / "one", [table(["w"], 7)])
    write(folder / "wide", [table([f"m{i // 100}.p{i}" for i in range(10_000)], step) for step in (1, 2, 3)])
    odd = table(["nan", "inf", "zero"], 1).values
    odd[:] = [[float("nan")], [float("inf")], [0.0]]
    write(folder / "odd", [table(["nan", "inf", "zero"], 1), table(["nan", "inf", "zero"], 2, values=odd)])
    return folder


@pytest.fixture(scope="session")
def adam(logs: Path) -> DynamicsHistory:
    """The training with a skipped step, as everybody reads it."""
    return read_dynamics(logs / "adam")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    try:
        with chromium() as browser:
            yield browser
    except Missing as reason:
        pytest.skip(str(reason))
