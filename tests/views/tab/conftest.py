"""Logs of real trainings and of made-up tables, TensorBoard on them, and a browser."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.board import board
from helpers.browser import Missing, chromium
from helpers.runs import Observed, trainer_for
from helpers.tab import HOSTILE, Tab
from helpers.tables import table, write
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lightning_adapt.callbacks import OptimizerDynamicsMonitor

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.02),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, eps=1e-4),
}


class Logged(Observed):
    """Logs its loss, as users do."""

    def training_step(self, batch: Tensor, index: int) -> Tensor | None:
        loss = super().training_step(batch, index)
        self.log("train/loss", torch.zeros(()) if loss is None else loss.detach())
        return loss


def train(folder: Path, name: str, precision: str = "32-true", **options: Any) -> None:
    module = Logged(OPTIMIZERS[name], **options)
    monitor = OptimizerDynamicsMonitor(every_n_steps=1)
    logger = TensorBoardLogger(str(folder), name=name, version="")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, for a model this small
        trainer_for(precision, monitor, logger=logger, log_every_n_steps=1).fit(module)


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


@pytest.fixture(scope="session", params=["true", "false"], ids=["rust", "python"])
def address(
    request: pytest.FixtureRequest, logs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """TensorBoard on `logs`, with the loader in Rust and the one in Python."""
    with board(logs, tmp_path_factory.mktemp("board"), f"--load_fast={request.param}") as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    try:
        with chromium() as browser:
            yield browser
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def page(browser: Any, address: str) -> Iterator[Tab]:
    """One page for all tests of a loader: TensorBoard itself takes seconds to load."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(15_000)
    yield Tab(context.new_page(), address)
    context.close()


@pytest.fixture
def tab(page: Tab) -> Iterator[Tab]:
    page.errors.clear()
    yield page
    assert page.errors == []
