"""The black box: the last tables before something went wrong, kept with the run."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.health_runs import between, dumps, observed
from helpers.runs import ADAMW, SMALL_RUN, Observed, tensorboard, trainer_for
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

import lightning_adapt as la
from lightning_adapt.callbacks import (
    OptimizerDynamicsMonitor,
    OptimizerHealthMonitor,
)

pytestmark = SMALL_RUN


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize("logger", [tensorboard, partial(CSVLogger, name="", version="")])
def test_a_critical_finding_leaves_the_last_tables(logger: Any, tmp_path: Path) -> None:
    tmp_path = tmp_path / "run"
    rules = [between(9, 99, severity="critical"), between(2, 4)]
    health = OptimizerHealthMonitor(rules, keep=4, every_n_steps=1, strict=True)
    dynamics = OptimizerDynamicsMonitor(1, history=None, strict=True)
    trainer_for("32-true", dynamics, health, logger=logger(tmp_path)).fit(observed())
    (dump,) = dumps(tmp_path)
    assert dump.name == "step_000009_between-critical"
    history = la.read_dynamics(dump)
    assert history.steps == (6, 7, 8, 9)
    for table in history:
        full = dynamics.history[table.step]
        assert table["body.weight", "update_rms"] == pytest.approx(full["body.weight", "update_rms"])
        assert (table.histograms == full.histograms).all()
    assert [(f["rule"], f["ended_at"]) for f in la.read_findings(dump)] == [
        ("between-warning", 5),
        ("between-warning", 5),
        ("between-critical", None),
        ("between-critical", None),
    ]
    about = json.loads((dump / "findings.json").read_text())
    assert about["reason"] == "between-critical"
    assert [step for step, _ in about["losses"]] == list(range(10))
    if logger is tensorboard:  # the run is read as if there were no dump
        assert len(la.read_dynamics(tmp_path)) == len(la.read_dynamics(tmp_path.parent)) == 16


class Blinking(Observed):
    """Its loss is inf in some batches; the gradients are as ever."""

    bad: frozenset[int] = frozenset()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss = self.loss(batch, index)
        return loss + (torch.inf if index in self.bad else 0.0)


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize(
    ("precision", "bad", "found"),
    [
        ("32-true", {3, 4, 9}, [3, 9]),
        ("bf16-mixed", {3, 4, 9}, [3, 9]),
        ("16-mixed", {3, 4, 9}, []),
        ("16-mixed", {3, 7, 8, 9, 10}, [9]),
    ],
)
def test_a_loss_that_is_not_finite_leaves_the_last_tables(
    precision: str, bad: set[int], found: list[int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = Blinking(ADAMW)
    module.bad = frozenset(bad)
    health = OptimizerHealthMonitor([between(99, 99)], every_n_steps=1, strict=True)
    trainer_for(precision, health, logger=tensorboard(tmp_path)).fit(module)
    names = [f"step_{step:06d}_loss-is-not-finite" for step in found]
    assert [dump.name for dump in dumps(tmp_path)] == names


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
def test_a_loss_between_two_readings_is_not_missed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Blinking(ADAMW)
    module.bad = frozenset({5, 6})
    health = OptimizerHealthMonitor([between(99, 99)], every_n_steps=4, folder=tmp_path / "mine", strict=True)
    trainer_for("32-true", health).fit(module)
    (dump,) = (tmp_path / "mine").iterdir()
    assert dump.name == "step_000005_loss-is-not-finite"
    losses = json.loads((dump / "findings.json").read_text())["losses"]
    assert [step for step, loss in losses if loss == "inf"] == [5, 6]


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
def test_one_dump_for_a_loss_and_a_finding_that_say_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Blinking(ADAMW)
    module.bad = frozenset({5})
    health = OptimizerHealthMonitor([between(5, 9, severity="critical")], every_n_steps=1, strict=True)
    trainer_for("32-true", health, logger=tensorboard(tmp_path)).fit(module)
    assert [dump.name for dump in dumps(tmp_path)] == ["step_000005_between-critical"]


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize("most", [0, 2])
def test_dumps_are_bounded(most: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Blinking(ADAMW)
    module.bad = frozenset(range(0, 16, 3))
    health = OptimizerHealthMonitor([between(99, 99)], dumps=most, every_n_steps=1, strict=True)
    trainer_for("32-true", health, logger=tensorboard(tmp_path)).fit(module)
    assert len(dumps(tmp_path)) == most


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
def test_without_a_log_folder_it_says_that_nothing_is_written(caplog: pytest.LogCaptureFixture) -> None:
    health = OptimizerHealthMonitor([between(9, 99, severity="critical")], every_n_steps=1, strict=True)
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        trainer_for("32-true", health).fit(observed())
    said = "OptimizerHealthMonitor: no log folder, the last tables are not written; pass `folder`"
    assert caplog.messages.count(said) == 1
