"""The monitor over several runs: a second fit, resuming, copies, checkpoints."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import torch
from helpers.runs import ADAMW, SMALL_RUN, Observed, tensorboard, trainer_for
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_adapt as la
from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.dynamics import DynamicsTable

pytestmark = SMALL_RUN


def test_fit_twice_reads_the_new_optimizer() -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, history=None, strict=True)
    module = Observed(ADAMW)
    for _ in range(2):
        trainer_for("32-true", monitor).fit(module)
        # Another Trainer is another run: nothing of the last one is counted or kept.
        assert [table.step for table in monitor.history] == [3, 7, 11, 15]
        assert [table.real_steps for table in monitor.history] == [4, 8, 12, 16]


def test_resume_continues_steps_and_ledger(tmp_path: Path) -> None:
    first = OptimizerDynamicsMonitor(every_n_steps=2, history=None, strict=True)
    trainer = trainer_for("16-mixed", first, max_steps=8, max_epochs=-1, logger=tensorboard(tmp_path))
    trainer.fit(Observed(ADAMW, poison=3))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    (state,) = (v for k, v in saved["callbacks"].items() if "OptimizerDynamicsMonitor" in k)
    assert state == {"ledgers": {"AdamW": {"real_steps": 7, "skipped_steps": 1}}}

    second = OptimizerDynamicsMonitor(every_n_steps=2, history=None, strict=True)
    trainer = trainer_for("16-mixed", second, max_steps=14, max_epochs=-1, logger=tensorboard(tmp_path))
    trainer.fit(Observed(ADAMW), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert [table.step for table in second.history] == [9, 11, 13]
    assert [table.real_steps for table in second.history] == [9, 11, 13]
    assert {table.skipped_steps for table in second.history} == {1}
    history = la.read_dynamics(tmp_path)
    assert history.steps == (1, 3, 5, 7, 9, 11, 13)


def test_another_cadence_goes_on_counting(tmp_path: Path) -> None:
    first = OptimizerDynamicsMonitor(every_n_steps=2, strict=True)
    trainer = trainer_for("16-mixed", first, max_steps=6, max_epochs=-1)
    trainer.fit(Observed(ADAMW, poison=3))
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    second = OptimizerDynamicsMonitor(every_n_steps=3, history=None, worst=1, strict=True)
    trainer = trainer_for("16-mixed", second, max_steps=12, max_epochs=-1)
    trainer.fit(Observed(ADAMW), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert [(t.step, t.real_steps, t.skipped_steps) for t in second.history] == [(8, 8, 1), (11, 11, 1)]


def test_a_monitor_that_does_not_count_saves_nothing_over_one_that_does(tmp_path: Path) -> None:
    counts = OptimizerDynamicsMonitor(every_n_steps=2, strict=True)
    idle = OptimizerDynamicsMonitor(strict=True)
    paths = [tmp_path / "1.ckpt", tmp_path / "2.ckpt"]
    for start, path in zip((None, paths[0]), paths, strict=True):
        trainer = trainer_for(
            "32-true", counts, idle, max_steps=8 if start else 4, max_epochs=-1, log_every_n_steps=0
        )
        trainer.fit(Observed(ADAMW), ckpt_path=start)
        trainer.save_checkpoint(path)
        saved = torch.load(path, weights_only=True)["callbacks"]["OptimizerDynamicsMonitor"]
        assert saved == {"ledgers": {"AdamW": {"real_steps": 8 if start else 4, "skipped_steps": 0}}}


def test_overlapping_steps_after_a_resume_are_read_once(tmp_path: Path) -> None:
    for lr in (0.01, 0.02):
        monitor = OptimizerDynamicsMonitor(every_n_steps=2, strict=True)
        make = partial(torch.optim.AdamW, lr=lr)
        trainer_for("32-true", monitor, max_steps=6, logger=tensorboard(tmp_path)).fit(Observed(make))
    history = la.read_dynamics(tmp_path)
    assert history.steps == (1, 3, 5)
    assert {table.learning_rates["group_0"] for table in history} == {0.02}


def test_a_second_run_without_a_logger_leaves_the_folder_of_the_first(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=2, strict=True)
    trainer_for("32-true", monitor, logger=tensorboard(tmp_path)).fit(Observed(ADAMW))
    before = sorted((file.name, file.stat().st_size) for file in tmp_path.glob("*tfevents*"))
    trainer_for("32-true", monitor, max_epochs=3).fit(Observed(ADAMW))
    assert sorted((file.name, file.stat().st_size) for file in tmp_path.glob("*tfevents*")) == before
    assert la.read_dynamics(tmp_path).steps == (1, 3, 5, 7, 9, 11, 13, 15)


def test_a_monitor_can_be_copied_during_and_after_a_run(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=2, strict=True)
    copies: list[OptimizerDynamicsMonitor] = []

    class Copies(Callback):
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            copies.append(copy.deepcopy(monitor))

    trainer_for("32-true", monitor, Copies(), logger=tensorboard(tmp_path)).fit(Observed(ADAMW))
    copies += [copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))]
    assert [len(each.history) for each in copies[-3:]] == [8, 8, 8]
    trainer_for("32-true", copies[0]).fit(Observed(ADAMW))
    assert copies[0].latest is not None
    assert copies[0].latest.real_steps == 16


def test_checkpoint_callback_and_validation_only(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, strict=True)
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=8)
    trainer: Trainer = trainer_for("32-true", monitor, keep, enable_checkpointing=True)
    trainer.fit(Observed(ADAMW))
    assert (tmp_path / "last.ckpt").exists()
    tables = la.dynamics.read_checkpoint(tmp_path / "last.ckpt")
    assert isinstance(tables[0], DynamicsTable)
    assert tables[0].names == ("body.weight", "body.bias", "head.weight", "head.bias")
