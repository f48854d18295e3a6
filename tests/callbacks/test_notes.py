"""Facts beside the tables, as a real Trainer makes them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from helpers.runs import Observed, trainer_for
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lightning_adapt.callbacks import OptimizerHealthMonitor
from lightning_adapt.dynamics import DynamicsTable
from lightning_adapt.health import Facts, Judge

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:.*lr_scheduler.step.*before.*optimizer.step",
    "ignore:`training_step` returned `None`",
)

Seen = list[tuple[DynamicsTable, Facts]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Tables and facts, as the judge gets them."""
    found: Seen = []

    def see(self: Judge, table: DynamicsTable, facts: Facts | None = None) -> list[Any]:
        assert facts is not None
        found.append((table, facts))
        return []

    monkeypatch.setattr(Judge, "see", see)
    return found


class Losses(Observed):
    """Writes down the loss of every batch."""

    def __init__(self, make: Any = None, **options: Any) -> None:
        torch.manual_seed(0)
        super().__init__(make or partial(torch.optim.SGD, lr=0.1), **options)
        self.losses: list[float] = []

    def loss(self, batch: Tensor, index: int) -> Tensor:
        loss = super().loss(batch, index)
        self.losses.append(loss.item())
        return loss


def _fit(module: Observed, precision: str = "32-true", **options: Any) -> Observed:
    health = OptimizerHealthMonitor(every_n_steps=options.pop("every_n_steps", 1), strict=True)
    trainer_for(precision, health, **options).fit(module)
    return module


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_the_loss_is_that_of_the_step(precision: str, accumulate: int, seen: Seen) -> None:
    module = _fit(Losses(), precision, accumulate_grad_batches=accumulate, every_n_steps=2)
    assert isinstance(module, Losses)
    for table, facts in seen:
        window = module.losses[table.step * accumulate : (table.step + 1) * accumulate]
        assert facts.loss == pytest.approx(sum(window) / len(window), rel=1e-3)
    assert len(seen) == (8 if accumulate == 1 else 3)


def test_manual_optimization_may_tell_its_loss(seen: Seen) -> None:
    class Tells(Losses):
        def training_step(self, batch: Tensor, index: int) -> Any:
            super().training_step(batch, index)
            return {"loss": torch.tensor(7.0 + index), "more": None}

    _fit(Tells(manual=True))
    assert [facts.loss for table, facts in seen if table.optimizer == "SGD"] == [7.0 + i for i in range(16)]
    seen.clear()
    _fit(Losses(manual=True))
    assert {facts.loss for _, facts in seen} == {None}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, None),
        ({"gradient_clip_val": 1e-3}, 1.0),
        ({"gradient_clip_val": 1e3}, 0.0),
        ({"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"}, 1.0),
        ({"gradient_clip_val": 1e3, "gradient_clip_algorithm": "value"}, 0.0),
    ],
)
@pytest.mark.parametrize("clip_fused", [False, True])
def test_clipping_is_seen_in_the_table(
    options: dict[str, Any], wanted: float | None, clip_fused: bool, seen: Seen
) -> None:
    make = partial(torch.optim.SGD, lr=0.1, fused=clip_fused)
    _fit(Losses(make), "16-mixed", clip_fused=clip_fused, **options)
    assert {facts.clipped_frac for _, facts in seen} == {wanted}


def test_clipping_that_comes_and_goes(seen: Seen) -> None:
    module = _fit(Losses(partial(torch.optim.SGD, lr=0.0)))
    gradients = [torch.cat([g.flatten() for g in real.gradient.values()]) for real in module.real]
    norms = [gradient.norm().item() for gradient in gradients]
    limit = sorted(norms)[8]
    seen.clear()
    _fit(Losses(partial(torch.optim.SGD, lr=0.0)), gradient_clip_val=limit)
    assert [facts.clipped_frac for _, facts in seen] == [float(norm >= limit) for norm in norms]
    assert 0.0 < sum(facts.clipped_frac or 0.0 for _, facts in seen) < 16.0


class Forgetful(Losses):
    """Zeroes its gradients in a way of its own."""

    way = "never"

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if self.way == "to none":
            optimizer.zero_grad()
        elif self.way == "to zero" or (self.way == "sometimes" and batch_idx % 4):
            optimizer.zero_grad(set_to_none=False)
        elif self.way == "at the end of the batch":
            pass

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        if self.way == "at the end of the batch":
            self.zero_grad()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    ("way", "kept"),
    [
        ("never", True),
        ("to none", False),
        ("to zero", False),
        ("at the end of the batch", False),
    ],
)
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_gradients_that_are_kept(precision: str, way: str, kept: bool, accumulate: int, seen: Seen) -> None:
    if way == "at the end of the batch" and accumulate > 1:
        pytest.skip("it would throw away what is accumulated")
    module = Forgetful()
    module.way = way
    _fit(module, precision, accumulate_grad_batches=accumulate)
    assert seen[0][1].gradients_kept is False  # the first step has nothing to keep
    assert {facts.gradients_kept for _, facts in seen[1:]} == {kept}


def test_gradients_that_are_sometimes_kept_and_seldom_read(seen: Seen) -> None:
    module = Forgetful()
    module.way = "sometimes"
    _fit(module, every_n_steps=2)
    assert [facts.gradients_kept for _, facts in seen] == [
        False,
        False,
        True,
        False,
        True,
        False,
        True,
        False,
    ]


class Pair(Losses):
    """Two optimizers whose losses reach each other's parameters, as a generator's does the critic's."""

    forget = False

    def training_step(self, batch: Tensor, index: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            if not self.forget:
                optimizer.zero_grad()
            self.manual_backward(self.loss(batch, index))
            optimizer.step()


@pytest.mark.parametrize("forget", [False, True])
def test_gradients_from_anothers_loss_are_not_kept_ones(forget: bool, seen: Seen) -> None:
    module = Pair(manual=True)
    module.forget = forget
    _fit(module, "16-mixed")
    assert {facts.gradients_kept for _, facts in seen[2:]} == {forget}


def test_schedule_length_and_precision(seen: Seen) -> None:
    class Scheduled(Losses):
        interval = "step"

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            scheduler = LambdaLR(optimizer, lambda step: 1.0)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": self.interval},
            }

    _fit(Scheduled(), "bf16-mixed", max_epochs=2)
    assert [facts.schedule_steps for _, facts in seen] == list(range(1, 33))
    assert {(facts.total_steps, facts.precision) for _, facts in seen} == {(32, "bf16-mixed")}
    seen.clear()
    module = Scheduled()
    module.interval = "epoch"
    _fit(module, max_epochs=-1, max_steps=20)
    # Advanced before the last batch of the epoch is over.
    assert [facts.schedule_steps for _, facts in seen] == [0] * 15 + [1] * 5
    assert {facts.total_steps for _, facts in seen} == {20}
    seen.clear()
    _fit(Losses())
    assert {facts.schedule_steps for _, facts in seen} == {None}


def test_without_an_end_the_length_is_not_known(seen: Seen) -> None:
    class Stops(Losses):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.trainer.should_stop = batch_idx == 3

    _fit(Stops(), max_epochs=-1)
    assert {facts.total_steps for _, facts in seen} == {None}
    assert len(seen) == 4
