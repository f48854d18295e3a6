"""The monitor with optimizers and training steps that are out of the ordinary."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.logged import accumulated
from helpers.runs import ADAMW, SMALL_RUN, Observed, tensorboard, trainer_for
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BaseFinetuning

import lightning_adapt as la
from lightning_adapt.callbacks import OptimizerDynamicsMonitor

pytestmark = SMALL_RUN


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


HOOKLESS: Any = WithoutHooks  # for a type checker, too, it is no optimizer


def test_an_optimizer_without_hooks_is_refused_with_one_sentence() -> None:
    with pytest.warns(UserWarning, match="WithoutHooks must have `register_step_post_hook`"):
        trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=1), max_steps=2).fit(Observed(HOOKLESS))
    with pytest.raises(MisconfigurationException, match=r"derive it from torch.optim.Optimizer"):
        trainer_for("32-true", OptimizerDynamicsMonitor(every_n_steps=1, strict=True), max_steps=2).fit(
            Observed(HOOKLESS)
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
        body, head = self.each_optimizer()
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
    trainer_for("32-true", monitor, logger=tensorboard(tmp_path)).fit(Unfreezing())
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


def test_sharded_strategies_are_refused_in_setup() -> None:
    class Sharded:
        strategy = type("FSDPStrategy", (), {})()
        callbacks: tuple[()] = ()
        loggers: tuple[()] = ()

    trainer: Any = Sharded()  # as much of one as is looked at
    monitor = OptimizerDynamicsMonitor(strict=True)
    with pytest.raises(MisconfigurationException, match="use DDP or a single device"):
        monitor.setup(trainer, Observed(ADAMW), "fit")
    with pytest.warns(UserWarning, match="FSDPStrategy, which shards"):
        OptimizerDynamicsMonitor().setup(trainer, Observed(ADAMW), "fit")


class Failing(Observed):
    """The first step runs out of memory in its closure; the module catches it and goes on."""

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        optimizer = self.each_optimizer()[0]

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
    trainer_for(precision, monitor, logger=tensorboard(tmp_path)).fit(SometimesNothing(ADAMW))
    assert not any(table.skipped for table in monitor.history)
    assert monitor.history[-1].skipped_steps == 0
    if precision == "16-mixed":
        assert [table.step for table in monitor.history] == [s for s in range(16) if s not in (0, 5)]
    tags = accumulated(tmp_path).Tags()["scalars"]
    assert "dynamics/eps_floor_frac" in tags


class Raw(Observed):
    def training_step(self, batch: torch.Tensor, index: int) -> None:
        for optimizer in self.each_optimizer(bare=True):
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
        optimizer = self.each_optimizer()[0]

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
            optimizer = self.each_optimizer()[0]
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch, index))
            optimizer.step()

        def configure_optimizers(self) -> Any:
            return [ADAMW(self.body.parameters()), WithoutHooks(self.head.parameters())]

    monitor = OptimizerDynamicsMonitor(every_n_steps=8, history=None)
    with pytest.warns(UserWarning, match="Training goes on without watching it"):
        trainer_for("32-true", monitor).fit(Both(ADAMW, manual=True))
    assert [table.optimizer for table in monitor.history] == ["AdamW", "AdamW"]
