"""The report that the monitor writes when a training is over."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.logged import OPTIMIZERS, Logged, train
from helpers.runs import trainer_for
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_adapt.callbacks import OptimizerDynamicsMonitor, OptimizerHealthMonitor
from lightning_adapt.callbacks._report import ReportPlan
from lightning_adapt.views.report.report import report_text

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:Checkpoint directory",
)


def fit(folder: Path, monitor: OptimizerDynamicsMonitor, *callbacks: Callback, **options: Any) -> Logged:
    module = Logged(OPTIMIZERS["adam"])
    options = {"logger": TensorBoardLogger(str(folder), name="run", version=""), **options}
    trainer_for("32-true", monitor, *callbacks, log_every_n_steps=1, **options).fit(module)
    return module


def test_it_is_written_into_the_folder_of_the_run(tmp_path: Path):
    train(tmp_path, "adam", "16-mixed", OptimizerDynamicsMonitor(1, report=True), poison=5)
    text = (tmp_path / "adam" / "report.html").read_text()
    assert "helpers.logged.Logged with Adam" in text
    assert "16-mixed of the Trainer" in text
    assert "16 read, step 0 to 15" in text


def test_every_run_says_what_was_trained_so_that_a_later_report_knows(tmp_path: Path):
    module = Logged(OPTIMIZERS["adam"])
    odd = {"none": float("nan"), "long": "x" * 300, "deep": {"a": 1}, "none at all": None}
    module.hparams.update({"width": 64, "act": "re|lu", **odd})
    logger = TensorBoardLogger(str(tmp_path), name="run", version="")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, for a model this small
        trainer_for("32-true", OptimizerDynamicsMonitor(1), logger=logger, log_every_n_steps=1).fit(module)
    (tmp_path / "run" / "hparams.yaml").unlink(missing_ok=True)
    text, _ = report_text([tmp_path / "run"], "json")
    (run,) = json.loads(text)["runs"]
    assert run["model"] == "helpers.logged.Logged"
    assert run["settings"] == {"width": 64, "act": "re|lu"}
    assert run["precision"] == "32-true"


def test_it_goes_where_the_path_says_and_has_what_other_monitors_found(tmp_path: Path):
    path = tmp_path / "new" / "mine.html"
    health = OptimizerHealthMonitor({"spike-warning": {"threshold": 1e-9}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it finds
        fit(tmp_path, OptimizerDynamicsMonitor(1, report=path), health)
    assert health.findings
    assert "(judged while it trained)" in path.read_text()
    assert "spike-warning" in path.read_text()


def test_a_training_that_fails_has_one_too(tmp_path: Path):
    class Broken(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == 5:
                raise RuntimeError("the data are gone")

    with pytest.raises(RuntimeError, match="the data are gone"):
        fit(tmp_path, OptimizerDynamicsMonitor(1, report=True), Broken())
    assert "5 made" in (tmp_path / "run" / "report.html").read_text()


def test_a_fault_in_it_is_told_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(self: ReportPlan) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(ReportPlan, "write", broken)
    with pytest.warns(RuntimeWarning, match="writes no report: OSError: No space left"):
        module = fit(tmp_path, OptimizerDynamicsMonitor(1, report=True))
    assert len(module.real) == 16
    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path, OptimizerDynamicsMonitor(1, report=True, strict=True))


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_without_tensorboard_there_is_a_warning_at_once(tmp_path: Path, logger: str):
    other = CSVLogger(str(tmp_path)) if logger == "csv" else False
    with pytest.warns(RuntimeWarning, match="`report` needs a TensorBoardLogger"):
        fit(tmp_path, OptimizerDynamicsMonitor(1, report=True), logger=other, limit_train_batches=2)


def test_the_training_is_the_same_to_the_bit(tmp_path: Path):
    found = []
    for report in (False, True):
        torch.manual_seed(0)
        module = fit(tmp_path / str(report), OptimizerDynamicsMonitor(1, report=report))
        found.append([parameter.detach().clone() for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("report", [3, "", None, "."])
def test_an_argument_that_cannot_be(report: Any):
    with pytest.raises(ValueError, match="`report` must be True, False or the path of a file"):
        OptimizerDynamicsMonitor(report=report)
