"""A run under watch: what it costs and how often it is read, writing off the thread, large models."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import pytest
import torch
from helpers.runs import Observed, trainer_for
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import lightning_adapt as la
from lightning_adapt.callbacks import OptimizerDynamicsMonitor, _session
from lightning_adapt.callbacks._writer import Writer
from lightning_adapt.dynamics import probe
from lightning_adapt.views.tensorboard import TensorBoardView

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
)


def _module(**options: Any) -> Observed:
    torch.manual_seed(0)
    return Observed(partial(torch.optim.AdamW, lr=0.01), **options)


def test_the_log_says_once_which_engine_reads_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=3, strict=True)).fit(_module())
    lines = [record.message for record in caplog.records if "engine" in record.message]
    assert lines == [
        "OptimizerDynamicsMonitor: every 3 steps, engine numba on cpu: it is the fastest for cpu"
    ]


# --- cost and budget ---


def test_what_it_costs_is_logged(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=2, strict=True)
    trainer = trainer_for("32-true", monitor, logger=CSVLogger(tmp_path))
    trainer.fit(_module())
    assert 0 < trainer.callback_metrics["monitor/overhead_frac"] < 1
    assert trainer.callback_metrics["monitor/dropped_readings"] == 0
    assert monitor.latest is not None
    assert monitor.latest.cost_s is not None
    assert 0 < monitor.latest.cost_s < 1


def test_a_budget_lengthens_the_interval_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = probe.take

    def slow(*args: Any, **options: Any) -> Any:
        reading = take(*args, **options)
        reading.watch._host += 0.5  # as if it had taken half a second
        return reading

    monkeypatch.setattr(probe, "take", slow)
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, budget=0.05, strict=True)
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        trainer_for("32-true", monitor).fit(_module())
    assert 3 <= len(monitor.history) < 8  # of 16 steps
    told = [record.message for record in caplog.records if "budget" in record.message]
    assert len(told) == 1
    assert "a reading every 1 steps takes more than the budget of 5.00%" in told[0]


@pytest.mark.parametrize("budget", [0, -0.1, 1.5, float("nan")])
def test_a_budget_is_a_share(budget: float) -> None:
    with pytest.raises(
        ValueError, match="`budget` must be a share of the step time above 0 and up to 1, got"
    ):
        OptimizerDynamicsMonitor(budget=budget)


def test_without_a_budget_every_step_is_read() -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for("32-true", monitor).fit(_module())
    assert len(monitor.history) == 16


# --- writing ---


def _writing_on(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    threads: set[str] = set()
    write = TensorBoardView.write

    def noted(self: TensorBoardView, *args: Any) -> None:
        threads.add(current_thread().name)
        write(self, *args)

    monkeypatch.setattr(TensorBoardView, "write", noted)
    return threads


def test_tensorboard_is_written_off_the_training_thread_in_order_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = _writing_on(monkeypatch)
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, strict=True)
    logger = TensorBoardLogger(tmp_path)
    trainer_for("32-true", monitor, logger=logger).fit(_module())
    assert threads == {"lightning-adapt-writer"}
    assert la.read_dynamics(logger.log_dir).steps == tuple(range(16))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_lost_when_training_breaks_off(error: type[BaseException], tmp_path: Path) -> None:
    class Breaking(Observed):
        def training_step(self, batch: Any, index: int) -> Any:
            if index == 5:
                raise error("enough")
            return super().training_step(batch, index)

    torch.manual_seed(0)
    logger = TensorBoardLogger(tmp_path)
    trainer = trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=1, strict=True), logger=logger)
    with pytest.raises((error, SystemExit)):
        trainer.fit(Breaking(partial(torch.optim.AdamW, lr=0.01)))
    logger.experiment.flush()
    assert la.read_dynamics(logger.log_dir).steps == tuple(range(5))


def test_a_writer_that_cannot_keep_up_costs_readings_not_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = Event()
    write = TensorBoardView.write
    monkeypatch.setattr(TensorBoardView, "write", lambda self, *a: (go.wait(30), write(self, *a))[1])
    monkeypatch.setattr(_session, "Output", partial(_session.Output, most=3))
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)

    class Ending(Observed):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 7:
                go.set()
                time.sleep(0.5)

    torch.manual_seed(0)
    logger = TensorBoardLogger(tmp_path)
    trainer = trainer_for("32-true", monitor, logger=[logger, CSVLogger(tmp_path)])
    with pytest.warns(UserWarning, match="readings are not in TensorBoard"):
        trainer.fit(Ending(partial(torch.optim.AdamW, lr=0.01)))
    csv = (Path(trainer.loggers[1].log_dir or "") / "metrics.csv").read_text()
    assert csv.count("\n") >= 17  # other loggers have every reading
    assert len(monitor.history) == 16  # nothing is lost in memory
    written = la.read_dynamics(logger.log_dir).steps
    assert written[0] == 0
    assert written[-1] == 15
    assert len(written) < 16
    assert trainer.callback_metrics["monitor/dropped_readings"] == 16 - len(written)


def test_a_fault_while_writing_switches_the_monitor_off_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorBoardView, "write", lambda *a: 1 / 0)
    put = Writer.put
    monkeypatch.setattr(Writer, "put", lambda self, job: (put(self, job), self.drain())[0])
    trainer = trainer_for(
        "32-true", OptimizerDynamicsMonitor(every_n_steps=1), logger=TensorBoardLogger(tmp_path)
    )
    with pytest.warns(RuntimeWarning, match="switched itself off after a fault: ZeroDivisionError"):
        trainer.fit(_module())
    assert trainer.global_step == 16


def test_a_fault_does_not_lose_what_was_read_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, take, readings = TensorBoardView.write, probe.take, []
    monkeypatch.setattr(TensorBoardView, "write", lambda self, *a: (time.sleep(0.05), write(self, *a))[1])

    def failing(*args: Any, **options: Any) -> Any:
        readings.append(1)
        if len(readings) > 8:
            raise ArithmeticError("enough")
        return take(*args, **options)

    monkeypatch.setattr(probe, "take", failing)
    logger = TensorBoardLogger(tmp_path)
    trainer = trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=1), logger=logger)
    with pytest.warns(RuntimeWarning, match="switched itself off after a fault: ArithmeticError"):
        trainer.fit(_module())
    assert la.read_dynamics(logger.log_dir).steps == tuple(range(8))


def test_the_first_reading_already_tells_its_cost(tmp_path: Path) -> None:
    trainer = trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=16), logger=CSVLogger(tmp_path))
    trainer.fit(_module())
    assert trainer.callback_metrics["monitor/overhead_frac"] > 0


def test_a_budget_counts_all_optimizers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[float] = []
    monkeypatch.setattr(_session.Budget, "add", lambda self, cost: added.append(cost))
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, history=None, budget=0.5, strict=True)
    trainer_for("32-true", monitor).fit(_module(manual=True))
    assert len(monitor.history) == 8
    assert len(added) == 4


# --- large models ---


@pytest.mark.parametrize(
    ("make", "precision", "source"),
    [
        (torch.optim.AdamW, "32-true", "predicted"),
        (torch.optim.AdamW, "bf16-mixed", "predicted"),
        (torch.optim.AdamW, "bf16-true", "measured"),  # bf16 rounds more away than a prediction can say
        (torch.optim.Adadelta, "32-true", "measured"),  # needs a state from before the step
    ],
)
def test_a_large_model_is_copied_only_where_its_state_does_not_tell_the_update(
    make: Any, precision: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "SNAPSHOT_BYTES", 0)
    torch.manual_seed(0)
    module = Observed(partial(make, lr=0.01))
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for(precision, monitor).fit(module)
    for table, real in zip(monitor.history, module.real, strict=True):
        assert table.update_source == source
        for name in table.names:
            update = real.update[name].double().square().mean().sqrt().item()
            assert table[name, "update_rms"] == pytest.approx(update, rel=1e-4, abs=1e-9)
