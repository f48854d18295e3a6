"""The monitor in a real Trainer: loggers, cadence, resume, faults, set-ups."""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Observed, trainer_for
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import lightning_adapt as la
from lightning_adapt.callbacks import OptimizerDynamicsMonitor, callbacks_factory
from lightning_adapt.dynamics import COLUMNS, DynamicsTable
from lightning_adapt.views.packed_counts import BLOCK
from lightning_adapt.views.scalars import GLOBAL_COLUMNS, LEDGER

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:.*lr_scheduler.step.*before.*optimizer.step",
    "ignore:Checkpoint directory",
    "ignore:You.re resuming from a checkpoint that ended before the epoch ended",
)

ADAMW = partial(torch.optim.AdamW, lr=0.01)


def _tensorboard(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(folder, name="", version="")


def _accumulated(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "histograms": 0})
    events.Reload()
    return events


def test_logs_at_the_cadence_of_the_trainer(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(history=None, strict=True)
    trainer_for("32-true", monitor, logger=_tensorboard(tmp_path), log_every_n_steps=5).fit(Observed(ADAMW))
    assert [table.step for table in monitor.history] == [4, 9, 14]
    assert la.read_dynamics(tmp_path).steps == (4, 9, 14)


def test_what_is_logged_is_what_was_read(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, history=None, strict=True)
    loggers = [_tensorboard(tmp_path / "tb"), CSVLogger(tmp_path, name="", version="csv")]
    trainer_for("32-true", monitor, logger=loggers).fit(Observed(ADAMW))
    events = _accumulated(tmp_path / "tb")
    for table, event in zip(monitor.history, events.Scalars("dynamics/update_rms"), strict=True):
        total = (table["numel"] * table["update_rms"] ** 2).sum() / table["numel"].sum()
        assert event.value == pytest.approx(math.sqrt(total))
        assert event.step == table.step
    with open(tmp_path / "csv" / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["dynamics/update_rms"]]
    assert [int(row["step"]) for row in rows] == [3, 7, 11, 15]
    assert {key for key in rows[0] if key.startswith("dynamics/")} == {
        tag for tag in events.Tags()["scalars"] if tag.startswith("dynamics/")
    }
    assert len(list((tmp_path / "tb").glob("*tfevents*"))) == 1  # a second one would freeze TensorBoard


def test_the_key_set_is_fixed_and_known(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, strict=True)
    trainer = trainer_for("16-mixed", monitor, logger=_tensorboard(tmp_path))
    trainer.fit(Observed(ADAMW, poison=3))
    tags = {tag for tag in _accumulated(tmp_path).Tags()["scalars"] if tag.startswith("dynamics/")}
    worst = {f"dynamics/worst/{c}_{n}" for c in ("eps_floor_frac", "update_ratio") for n in (1, 2, 3)}
    assert tags == {f"dynamics/{name}" for name in (*GLOBAL_COLUMNS, *LEDGER)} | worst
    events = _accumulated(tmp_path)
    assert [e.value for e in events.Scalars("dynamics/skipped_steps")] == [0, 0, 0] + [1] * 13
    assert len(events.Scalars("dynamics/real_steps")) == 16
    assert len(events.Scalars("dynamics/update_rms")) == 15  # a skipped step has no update to show


def test_statistics_without_meaning_are_not_logged(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, strict=True)
    trainer_for("32-true", monitor, logger=_tensorboard(tmp_path)).fit(
        Observed(partial(torch.optim.SGD, lr=0.1))
    )
    tags = [tag for tag in _accumulated(tmp_path).Tags()["scalars"] if tag.startswith("dynamics/")]
    assert "dynamics/effective_lr_p50" in tags
    assert not any(word in tag for tag in tags for word in ("eps", "moment", "snr", "rms_t"))


class Wide(Observed):
    """Many parameters in many groups."""

    def __init__(self, groups: int = 40, layers: int = 500) -> None:
        super().__init__(ADAMW)
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(layers))
        self.groups = groups

    def loss(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        x = batch[:, :2]
        for layer in self.layers:
            x = x + 0.01 * layer(x)
        return x.square().mean() + super().loss(batch, index)

    def configure_optimizers(self) -> Any:
        parameters = list(self.parameters())
        return torch.optim.AdamW(
            [
                {"params": parameters[start :: self.groups], "name": f"layer_{start}"}
                for start in range(self.groups)
            ],
            lr=0.01,
        )


@pytest.mark.parametrize("groups", [1, 7, 60, 400])
def test_few_tags_for_a_thousand_parameters(groups: int, tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, strict=True)
    trainer_for("32-true", monitor, logger=_tensorboard(tmp_path), max_steps=2).fit(Wide(groups))
    assert monitor.latest is not None
    assert len(monitor.latest.rows) == 1004
    tags = _accumulated(tmp_path).Tags()
    ours = [tag for tag in tags["scalars"] if tag.startswith("dynamics/")]
    assert 27 <= len(ours) <= 100
    assert len(tags["histograms"]) == 2
    # The table: a header, a tag a column, and one for each block of histograms, for any number of groups.
    of_table = [tag for tag in tags["tensors"] if tag.startswith("optimizer_dynamics/")]
    assert len(of_table) == 1 + len(COLUMNS) + -(-1004 // BLOCK)
    if 1 < groups < 60:
        assert f"dynamics/layer_{groups - 1}/effective_lr_p50" in ours


def test_max_tags_is_kept_for_two_optimizers(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=2, max_tags=20, strict=True)
    trainer_for("32-true", monitor, logger=_tensorboard(tmp_path)).fit(Observed(ADAMW, manual=True))
    tags = [tag for tag in _accumulated(tmp_path).Tags()["scalars"] if tag.startswith("dynamics/")]
    assert len(tags) <= 20
    assert {tag.split("/")[1] for tag in tags} == {"AdamW", "AdamW-1"}
    assert la.read_dynamics(tmp_path).optimizers == ("AdamW", "AdamW-1")


@pytest.mark.parametrize("most", [1, 3, 5])
def test_max_tags_is_kept_under_a_gradient_scaler(most: int, tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, max_tags=most, strict=True)
    module = Observed(ADAMW, poison=0)
    trainer_for("16-mixed", monitor, logger=_tensorboard(tmp_path), max_steps=3).fit(module)
    tags = [tag for tag in _accumulated(tmp_path).Tags()["scalars"] if tag.startswith("dynamics/")]
    assert len(tags) == most


@pytest.mark.filterwarnings("ignore:OptimizerDynamicsMonitor. no update rule for LBFGS")
def test_an_optimizer_without_a_rule_logs_no_figure_that_never_comes(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, strict=True)
    logger = CSVLogger(tmp_path, name="", version="csv")
    trainer_for("32-true", monitor, logger=logger, max_steps=3).fit(Observed(torch.optim.LBFGS))
    with open(tmp_path / "csv" / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["dynamics/update_rms"]]
    logged = {key: {row[key] for row in rows} for key in rows[0] if key.startswith("dynamics/")}
    assert [key for key, values in logged.items() if values <= {"", "nan"}] == []


def test_without_a_logger_tables_stay_in_memory() -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=2, history=3, strict=True)
    trainer = trainer_for("32-true", monitor)
    trainer.fit(Observed(ADAMW))
    assert [table.step for table in monitor.history] == [11, 13, 15]
    assert monitor.latest is monitor.history[-1]
    assert trainer.callback_metrics["dynamics/update_ratio"] > 0


@pytest.mark.parametrize("logger", [True, False])
def test_fast_dev_run(logger: bool) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, strict=True)
    trainer_for("32-true", monitor, fast_dev_run=2, logger=logger).fit(Observed(ADAMW))
    assert [table.step for table in monitor.history] == [0, 1]


def test_a_trainer_that_logs_nothing_is_not_watched() -> None:
    monitor = OptimizerDynamicsMonitor(strict=True)
    trainer_for("32-true", monitor, log_every_n_steps=0).fit(Observed(ADAMW))
    assert monitor.latest is None


def test_early_stopping_can_watch_a_statistic() -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, strict=True)
    stop = EarlyStopping(
        "dynamics/update_ratio", stopping_threshold=1e9, check_on_train_epoch_end=True, patience=1
    )
    trainer = trainer_for("32-true", monitor, stop, max_epochs=5)
    trainer.fit(Observed(ADAMW))
    assert trainer.current_epoch == 1


def test_margin_charts_and_worst_parameters_are_written(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, strict=True)
    trainer_for("32-true", monitor, logger=_tensorboard(tmp_path), max_steps=8).fit(Wide(3, 4))
    tags = _accumulated(tmp_path).Tags()
    assert "custom_scalars__config__" in tags["tensors"]
    assert "dynamics/worst_parameters/text_summary" in tags["tensors"]
    assert set(tags["histograms"]) == {"dynamics/log10_effective_lr", "dynamics/log10_second_moment"}


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
    trainer = trainer_for("16-mixed", first, max_steps=8, max_epochs=-1, logger=_tensorboard(tmp_path))
    trainer.fit(Observed(ADAMW, poison=3))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    (state,) = (v for k, v in saved["callbacks"].items() if "OptimizerDynamicsMonitor" in k)
    assert state == {"ledgers": {"AdamW": {"real_steps": 7, "skipped_steps": 1}}}

    second = OptimizerDynamicsMonitor(every_n_steps=2, history=None, strict=True)
    trainer = trainer_for("16-mixed", second, max_steps=14, max_epochs=-1, logger=_tensorboard(tmp_path))
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
        trainer_for("32-true", monitor, max_steps=6, logger=_tensorboard(tmp_path)).fit(Observed(make))
    history = la.read_dynamics(tmp_path)
    assert history.steps == (1, 3, 5)
    assert {table.learning_rates["group_0"] for table in history} == {0.02}


def test_monitors_may_stand_side_by_side() -> None:
    often = OptimizerDynamicsMonitor(every_n_steps=2, strict=True)
    seldom = OptimizerDynamicsMonitor(every_n_steps=8, strict=True)
    other = OptimizerDynamicsMonitor(every_n_steps=8, histograms=False, strict=True)
    trainer_for("32-true", often, seldom, other).fit(Observed(ADAMW))
    assert len(often.history) == 8
    assert len(seldom.history) == len(other.history) == 2


def test_a_second_run_without_a_logger_leaves_the_folder_of_the_first(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=2, strict=True)
    trainer_for("32-true", monitor, logger=_tensorboard(tmp_path)).fit(Observed(ADAMW))
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

    trainer_for("32-true", monitor, Copies(), logger=_tensorboard(tmp_path)).fit(Observed(ADAMW))
    copies += [copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))]
    assert [len(each.history) for each in copies[-3:]] == [8, 8, 8]
    trainer_for("32-true", copies[0]).fit(Observed(ADAMW))
    assert copies[0].latest is not None
    assert copies[0].latest.real_steps == 16


class Breaks(Observed):
    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        if batch_idx == 7:
            raise KeyboardInterrupt if os.environ.get("INTERRUPT") else RuntimeError("the data ran out")


def test_an_exception_in_training_leaves_no_hooks_and_loses_no_table(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=2, history=None, strict=True)
    module = Breaks(ADAMW)
    with pytest.raises(RuntimeError, match="the data ran out"):
        trainer_for("32-true", monitor, logger=_tensorboard(tmp_path)).fit(module)
    assert [table.step for table in monitor.history] == [1, 3, 5]
    optimizer = module.trainer.optimizers[0]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert la.read_dynamics(tmp_path).steps == (1, 3, 5)


def _broken(*_: object, **__: object) -> None:
    raise ArithmeticError("a fault of ours")


@pytest.mark.parametrize("where", ["arm", "_measure", "collect"])
def test_a_fault_switches_the_monitor_off_and_training_goes_on(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"lightning_adapt.dynamics.probe.DynamicsProbe.{where}", _broken)
    module = Observed(ADAMW)
    with pytest.warns(RuntimeWarning, match="switched itself off after a fault: ArithmeticError") as told:
        trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=2)).fit(module)
    assert len(module.real) == 16
    assert len([w for w in told if "switched itself off" in str(w.message)]) == 1
    assert not module.trainer.optimizers[0]._optimizer_step_post_hooks


@pytest.mark.parametrize("where", ["arm", "_measure", "collect"])
def test_strict_lets_a_fault_out(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"lightning_adapt.dynamics.probe.DynamicsProbe.{where}", _broken)
    with pytest.raises(ArithmeticError, match="a fault of ours"):
        trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=2, strict=True)).fit(Observed(ADAMW))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"every_n_steps": 0}, "`every_n_steps` must be a whole number of at least 1, got 0"),
        ({"every_n_steps": 2.5}, "`every_n_steps` must be a whole number of at least 1, got 2.5"),
        ({"every_n_steps": "10"}, "`every_n_steps` must be a whole number of at least 1, got '10'"),
        ({"history": 0}, "`history` must be a whole number of at least 1, got 0"),
        ({"worst": -1}, "`worst` must be a whole number of at least 0, got -1"),
        ({"max_tags": 0}, "`max_tags` must be a whole number of at least 1, got 0"),
        ({"engine": "eagre"}, "`engine` must be one of .* did you mean 'eager'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        OptimizerDynamicsMonitor(**arguments)


class WithoutHooks:
    """What Lightning's protocol asks of an optimizer, and no more."""

    def __init__(self, parameters: Any) -> None:
        self.param_groups = [{"params": list(parameters), "lr": 0.1}]
        self.state: dict[Any, Any] = {}
        self.defaults: dict[str, Any] = {}

    def step(self, closure: Any = None) -> None:
        closure()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"state": {}, "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def test_an_optimizer_without_hooks_is_refused_with_one_sentence() -> None:
    with pytest.warns(UserWarning, match="WithoutHooks must have `register_step_post_hook`"):
        trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=1), max_steps=2).fit(
            Observed(WithoutHooks)  # type: ignore[arg-type]
        )
    with pytest.raises(MisconfigurationException, match=r"derive it from torch.optim.Optimizer"):
        trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=1, strict=True), max_steps=2).fit(
            Observed(WithoutHooks)  # type: ignore[arg-type]
        )


class Lookahead(torch.optim.Optimizer):
    """Every second step goes half of the way back to where it was two steps ago."""

    def __init__(self, parameters: Any) -> None:
        self.optimizer = torch.optim.AdamW(parameters, lr=0.01)
        super().__init__(self.optimizer.param_groups, {})
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.count = 0

    def step(self, closure: Any = None) -> Any:
        loss = self.optimizer.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            fast = [p for group in self.param_groups for p in group["params"]]
            with torch.no_grad():
                for slow, parameter in zip(self.slow, fast, strict=True):
                    parameter.copy_(slow.lerp_(parameter, 0.5))
        return loss


@pytest.mark.filterwarnings("ignore:OptimizerDynamicsMonitor. no update rule for Lookahead")
def test_an_optimizer_around_another_is_watched_itself() -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=2, history=None, strict=True)
    module = Observed(Lookahead)
    trainer_for("32-true", monitor, max_steps=6).fit(module)
    for table in monitor.history:
        real = module.real[table.step].update["body.weight"].square().mean().sqrt().item()
        assert table.optimizer == "Lookahead"
        assert table["body.weight", "update_rms"] == pytest.approx(real, rel=1e-6)


class HalfMade(torch.optim.Optimizer):
    """As many in the wild: ``Optimizer.__init__`` is never called."""

    def __init__(self, parameters: Any) -> None:
        self.optimizer = torch.optim.AdamW(parameters, lr=0.01)
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state
        self.defaults = self.optimizer.defaults

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


class ZeroRedundancyOptimizer(torch.optim.SGD):
    """Stands in for torch's, which needs a process group."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.optim, self.world_size = torch.optim.SGD(self.param_groups[0]["params"], lr=0.1), 2


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (HalfMade, "HalfMade must have `register_step_post_hook`.* call its __init__"),
        (ZeroRedundancyOptimizer, "must have all parameters on each rank .* use the optimizer inside it"),
    ],
)
def test_optimizers_that_cannot_be_watched_whole_are_refused(make: Any, sentence: str) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1)
    with pytest.warns(UserWarning, match=sentence):
        trainer_for("32-true", monitor, max_steps=2).fit(Observed(make))
    assert monitor.latest is None


class Alternating(Observed):
    """The head steps only every third batch, as in adversarial training."""

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        body, head = self.optimizers()  # type: ignore[misc]
        self.toggle_optimizer(body)
        self.manual_backward(self.loss(batch, index))
        body.step()
        body.zero_grad()
        self.untoggle_optimizer(body)
        if index % 3 == 0:
            self.manual_backward(self.loss(batch, index))
            head.step()
            head.zero_grad()


def test_an_optimizer_that_steps_seldom_is_still_read() -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=5, history=None, strict=True)
    trainer_for("32-true", monitor).fit(Alternating(ADAMW, manual=True))
    assert [t.step for t in monitor.history if t.optimizer == "AdamW"] == [4, 9, 14]
    assert [t.step for t in monitor.history if t.optimizer == "AdamW-1"] == [6, 9, 15]


class Unfreezing(Observed):
    def __init__(self) -> None:
        super().__init__(ADAMW)
        self.body.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.head.parameters(), lr=0.01)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        if batch_idx == 8:
            self.body.requires_grad_(True)
            self.trainer.optimizers[0].add_param_group({"params": list(self.body.parameters())})


def test_parameters_that_join_later_become_rows(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=8, history=None, strict=True)
    trainer_for("32-true", monitor, logger=_tensorboard(tmp_path)).fit(Unfreezing())
    assert [len(table.rows) for table in monitor.history] == [2, 4]
    assert monitor.history[1].names == ("body.weight", "body.bias", "head.weight", "head.bias")
    assert [len(table.rows) for table in la.read_dynamics(tmp_path)] == [2, 4]


@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist")
@pytest.mark.parametrize("configured", [False, True])
def test_lightnings_finetuning_works_with_our_factories(configured: bool) -> None:
    class Unfreeze(BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.body)

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.body, optimizer)

    class Tuned(Observed):
        def configure_optimizers(self) -> Any:
            if configured:
                return la.optimizers.configure(self, "adamw", lr=0.1, schedule="cosine", total_steps=32)
            return la.optimizers.adamw(self, lr=0.1)

    monitor = OptimizerDynamicsMonitor(every_n_steps=16, history=None, strict=True)
    trainer_for("32-true", monitor, Unfreeze(), max_epochs=2).fit(Tuned(ADAMW))
    assert [table.names for table in monitor.history] == [
        ("head.weight", "head.bias"),
        ("body.weight", "body.bias", "head.weight", "head.bias"),
    ]


def test_a_skipped_step_has_the_rates_it_would_have_used() -> None:
    class Halving(Observed):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1.0)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }

    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for("16-mixed", monitor, max_steps=5).fit(Halving(ADAMW, poison=2))
    skipped = monitor.history[2]
    assert skipped.skipped
    rates = [table.learning_rates["group_0"] for table in monitor.history]
    assert rates == [1.0, 0.5, 0.25, *rates[3:]]
    # The row's figures are of the same rate: the second moment has not moved.
    before = monitor.history[1]["body.weight", "effective_lr_p50"]
    assert skipped["body.weight", "effective_lr_p50"] == pytest.approx(before / 2, rel=0.3)


def test_the_factory_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTNING_ADAPT", raising=False)
    assert callbacks_factory() == []
    assert not [c for c in _callbacks() if isinstance(c, OptimizerDynamicsMonitor)]
    monkeypatch.setenv("LIGHTNING_ADAPT", "1")
    assert [type(c) for c in callbacks_factory()] == [OptimizerDynamicsMonitor]
    assert len([c for c in _callbacks() if isinstance(c, OptimizerDynamicsMonitor)]) == 1


def _callbacks(*given: Any) -> list[Any]:
    return trainer_for("32-true", *given).callbacks  # type: ignore[attr-defined,no-any-return]


def test_a_monitor_of_your_own_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_ADAPT", "1")
    mine = OptimizerDynamicsMonitor(every_n_steps=4, strict=True)
    trainer = trainer_for("32-true", mine)
    trainer.fit(Observed(ADAMW))
    (other,) = (
        c
        for c in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(c, OptimizerDynamicsMonitor) and c is not mine
    )
    assert len(mine.history) == 4
    assert other.latest is None


def test_the_factory_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_ADAPT", "1")
    monkeypatch.setattr(OptimizerDynamicsMonitor, "_attached_by_itself", _broken)
    with pytest.warns(RuntimeWarning, match="LIGHTNING_ADAPT is set but the monitor could not be made"):
        assert callbacks_factory() == []


def test_sharded_strategies_are_refused_in_setup() -> None:
    class Sharded:
        strategy = type("FSDPStrategy", (), {})()
        callbacks: tuple[()] = ()
        loggers: tuple[()] = ()

    monitor = OptimizerDynamicsMonitor(strict=True)
    with pytest.raises(MisconfigurationException, match="use DDP or a single device"):
        monitor.setup(Sharded(), Observed(ADAMW), "fit")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="FSDPStrategy, which shards"):
        OptimizerDynamicsMonitor().setup(Sharded(), Observed(ADAMW), "fit")  # type: ignore[arg-type]


def test_checkpoint_callback_and_validation_only(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, strict=True)
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=8)
    trainer: Trainer = trainer_for("32-true", monitor, keep, enable_checkpointing=True)
    trainer.fit(Observed(ADAMW))
    assert (tmp_path / "last.ckpt").exists()
    tables = la.dynamics.read_checkpoint(tmp_path / "last.ckpt")
    assert isinstance(tables[0], DynamicsTable)
    assert tables[0].names == ("body.weight", "body.bias", "head.weight", "head.bias")


class Failing(Observed):
    """The first step runs out of memory in its closure; the module catches it and goes on."""

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        optimizer = self.optimizers()[0]  # type: ignore[index]

        def closure() -> torch.Tensor:
            if index == 0:
                raise MemoryError
            optimizer.zero_grad()
            loss = self.loss(batch, index)
            self.manual_backward(loss)
            return loss

        with contextlib.suppress(MemoryError):
            optimizer.step(closure)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fault_in_a_step_that_training_survives(precision: str) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for(precision, monitor).fit(Failing(ADAMW, manual=True))
    assert [table.step for table in monitor.history] == list(range(1, 16))
    assert not any(table.skipped for table in monitor.history)
    assert (monitor.history[-1].real_steps, monitor.history[-1].skipped_steps) == (15, 0)


class SometimesNothing(Observed):
    nothing_at: tuple[int, ...] = (0, 5)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor | None:
        return None if index in self.nothing_at else self.loss(batch, index)


@pytest.mark.filterwarnings("ignore:.*training_step.*returned.*None")
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_no_loss_is_no_skip_and_does_not_freeze_the_keys(precision: str, tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for(precision, monitor, logger=_tensorboard(tmp_path)).fit(SometimesNothing(ADAMW))
    assert not any(table.skipped for table in monitor.history)
    assert monitor.history[-1].skipped_steps == 0
    if precision == "16-mixed":
        assert [table.step for table in monitor.history] == [s for s in range(16) if s not in (0, 5)]
    tags = _accumulated(tmp_path).Tags()["scalars"]
    assert "dynamics/eps_floor_frac" in tags


class Raw(Observed):
    def training_step(self, batch: torch.Tensor, index: int) -> None:
        for optimizer in self.optimizers(use_pl_optimizer=False):  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch, index))
            optimizer.step()


def test_a_raw_optimizer_stepped_by_hand_is_read() -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, history=None, strict=True)
    trainer_for("32-true", monitor).fit(Raw(ADAMW, manual=True))
    assert [table.step for table in monitor.history if table.optimizer == "AdamW"] == [3, 7, 11, 15]

    assert {table.global_step for table in monitor.history} == {0}  # as Lightning counts: not these


class MovingClosure(Observed):
    """Steps with a closure that changes a parameter."""

    seen: dict[int, torch.Tensor] = {}  # noqa: RUF012

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        optimizer = self.optimizers()[0]  # type: ignore[index]

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = self.loss(batch, index)
            self.manual_backward(loss)
            with torch.no_grad():
                self.body.weight.mul_(2.0)
                self.seen[0] = self.body.weight.clone()
            return loss

        optimizer.step(closure)
        self.moved = (self.body.weight.detach() - self.seen[0]).double().square().mean().sqrt().item()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_what_a_closure_does_by_hand_is_no_update(precision: str) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    module = MovingClosure(ADAMW, manual=True)
    trainer_for(precision, monitor, max_steps=3).fit(module)
    assert monitor.latest is not None
    assert monitor.latest["body.weight", "update_rms"] == pytest.approx(module.moved, rel=1e-6)
    assert [table.global_step for table in monitor.history if not table.skipped] == [1, 2, 3]


def test_two_optimizers_of_which_one_has_no_hooks() -> None:
    class Both(Observed):
        def training_step(self, batch: torch.Tensor, index: int) -> None:
            self.optimizers()[0].zero_grad()  # type: ignore[index]
            self.manual_backward(self.loss(batch, index))
            self.optimizers()[0].step()  # type: ignore[index]

        def configure_optimizers(self) -> Any:
            return [ADAMW(self.body.parameters()), WithoutHooks(self.head.parameters())]

    monitor = OptimizerDynamicsMonitor(every_n_steps=8, history=None)
    with pytest.warns(UserWarning, match="Training goes on without watching it"):
        trainer_for("32-true", monitor).fit(Both(ADAMW, manual=True))
    assert [table.optimizer for table in monitor.history] == ["AdamW", "AdamW"]


def test_without_tensorboard_the_monitor_still_works(tmp_path: Path) -> None:
    """In a process where TensorBoard cannot be imported."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "sys.modules['tensorboard'] = sys.modules['tensorboardX'] = None\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from helpers.runs import Observed, trainer_for\n"
        "import lightning_adapt as la, torch\n"
        "from functools import partial\n"
        "from lightning_adapt.callbacks import OptimizerDynamicsMonitor\n"
        "from lightning.pytorch.loggers import CSVLogger\n"
        f"logger = CSVLogger({str(tmp_path)!r})\n"
        "monitor = OptimizerDynamicsMonitor(every_n_steps=4, strict=True)\n"
        "trainer_for('32-true', monitor, logger=logger).fit(Observed(partial(torch.optim.AdamW, lr=0.01)))\n"
        "assert len(monitor.history) == 4\n"
        f"open({str(tmp_path / 'events.out.tfevents.1')!r}, 'w').close()\n"
        "try:\n"
        f"    la.read_dynamics({str(tmp_path)!r})\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    assert "pip install 'lightning-adapt[tensorboard]'" in done.stdout
