"""LossScaleMonitor counts what the gradient scaler really did."""

from __future__ import annotations

import copy
import csv
import logging
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import IMPLEMENTATIONS, Observed, scaler_for, trainer_for
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lightning_adapt.callbacks import LossScaleMonitor
from lightning_adapt.callbacks._guard import Guard
from lightning_adapt.callbacks._numbers import Numbers
from lightning_adapt.callbacks._scale_ledger import ScaleLedger

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:.*lr_scheduler.step.*before.*optimizer.step",
    "ignore:`training_step` returned `None`",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
)
POISONED = frozenset({0, 5, 6})


class Poisoned(Observed):
    """Several poisoned batches, and one without a loss."""

    def training_step(self, batch: Tensor, index: int) -> Tensor | None:
        if index == 9:
            return None
        return self.loss(batch, index) * (torch.inf if index in POISONED else 1.0)


class Scales(Callback):
    """The scale after each batch, as the scaler says it."""

    def __init__(self) -> None:
        self.seen = [1024.0]

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        self.seen.append(trainer.precision_plugin.scaler.get_scale())

    def counts(self) -> tuple[int, int]:
        pairs = list(zip(self.seen, self.seen[1:], strict=False))
        return sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)


def _module(implementation: str = "single", kind: type[Observed] = Poisoned, **options: Any) -> Observed:
    torch.manual_seed(0)
    return kind(partial(torch.optim.AdamW, lr=0.01, **IMPLEMENTATIONS[implementation]), **options)


def _growing(interval: int = 3) -> Any:
    return scaler_for("16-mixed", growth_interval=interval)


def _logged(folder: Path) -> list[dict[str, float]]:
    with open(folder / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("loss_scale/scale")]
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


@pytest.mark.parametrize("clip_fused", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_logged_is_what_the_scaler_did(implementation: str, clip_fused: bool, tmp_path: Path) -> None:
    monitor, scales = LossScaleMonitor(every_n_steps=4, strict=True), Scales()
    options = {"scaler": _growing(), "clip_fused": clip_fused, "logger": CSVLogger(tmp_path, "", "")}
    trainer = trainer_for("16-mixed", monitor, scales, **options)
    trainer.fit(_module(implementation))
    growths, backoffs = scales.counts()
    assert growths > 2
    assert backoffs == 3
    assert monitor.counts == {
        "growths": growths,
        "backoffs": backoffs,
        "skipped_steps": 3,
        "real_steps": 12,
    }
    rows = _logged(tmp_path)
    assert [row["step"] for row in rows] == [3, 7, 11, 15]
    assert [row["loss_scale/scale"] for row in rows] == scales.seen[4::4]
    assert [row["loss_scale/skipped_steps"] for row in rows] == [1, 3, 3, 3]
    assert [row["loss_scale/real_steps"] for row in rows] == [3, 5, 8, 12]
    assert [row["loss_scale/global_step"] for row in rows] == [4, 8, 12, 16]
    assert [row["loss_scale/skipped_frac"] for row in rows] == [1 / 4, 3 / 8, 3 / 11, 3 / 15]
    assert [row["loss_scale/skipped_frac_recent"] for row in rows] == [1 / 4, 2 / 4, 0, 0]
    assert rows[-1]["loss_scale/growths"] == growths
    assert trainer.callback_metrics["loss_scale/skipped_steps"] == 3


@pytest.mark.parametrize("implementation", ["single", "fused"])
def test_two_optimizers_and_their_updates(implementation: str) -> None:
    monitor = LossScaleMonitor(every_n_steps=2, strict=True)
    module = _module(implementation, Observed, manual=True, poison=4)
    trainer = trainer_for("16-mixed", monitor, scaler=_growing(10))
    trainer.fit(module)
    # Both losses of the poisoned batch are inf: two skips, two back-offs in one batch.
    assert monitor.counts["skipped_steps"] == monitor.counts["backoffs"] == 2
    assert monitor.counts["real_steps"] == 30
    assert monitor.counts["growths"] == 2
    scale = 1024.0 * 2.0 ** (monitor.counts["growths"] - 2)
    assert trainer.precision_plugin.state_dict()["scale"] == scale


def test_accumulated_batches_are_no_steps(tmp_path: Path) -> None:
    monitor = LossScaleMonitor(every_n_steps=1, strict=True)
    logger = CSVLogger(tmp_path, "", "")
    trainer_for("16-mixed", monitor, logger=logger, accumulate_grad_batches=4).fit(_module(kind=Observed))
    assert [row["step"] for row in _logged(tmp_path)] == [0, 1, 2, 3]
    assert monitor.counts["real_steps"] == 4


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_without_a_scaler_it_says_so_once(
    precision: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monitor = LossScaleMonitor(every_n_steps=1, strict=True)
    logger = CSVLogger(tmp_path, "", "")
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        trainer_for(precision, monitor, logger=logger).fit(_module(kind=Observed))
    said = [record for record in caplog.messages if "LossScaleMonitor" in record]
    assert said == [f"LossScaleMonitor: no gradient scaler in {precision}; nothing to log"]
    assert not (tmp_path / "metrics.csv").exists()
    assert monitor.counts["real_steps"] == 0


def test_the_trainers_cadence_and_a_run_without_logger() -> None:
    monitor = LossScaleMonitor(strict=True)
    trainer_for("16-mixed", monitor, log_every_n_steps=5).fit(_module())
    assert monitor.counts["skipped_steps"] == 3


def test_a_resumed_run_counts_on(tmp_path: Path) -> None:
    monitor = LossScaleMonitor(every_n_steps=5, strict=True)
    trainer = trainer_for("16-mixed", monitor, max_steps=8, max_epochs=-1)
    trainer.fit(_module())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["LossScaleMonitor"]
    assert saved == {"growths": 0, "backoffs": 3, "skipped_steps": 3, "real_steps": 5}
    again = LossScaleMonitor(every_n_steps=5, strict=True)
    resumed = trainer_for("16-mixed", again, max_steps=16, max_epochs=-1)
    resumed.fit(_module(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert again.counts["real_steps"] + again.counts["skipped_steps"] == 15
    fresh = trainer_for("16-mixed", again)
    fresh.fit(_module())
    assert again.counts["skipped_steps"] == 3  # another trainer, another count


def test_a_checkpoint_in_the_middle_holds_all_steps_so_far() -> None:
    class Saves(Callback):
        def __init__(self, monitor: LossScaleMonitor) -> None:
            self.monitor, self.saved = monitor, []  # type: ignore[var-annotated]

        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            state = self.monitor.state_dict()
            self.saved.append(state["real_steps"] + state["skipped_steps"])

    monitor = LossScaleMonitor(every_n_steps=7, strict=True)
    saves = Saves(monitor)
    trainer_for("16-mixed", monitor, saves).fit(_module(kind=Observed))
    assert saves.saved == list(range(1, 17))


def test_it_can_be_copied_while_it_counts() -> None:
    class Copies(Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 7:
                monitor = trainer.callbacks[0]
                monitor.state_dict()
                for copied in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
                    assert copied.counts["skipped_steps"] == 3

    trainer_for("16-mixed", LossScaleMonitor(strict=True), Copies()).fit(_module())


@pytest.mark.parametrize("method", ["announced", "over", "send", "_made"])
def test_a_fault_ends_the_monitor_and_not_the_training(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(ScaleLedger, method, fail)
    module = _module(kind=Observed)
    with pytest.warns(RuntimeWarning, match=r"LossScaleMonitor switched itself off.*planted"):
        trainer_for("16-mixed", LossScaleMonitor(every_n_steps=1)).fit(module)
    assert len(module.real) == 16
    assert not module.trainer.optimizers[0]._optimizer_step_post_hooks
    with pytest.raises(ZeroDivisionError, match="planted"):
        trainer_for("16-mixed", LossScaleMonitor(every_n_steps=1, strict=True)).fit(_module(kind=Observed))


def test_what_was_noted_before_an_exception_is_counted() -> None:
    class Breaks(Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 7:
                raise KeyError("user's")

    monitor = LossScaleMonitor(every_n_steps=100, strict=True)
    with pytest.raises(KeyError, match="user's"):
        trainer_for("16-mixed", monitor, Breaks()).fit(_module())
    assert monitor.counts["real_steps"] + monitor.counts["skipped_steps"] == 8


def test_nothing_is_read_on_the_host_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    numbers = Numbers.__init__

    def counted(self: Numbers, values: Any) -> None:
        sent.append(len(values))
        numbers(self, values)

    monkeypatch.setattr(Numbers, "__init__", counted)
    trainer_for("16-mixed", LossScaleMonitor(every_n_steps=8, strict=True)).fit(_module("fused", Observed))
    assert sent == [17, 17, 1]  # eight scales, eight times found_inf, and the scale for the next step


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="`every_n_steps` must be a whole number of at least 1, got 0"):
        LossScaleMonitor(0)


class _Unread(Tensor):
    """Stands for a tensor on a device: who asks whether it is 0 waits for the device."""

    def __bool__(self) -> bool:
        pytest.fail("the device would be waited for")


class _Fused(torch.optim.SGD):
    """Is told what the scaler found, as a fused optimizer is, and does not step."""

    found_inf: Tensor

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


def test_what_a_fused_step_found_is_sent_without_being_read() -> None:
    optimizer = _Fused([torch.nn.Parameter(torch.ones(2))])
    optimizer.found_inf = torch.tensor(0.0).as_subclass(_Unread)
    ledger = ScaleLedger([optimizer], lambda: 1024.0, {}, Guard("test", strict=True))
    ledger.announced()
    optimizer.step()
    ledger.over()
    ledger.send({})
    ledger.detach()
    (report,) = ledger.collect(wait=True)
    assert (report.recent_steps, report.recent_skips) == (1, 0)
