"""OptimizerHealthMonitor in a real Trainer: whose tables, who is told, what it does."""

from __future__ import annotations

import csv
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
from helpers.health_runs import BETWEEN, between, loss_rule, monitors, observed, told
from helpers.logged import accumulated
from helpers.runs import ADAMW, SMALL_RUN, Observed, tensorboard, trainer_for
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger

import lightning_adapt as la
from lightning_adapt.callbacks import (
    CriticalFindingError,
    HealthWarning,
    OptimizerDynamicsMonitor,
    OptimizerHealthMonitor,
    callbacks_factory,
)
from lightning_adapt.dynamics import DynamicsProbe
from lightning_adapt.health import Finding
from lightning_adapt.health.tally import REST

pytestmark = SMALL_RUN


# --- whose tables ---


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize("order", ["alone", "before", "after"])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_wherever_it_is_listed_it_finds_the_same_and_nothing_is_measured_twice(
    precision: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    measure = DynamicsProbe._measure
    monkeypatch.setattr(DynamicsProbe, "_measure", lambda *a, **k: (measured.append(1), measure(*a, **k))[1])
    callbacks, health = monitors(order, 1, [between(3, 6), loss_rule(-1.0)])
    trainer_for(precision, *callbacks).fit(observed())
    found = told(health.findings)
    assert [entry for entry in found if entry[0] != "loss"] == BETWEEN
    assert [entry for entry in found if entry[0] == "loss"] == [("loss", "", 0, 15, None)]
    assert len(measured) == 16


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize("order", ["before", "after"])
def test_the_listed_monitor_keeps_its_cadence(order: str) -> None:
    callbacks, health = monitors(order, 4, [between(0, 100)])
    health._own._every_n_steps = 1
    trainer_for("32-true", *callbacks).fit(observed())
    assert told(health.findings)[0] == ("between-warning", "body.weight", 3, 15, None)


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
def test_a_monitor_that_attached_itself_is_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_ADAPT", "1")
    health = OptimizerHealthMonitor([between(0, 100)], every_n_steps=1, strict=True)
    trainer = trainer_for("32-true", health, log_every_n_steps=5)
    assert [type(c).__name__ for c in callbacks_factory()] == ["OptimizerDynamicsMonitor"]
    attached = [c for c in trainer.callbacks if isinstance(c, OptimizerDynamicsMonitor)]  # type: ignore[attr-defined]
    if not attached:
        pytest.skip("the entry point is not installed")
    trainer.fit(observed())
    assert attached[0].latest is not None
    assert told(health.findings)[0] == ("between-warning", "body.weight", 4, 14, None)


def test_two_optimizers_are_judged_each() -> None:
    rule = between(3, 6, severity="info")
    health = OptimizerHealthMonitor([rule], every_n_steps=1, strict=True)
    trainer_for("16-mixed", health).fit(observed(manual=True))
    assert [(f.optimizer, f.parameter) for f in health.findings] == [
        ("AdamW", "body.weight"),
        ("AdamW-1", "head.weight"),
    ]


# --- who is told ---


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("OptimizerHealthMonitor: step")]


def test_the_terminal_is_told_once_and_at_the_end(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    rules = [between(3, 6), between(5, 20, severity="info")]
    health = OptimizerHealthMonitor(rules, every_n_steps=1, strict=True)
    with (
        warnings.catch_warnings(record=True) as caught,
        caplog.at_level(logging.INFO, logger="lightning.pytorch"),
    ):
        warnings.simplefilter("always")
        trainer_for("32-true", health).fit(observed())
    said = [str(w.message) for w in caught if issubclass(w.category, HealthWarning)]
    assert said == [
        "OptimizerHealthMonitor: warning: step 3, between-warning: body.weight is in the range at step 3; "
        "wait (and 1 more: head.weight)"
    ]
    assert _said(caplog) == [
        "OptimizerHealthMonitor: step 5, between-info: body.weight is in the range at step 5; "
        "wait (and 1 more: head.weight)",
        "OptimizerHealthMonitor: step 7, between-warning: over for body.weight, head.weight",
    ]
    page = capfd.readouterr().err
    assert "health: 2 info; 2 are over" in page
    assert "from 5" in page
    assert "3 to 7" in page


def test_a_healthy_run_says_so(caplog: pytest.LogCaptureFixture) -> None:
    health = OptimizerHealthMonitor([between(99, 99)], every_n_steps=1, strict=True)
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        trainer_for("32-true", health).fit(observed())
        trainer_for("32-true", OptimizerHealthMonitor(every_n_steps=99, strict=True)).fit(observed())
    assert "OptimizerHealthMonitor: nothing was found in 16 tables" in caplog.messages
    said = "OptimizerHealthMonitor: no table was read; `every_n_steps` says how often they are"
    assert said in caplog.messages


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
def test_loggers_aretold(tmp_path: Path) -> None:
    health = OptimizerHealthMonitor(
        [between(3, 6), between(5, 20, severity="info")], every_n_steps=1, strict=True
    )
    loggers = [tensorboard(tmp_path), CSVLogger(tmp_path, name="", version="csv")]
    trainer = trainer_for("32-true", health, logger=loggers)
    trainer.fit(observed())
    events = accumulated(tmp_path)
    holding = [(e.step, e.value) for e in events.Scalars("health/warning")]
    over = 7 + REST - 1  # an end is told when it has lasted
    assert holding == [(step, 2.0 if 3 <= step < over else 0.0) for step in range(16)]
    assert [e.value for e in events.Scalars("health/critical")] == [0.0] * 16
    texts = events.Tensors("health/findings/text_summary")
    assert [event.step for event in texts] == [3, 5, over]
    page = texts[1].tensor_proto.string_val[0].decode()
    assert page.count("\n| ") == 4
    assert "| warning | 3 | between-warning | body.weight is in the range at step 3 | wait |" in page
    with open(tmp_path / "csv" / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["health/info"]]
    assert [float(row["health/info"]) for row in rows] == [0.0] * 5 + [2.0] * 11
    assert trainer.callback_metrics["health/info"] == 2.0
    assert len(list(tmp_path.glob("*tfevents*"))) == 1
    found = [Finding.from_dict(values) for values in la.read_findings(tmp_path)]
    assert found == sorted(health.findings, key=lambda finding: finding.first_step)
    assert la.read_dynamics(tmp_path).steps == tuple(range(16))


# --- what it does ---


class Ends(Callback):
    """Whether the training ended in order."""

    def __init__(self) -> None:
        self.ended = False

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.ended = True


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_stop_ends_the_training_in_order(severity: str, tmp_path: Path) -> None:
    health = OptimizerHealthMonitor(
        [between(5, 99, severity=severity)], on_critical="stop", every_n_steps=1, strict=True
    )
    ends, saves = Ends(), ModelCheckpoint(tmp_path, save_last=True)
    module = observed()
    trainer = trainer_for("32-true", health, ends, saves, enable_checkpointing=True)
    trainer.fit(module)
    assert ends.ended
    assert trainer.state.finished
    assert (tmp_path / "last.ckpt").exists()
    assert len(module.real) == (6 if severity == "critical" else 16)


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize("order", ["alone", "before", "after"])
def test_raise_raises(order: str) -> None:
    callbacks, health = monitors(order, 1, [between(5, 99, severity="critical")])
    health._on_critical = "raise"
    module = observed()
    with pytest.raises(
        CriticalFindingError, match=r"between-critical at step 5: body.weight.*; wait \(1 more"
    ):
        trainer_for("32-true", *callbacks).fit(module)
    assert len(module.real) == (7 if order == "before" else 6)
    assert len(health.findings) == 2
    assert not module.trainer.optimizers[0]._optimizer_step_post_hooks


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
def test_raise_raises_for_what_is_found_at_the_very_end() -> None:
    health = OptimizerHealthMonitor([between(15, 99, severity="critical")], on_critical="raise", strict=True)
    dynamics = OptimizerDynamicsMonitor(1, strict=True)
    with pytest.raises(CriticalFindingError, match="at step 15"):
        trainer_for("32-true", health, dynamics).fit(observed())


@pytest.mark.parametrize("due", [2, 4])
def test_several_processes_decide_together_and_only_at_readings(
    due: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a process without tables, which is told by the others."""
    asked: list[tuple[int, bool]] = []

    def decide(trainer: Trainer, wanted: bool) -> bool:
        asked.append((trainer.fit_loop.epoch_loop._batches_that_stepped, wanted))
        return len(asked) == 3

    monkeypatch.setattr("lightning_adapt.callbacks._trainer.any_rank", decide)
    monkeypatch.setattr(Trainer, "world_size", 2)
    health = OptimizerHealthMonitor([between(99, 99)], on_critical="raise", every_n_steps=due, strict=True)
    with pytest.raises(CriticalFindingError, match="a critical finding on the first process"):
        trainer_for("32-true", health).fit(observed())
    assert asked == [(due - 1, False), (2 * due - 1, False), (3 * due - 1, False)]


def test_bad_arguments_aretold() -> None:
    with pytest.raises(ValueError, match="`on_critical` must be one of stop, raise, warn, got 'stopp'"):
        OptimizerHealthMonitor(on_critical="stopp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`keep` must be a whole number of at least 1, got 0"):
        OptimizerHealthMonitor(keep=0)
    with pytest.raises(ValueError, match="`dumps` must be a whole number of at least 0, got -1"):
        OptimizerHealthMonitor(dumps=-1)
    with pytest.raises(ValueError, match="`every_n_steps` must be"):
        OptimizerHealthMonitor(every_n_steps=0)
    with pytest.raises(ValueError, match="epsilon-flor"):
        OptimizerHealthMonitor({"epsilon-flor": False})


YAML = """
trainer:
  accelerator: cpu
  max_steps: 4
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_adapt.callbacks.OptimizerHealthMonitor
      init_args:
        every_n_steps: 1
        on_critical: stop
        rules:
          epsilon-floor: {threshold: 0.25, patience: 2}
          spike-warning: false
"""


class FromYaml(Observed):
    def __init__(self) -> None:
        super().__init__(ADAMW)


def test_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").write_text(YAML)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr("sys.argv", ["main.py", "fit", "--config", str(tmp_path / "run.yaml")])
    cli = LightningCLI(
        FromYaml, save_config_callback=None, auto_configure_optimizers=False, seed_everything_default=1
    )
    (health,) = [c for c in cli.trainer.callbacks if isinstance(c, OptimizerHealthMonitor)]  # type: ignore[attr-defined]
    rules = {rule.name: rule for rule in health._judge.rules}
    assert "spike-warning" not in rules
    assert rules["epsilon-floor"].thresholds["threshold"] == 0.25
    assert rules["epsilon-floor"].patience == 2
