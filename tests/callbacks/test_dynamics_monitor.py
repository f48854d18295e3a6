"""The monitor in a real Trainer: loggers, cadence, resume, faults, set-ups."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.logged import accumulated
from helpers.runs import ADAMW, SMALL_RUN, Observed, tensorboard, trainer_for
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from torch import nn

import lightning_adapt as la
from lightning_adapt.callbacks import OptimizerDynamicsMonitor, callbacks_factory
from lightning_adapt.dynamics import COLUMNS
from lightning_adapt.views.packed_counts import BLOCK
from lightning_adapt.views.scalars import GLOBAL_COLUMNS, LEDGER

pytestmark = SMALL_RUN


def test_logs_at_the_cadence_of_the_trainer(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(history=None, strict=True)
    trainer_for("32-true", monitor, logger=tensorboard(tmp_path), log_every_n_steps=5).fit(Observed(ADAMW))
    assert [table.step for table in monitor.history] == [4, 9, 14]
    assert la.read_dynamics(tmp_path).steps == (4, 9, 14)


def test_what_is_logged_is_what_was_read(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, history=None, strict=True)
    loggers = [tensorboard(tmp_path / "tb"), CSVLogger(tmp_path, name="", version="csv")]
    trainer_for("32-true", monitor, logger=loggers).fit(Observed(ADAMW))
    events = accumulated(tmp_path / "tb")
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
    trainer = trainer_for("16-mixed", monitor, logger=tensorboard(tmp_path))
    trainer.fit(Observed(ADAMW, poison=3))
    tags = {tag for tag in accumulated(tmp_path).Tags()["scalars"] if tag.startswith("dynamics/")}
    worst = {f"dynamics/worst/{c}_{n}" for c in ("eps_floor_frac", "update_ratio") for n in (1, 2, 3)}
    assert tags == {f"dynamics/{name}" for name in (*GLOBAL_COLUMNS, *LEDGER)} | worst
    events = accumulated(tmp_path)
    assert [e.value for e in events.Scalars("dynamics/skipped_steps")] == [0, 0, 0] + [1] * 13
    assert len(events.Scalars("dynamics/real_steps")) == 16
    assert len(events.Scalars("dynamics/update_rms")) == 15  # a skipped step has no update to show


def test_statistics_without_meaning_are_not_logged(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, strict=True)
    trainer_for("32-true", monitor, logger=tensorboard(tmp_path)).fit(
        Observed(partial(torch.optim.SGD, lr=0.1))
    )
    tags = [tag for tag in accumulated(tmp_path).Tags()["scalars"] if tag.startswith("dynamics/")]
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
    trainer_for("32-true", monitor, logger=tensorboard(tmp_path), max_steps=2).fit(Wide(groups))
    assert monitor.latest is not None
    assert len(monitor.latest.rows) == 1004
    tags = accumulated(tmp_path).Tags()
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
    trainer_for("32-true", monitor, logger=tensorboard(tmp_path)).fit(Observed(ADAMW, manual=True))
    tags = [tag for tag in accumulated(tmp_path).Tags()["scalars"] if tag.startswith("dynamics/")]
    assert len(tags) <= 20
    assert {tag.split("/")[1] for tag in tags} == {"AdamW", "AdamW-1"}
    assert la.read_dynamics(tmp_path).optimizers == ("AdamW", "AdamW-1")


@pytest.mark.parametrize("most", [1, 3, 5])
def test_max_tags_is_kept_under_a_gradient_scaler(most: int, tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, max_tags=most, strict=True)
    module = Observed(ADAMW, poison=0)
    trainer_for("16-mixed", monitor, logger=tensorboard(tmp_path), max_steps=3).fit(module)
    tags = [tag for tag in accumulated(tmp_path).Tags()["scalars"] if tag.startswith("dynamics/")]
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


class Shown(Observed):
    """A metric for the progress bar, which Lightning reads on the host."""

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor | None:
        loss = super().training_step(batch, index)
        self.log("shown", torch.ones(()), prog_bar=True)
        return loss


def test_no_metric_of_others_is_read_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.trainer.connectors.logger_connector import result

    read: list[object] = []
    monkeypatch.setattr(result, "convert_tensors_to_scalars", lambda value: read.append(value) or value)
    times: list[int] = []
    for monitors in ([], [OptimizerDynamicsMonitor(every_n_steps=1, strict=True)]):
        read.clear()
        trainer = trainer_for("32-true", *monitors, max_steps=8)
        trainer.fit(Shown(ADAMW))
        times.append(len(read))
    assert times[0] == times[1]
    assert "dynamics/update_ratio" in trainer.callback_metrics


def test_margin_charts_and_worst_parameters_are_written(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=4, strict=True)
    trainer_for("32-true", monitor, logger=tensorboard(tmp_path), max_steps=8).fit(Wide(3, 4))
    tags = accumulated(tmp_path).Tags()
    assert "custom_scalars__config__" in tags["tensors"]
    assert "dynamics/worst_parameters/text_summary" in tags["tensors"]
    assert set(tags["histograms"]) == {"dynamics/log10_effective_lr", "dynamics/log10_second_moment"}


def test_monitors_may_stand_side_by_side() -> None:
    often = OptimizerDynamicsMonitor(every_n_steps=2, strict=True)
    seldom = OptimizerDynamicsMonitor(every_n_steps=8, strict=True)
    other = OptimizerDynamicsMonitor(every_n_steps=8, histograms=False, strict=True)
    trainer_for("32-true", often, seldom, other).fit(Observed(ADAMW))
    assert len(often.history) == 8
    assert len(seldom.history) == len(other.history) == 2


class Breaks(Observed):
    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        if batch_idx == 7:
            raise KeyboardInterrupt if os.environ.get("INTERRUPT") else RuntimeError("the data ran out")


def test_an_exception_in_training_leaves_no_hooks_and_loses_no_table(tmp_path: Path) -> None:
    monitor = OptimizerDynamicsMonitor(every_n_steps=2, history=None, strict=True)
    module = Breaks(ADAMW)
    with pytest.raises(RuntimeError, match="the data ran out"):
        trainer_for("32-true", monitor, logger=tensorboard(tmp_path)).fit(module)
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
