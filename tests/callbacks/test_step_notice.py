"""OptimizerStepNotice calls when, and only when, an optimizer really stepped."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import IMPLEMENTATIONS, PRECISIONS, Observed, trainer_for
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lightning_adapt.callbacks import OptimizerDynamicsMonitor, OptimizerStepNotice

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:.*lr_scheduler.step.*before.*optimizer.step",
    "ignore:`training_step` returned `None`",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
)
POISONED = 5


class Steps(Callback):
    """Writes down at which batch it was called, and what the parameters were."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.optimizers: list[Any] = []
        self.weights: list[Tensor] = []

    def on_after_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        assert isinstance(trainer, Trainer)
        self.batches.append(trainer.fit_loop.epoch_loop._batches_that_stepped)
        self.optimizers.append(optimizer)
        self.weights.append(pl_module.body.weight.detach().clone())


def _run(module: Observed, precision: str, *callbacks: Callback, **options: Any) -> Steps:
    steps = Steps()
    trainer_for(precision, steps, OptimizerStepNotice(), *callbacks, **options).fit(module)
    return steps


def _module(implementation: str = "single", kind: type[Observed] = Observed, **options: Any) -> Observed:
    torch.manual_seed(0)
    return kind(partial(torch.optim.AdamW, lr=0.01, **IMPLEMENTATIONS[implementation]), **options)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_step_is_told_when_the_parameters_are_new(precision: str, implementation: str) -> None:
    module = _module(implementation)
    before = module.body.weight.detach().double().clone()
    steps = _run(module, precision)
    assert steps.batches == list(range(16))
    for weight, real in zip(steps.weights, module.real, strict=True):
        before = before.to(weight.dtype).double() + real.update["body.weight"]
        assert torch.allclose(weight.double(), before, rtol=1e-6, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("clip_fused", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_step_that_the_scaler_skipped_is_not_told(implementation: str, clip_fused: bool) -> None:
    steps = _run(_module(implementation, poison=POISONED), "16-mixed", clip_fused=clip_fused)
    assert steps.batches == [batch for batch in range(16) if batch != POISONED]


def test_without_a_scaler_a_poisoned_step_is_a_step() -> None:
    assert len(_run(_module(poison=POISONED), "bf16-mixed").batches) == 16


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_accumulation_is_not_told(precision: str) -> None:
    steps = _run(_module(), precision, accumulate_grad_batches=3)
    assert steps.batches == list(range(6))


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_each_optimizer_of_manual_optimization(precision: str) -> None:
    module = _module(manual=True)
    steps = _run(module, precision)
    raw = module.trainer.optimizers
    assert steps.optimizers == raw * 16
    assert all(isinstance(optimizer, torch.optim.AdamW) for optimizer in raw)


def test_many_closure_calls_are_one_step() -> None:
    steps = _run(Observed(partial(torch.optim.LBFGS, lr=0.1, max_iter=3)), "32-true")
    assert steps.batches == list(range(16))


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_training_step_without_a_loss_is_no_step(precision: str) -> None:
    class Sparing(Observed):
        def training_step(self, batch: Tensor, index: int) -> Tensor | None:
            return None if index == 3 else self.loss(batch, index)

    steps = _run(_module(kind=Sparing), precision)
    assert steps.batches == [batch for batch in range(16) if batch != 3]


def test_the_module_is_told_after_the_callbacks() -> None:
    told: list[str] = []

    class Told(Observed):
        def on_after_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            assert module is self
            told.append("module")

    class Other(Callback):
        def on_after_optimizer_step(self, *_: Any) -> None:
            told.append("callback")

    _run(_module(kind=Told), "32-true", Other(), max_steps=2)
    assert told == ["callback", "module"] * 2


def test_what_a_subscriber_raises_ends_the_training() -> None:
    class Broken(Callback):
        def on_after_optimizer_step(self, *_: Any) -> None:
            raise ZeroDivisionError("mine")

    module = _module()
    with pytest.raises(ZeroDivisionError, match="mine"):
        _run(module, "32-true", Broken())
    assert not module.trainer.optimizers[0]._optimizer_step_post_hooks


def test_listed_twice_it_calls_once_and_it_lets_go() -> None:
    module = _module()
    steps = _run(module, "32-true", OptimizerStepNotice(), OptimizerDynamicsMonitor(every_n_steps=1))
    assert len(steps.batches) == 16
    assert not module.trainer.optimizers[0]._optimizer_step_post_hooks


def test_nothing_is_waited_for_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr("lightning_adapt.callbacks.step_notice.really_stepped", fail)
    trainer_for("16-mixed", OptimizerStepNotice()).fit(_module("fused"))


def test_it_goes_on_after_a_resume_and_can_be_copied(tmp_path: Path) -> None:
    notice, steps = OptimizerStepNotice(), Steps()
    trainer = trainer_for("32-true", notice, steps)
    trainer.fit(_module())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = copy.deepcopy(notice)
    resumed = trainer_for("32-true", again, steps, max_epochs=2)
    resumed.fit(_module(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert steps.batches == list(range(32))


def test_an_optimizer_without_hooks_is_told_about() -> None:
    class Bare:
        def __init__(self, parameters: Any) -> None:
            self.param_groups = [{"params": list(parameters)}]
            self.state: dict[Any, Any] = {}
            self.defaults: dict[str, Any] = {}

        def step(self, closure: Any = None) -> None:
            closure()

        def zero_grad(self, **_: Any) -> None: ...

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, _: Any) -> None: ...

    with pytest.warns(UserWarning, match="steps of Bare are not noticed; derive it from"):
        steps = _run(Observed(Bare), "32-true")  # type: ignore[arg-type]
    assert steps.batches == []
