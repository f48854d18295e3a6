"""OptimizerHealthMonitor in runs that end early, go on, or meet a fault: nothing is lost."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.health_runs import BETWEEN, between, dumps, monitors, observed, told
from helpers.runs import SMALL_RUN, tensorboard, trainer_for
from lightning.pytorch import Callback

import lightning_adapt as la
from lightning_adapt.callbacks import OptimizerDynamicsMonitor, OptimizerHealthMonitor
from lightning_adapt.callbacks._health_session import HealthSession
from lightning_adapt.health import Rule, Verdict

pytestmark = SMALL_RUN


# --- how it ends ---


class Breaks(Callback):
    """Raises when a batch is over, before anybody else looks at it."""

    def __init__(self, error: type[BaseException], at: int) -> None:
        self.error, self.at = error, at

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.at:
            raise self.error("user's")


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_exception_loses_nothing(
    error: type[BaseException], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    health = OptimizerHealthMonitor([between(6, 99, severity="critical")], every_n_steps=1, strict=True)
    trainer = trainer_for("32-true", Breaks(error, 6), health, logger=tensorboard(tmp_path))
    with pytest.raises((error, SystemExit)):
        trainer.fit(observed())
    assert [finding.first_step for finding in health.findings] == [6, 6]
    assert len(dumps(tmp_path)) == 1
    trainer.loggers[0].experiment.flush()  # type: ignore[attr-defined]
    assert len(la.read_findings(tmp_path)) == 2
    assert "health: 2 critical" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize("order", ["alone", "before", "after"])
@pytest.mark.parametrize("at", [4, 9])
def test_a_resumed_run_goes_on(at: int, order: str, tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == at:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    rules = [between(3, 11, patience=4), between(0, 99, severity="critical")]
    callbacks, whole = monitors(order, 1, rules)
    trainer_for("32-true", *callbacks, Saves(), logger=tensorboard(tmp_path / "a")).fit(observed())
    saved = torch.load(tmp_path / "middle.ckpt", weights_only=True)["callbacks"]["OptimizerHealthMonitor"]
    assert saved["dumps"] == 1
    callbacks, rest = monitors(order, 1, rules)
    resumed = trainer_for("32-true", *callbacks, logger=tensorboard(tmp_path / "b"))
    resumed.fit(observed(), ckpt_path=tmp_path / "middle.ckpt", weights_only=True)
    assert told(rest.findings) == told(whole.findings)
    assert ("between-warning", "body.weight", 6, 11, 12) in told(rest.findings)
    latest = (rest._source or rest._own).latest
    assert latest is not None
    assert latest.real_steps == 16
    assert not dumps(tmp_path / "b")  # the critical finding began before
    assert rest.state_dict()["dumps"] == 1


def test_a_state_that_cannot_be_read_is_told_and_not_more() -> None:
    health = OptimizerHealthMonitor()
    with pytest.warns(RuntimeWarning, match="could not be read from the checkpoint, KeyError.*begins anew"):
        health.load_state_dict({"judge": {"nothing": 1}})
    with pytest.raises(KeyError):
        OptimizerHealthMonitor(strict=True).load_state_dict({"judge": {"nothing": 1}})


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
def test_another_trainer_is_another_run_and_copies_keep_what_was_found() -> None:
    health = OptimizerHealthMonitor([between(3, 6)], every_n_steps=1, strict=True)
    trainer_for("32-true", health).fit(observed())
    assert told(copy.deepcopy(health).findings) == BETWEEN
    trainer_for("32-true", health).fit(observed())
    assert told(health.findings) == BETWEEN
    default = OptimizerHealthMonitor(every_n_steps=1, strict=True)
    trainer_for("32-true", default).fit(observed())
    assert pickle.loads(pickle.dumps(default)).findings == default.findings


# --- faults ---


def test_a_fault_in_a_rule_disables_that_rule() -> None:
    def fail(*_: Any) -> Verdict:
        raise ZeroDivisionError("planted")

    broken = Rule("broken", "It fails.", fail, "never", "never", "a test")
    rules = [broken, between(3, 6, severity="info")]
    health = OptimizerHealthMonitor(rules, every_n_steps=1, strict=True)
    with pytest.warns(RuntimeWarning, match="rule 'broken' is switched off") as caught:
        trainer_for("32-true", health).fit(observed())
    assert len([w for w in caught if "broken" in str(w.message)]) == 1
    assert len(health.findings) == 2


@pytest.mark.parametrize("method", ["__init__", "batch_end", "before_backward", "_judge_one", "finish"])
def test_a_fault_ends_the_monitor_and_not_the_training(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(HealthSession, method, fail)
    module, dynamics = observed(), OptimizerDynamicsMonitor(1, history=None, strict=True)
    with pytest.warns(RuntimeWarning, match=r"OptimizerHealthMonitor switched itself off.*planted"):
        trainer_for("32-true", OptimizerHealthMonitor(), dynamics).fit(module)
    assert len(module.real) == len(dynamics.history) == 16
    assert not dynamics.listeners
    assert not module.trainer.optimizers[0]._optimizer_step_post_hooks
    with pytest.raises(ZeroDivisionError, match="planted"):
        trainer_for("32-true", OptimizerHealthMonitor(every_n_steps=1, strict=True)).fit(observed())
