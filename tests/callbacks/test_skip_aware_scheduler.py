"""SkipAwareScheduler against schedules driven by hand."""

from __future__ import annotations

import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import IMPLEMENTATIONS, Observed, trainer_for
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from lightning_adapt.callbacks import SkipAwareScheduler

# Without "ignore:.*lr_scheduler.step.*before.*optimizer.step": torch's warning is what skipped steps earn.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:`training_step` returned `None`",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
)
POISONED = frozenset({0, 1, 5, 9})


class Scheduled(Observed):
    """One schedule a test asks for, and the rate each batch used.

    Args:
        schedules: Functions of an optimizer that return a scheduler's configuration.
        nothing: A batch without a loss.
    """

    def __init__(
        self, *schedules: Any, implementation: str = "single", nothing: int | None = None, **options: Any
    ) -> None:
        make = partial(torch.optim.SGD, lr=1.0, **IMPLEMENTATIONS[implementation])
        super().__init__(make, **options)
        self.schedules, self.nothing = schedules, nothing
        self.advanced: list[list[int]] = [[] for _ in schedules]  # by schedule: batches at which it did
        self.poisoned = POISONED

    def training_step(self, batch: Tensor, index: int) -> Tensor | None:
        if index == self.nothing:
            return None
        return self.loss(batch, index) * (torch.inf if index in self.poisoned else 1e-3)

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters())
        self.configs = [schedule(optimizer) for schedule in self.schedules]
        return [optimizer], self.configs

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        which = [config["scheduler"] for config in self.configs].index(scheduler)
        epoch = self.trainer.current_epoch
        self.advanced[which].append(100 * epoch + self.trainer.fit_loop.epoch_loop.batch_idx)
        super().lr_scheduler_step(scheduler, metric)


def _halving(optimizer: Any, frequency: int = 1, interval: str = "step") -> dict[str, Any]:
    scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
    return {"scheduler": scheduler, "interval": interval, "frequency": frequency}


def _fit(module: Observed, *callbacks: Callback, **options: Any) -> Trainer:
    torch.manual_seed(0)
    trainer = trainer_for("16-mixed", *callbacks, **options)
    trainer.fit(module)
    return trainer


def _rates(module: Observed) -> list[float]:
    return [config["scheduler"].get_last_lr()[0] for config in module.configs]  # type: ignore[attr-defined]


def _by_hand(optimizer: torch.optim.Optimizer, real: list[bool], frequency: int) -> float:
    """The rate after steps, ``real`` or not, when it changes at each ``frequency``-th real one."""
    scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
    made = 0
    for step in real:
        if step:
            optimizer.step()
            made += 1
            if made % frequency == 0:
                scheduler.step()
    return float(scheduler.get_last_lr()[0])


@pytest.mark.parametrize("clip_fused", [False, True])
@pytest.mark.parametrize("frequency", [1, 2, 3, 5])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_is_the_schedule_driven_by_hand(implementation: str, frequency: int, clip_fused: bool) -> None:
    module = Scheduled(partial(_halving, frequency=frequency), implementation=implementation)
    _fit(module, SkipAwareScheduler(), clip_fused=clip_fused)
    made = [batch for batch in range(16) if batch not in POISONED]
    assert module.advanced[0] == made[frequency - 1 :: frequency]
    again = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert _rates(module) == [_by_hand(again, [b not in POISONED for b in range(16)], frequency)]


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step")
def test_lightning_alone_advances_on_skipped_steps() -> None:
    """Else the test above could not fail."""
    module = Scheduled(_halving)
    _fit(module)
    assert module.advanced[0] == list(range(16))


def test_the_rate_of_each_step_is_the_schedules() -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            self.seen.append(optimizer.param_groups[0]["lr"])

    rates = Rates()
    _fit(Scheduled(_halving), SkipAwareScheduler(), rates)
    made = 0
    for batch, rate in enumerate(rates.seen):
        assert rate == 0.9**made, batch
        made += batch not in POISONED


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("frequency", [1, 2, 3, 5])
def test_where_nothing_is_skipped_nothing_differs(frequency: int, accumulate: int) -> None:
    advanced = []
    for callbacks in ([], [SkipAwareScheduler()]):
        module = Scheduled(partial(_halving, frequency=frequency))
        module.poisoned = frozenset()
        _fit(module, *callbacks, accumulate_grad_batches=accumulate, max_epochs=2)
        advanced.append(module.advanced)
    assert advanced[0] == advanced[1]
    assert advanced[0][0]


@pytest.mark.parametrize("frequency", [1, 3])
def test_skipped_windows_of_accumulation_are_left_out(frequency: int) -> None:
    module = Scheduled(partial(_halving, frequency=3 * frequency))
    module.poisoned = frozenset({4})  # the second window of three batches
    _fit(module, SkipAwareScheduler(), accumulate_grad_batches=3, limit_train_batches=15)
    assert module.advanced[0] == ([2, 8, 11, 14] if frequency == 1 else [11])


def test_several_schedules_of_which_some_are_left_alone() -> None:
    def plateau(optimizer: Any) -> dict[str, Any]:
        scheduler = ReduceLROnPlateau(optimizer, patience=100)
        return {"scheduler": scheduler, "interval": "step", "monitor": "loss", "strict": False}

    class Logged(Scheduled):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.log("loss", 1.0)

    module = Logged(_halving, partial(_halving, frequency=4), partial(_halving, interval="epoch"), plateau)
    trainer = _fit(module, SkipAwareScheduler(), max_epochs=2)
    made = [100 * epoch + batch for epoch in (0, 1) for batch in range(16) if batch not in POISONED]
    assert module.advanced == [
        made,
        [made[i] for i in (3, 7, 11, 15, 19, 23)],
        [15, 115],
        [100 * epoch + batch for epoch in (0, 1) for batch in range(16)],
    ]
    frequencies = [config.frequency for config in trainer.lr_scheduler_configs]
    assert frequencies == [1, 4, 1, 1]


def test_a_fraction_of_the_frequency_is_lost_at_the_end_of_an_epoch_as_in_lightning() -> None:
    module = Scheduled(partial(_halving, frequency=5))
    module.poisoned = frozenset({3})
    _fit(module, SkipAwareScheduler(), max_epochs=2)
    assert module.advanced[0] == [5, 10, 15, 105, 110, 115]


def test_a_batch_without_a_loss_is_no_step() -> None:
    module = Scheduled(partial(_halving, frequency=2), nothing=3)
    module.poisoned = frozenset()
    _fit(module, SkipAwareScheduler())
    assert module.advanced[0] == [1, 4, 6, 8, 10, 12, 14]


def test_a_schedule_of_fixed_length() -> None:
    def cycle(optimizer: Any) -> dict[str, Any]:
        return {"scheduler": OneCycleLR(optimizer, 1.0, total_steps=16), "interval": "step"}

    module = Scheduled(cycle)
    _fit(module, SkipAwareScheduler())
    assert module.configs[0]["scheduler"].last_epoch == 12


class Saves(Callback):
    """Saves a checkpoint when batch ``at`` is over."""

    def __init__(self, path: Path, at: int) -> None:
        self.path, self.at = path, at

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.at:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize(("stop", "accumulate"), [(1, 1), (4, 1), (6, 1), (10, 1), (4, 3), (11, 3)])
def test_a_resumed_run_goes_on_in_the_epoch(stop: int, accumulate: int, tmp_path: Path) -> None:
    saved = tmp_path / "middle.ckpt"
    whole, rest = (Scheduled(partial(_halving, frequency=3)) for _ in range(2))
    _fit(whole, SkipAwareScheduler(), Saves(saved, stop), accumulate_grad_batches=accumulate)
    resumed = trainer_for("16-mixed", SkipAwareScheduler(), accumulate_grad_batches=accumulate)
    resumed.fit(rest, ckpt_path=saved, weights_only=True)
    assert rest.advanced[0] == [batch for batch in whole.advanced[0] if batch > stop]
    assert rest.advanced[0]
    assert _rates(rest) == _rates(whole)


def test_after_an_exception_the_schedules_are_as_they_were() -> None:
    class Breaks(Scheduled):
        def training_step(self, batch: Tensor, index: int) -> Tensor | None:
            if index == 7:
                raise KeyError("user's")
            return super().training_step(batch, index)

    module = Breaks(partial(_halving, frequency=3))
    trainer = trainer_for("16-mixed", SkipAwareScheduler())
    with pytest.raises(KeyError, match="user's"):
        trainer.fit(module)
    assert trainer.lr_scheduler_configs[0].frequency == 3
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_without_a_scaler_it_says_so(precision: str, caplog: pytest.LogCaptureFixture) -> None:
    module = Scheduled(partial(_halving, frequency=2))
    module.poisoned = frozenset()
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        trainer_for(precision, SkipAwareScheduler()).fit(module)
    assert f"SkipAwareScheduler: no gradient scaler in {precision}; nothing to do" in caplog.messages
    assert module.advanced[0] == list(range(1, 16, 2))


def test_manual_optimization_is_refused() -> None:
    module = Observed(partial(torch.optim.SGD, lr=0.1), manual=True)
    with pytest.raises(MisconfigurationException, match="must run with automatic optimization"):
        _fit(module, SkipAwareScheduler())


def test_it_can_be_copied_while_it_holds_schedules() -> None:
    class Copies(Callback):
        def on_before_optimizer_step(self, trainer: Any, *_: Any, **__: Any) -> None:
            copied = copy.deepcopy(trainer.callbacks[0])
            assert copied.state_dict() == trainer.callbacks[0].state_dict()
            assert not copied._held

    _fit(Scheduled(_halving), SkipAwareScheduler(), Copies())
