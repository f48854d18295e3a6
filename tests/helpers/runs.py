"""A small Lightning run whose every real step is written down by the module itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_adapt.callbacks import FusedMixedPrecision

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true")
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


SMALL_RUN = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:.*lr_scheduler.step.*before.*optimizer.step",
    "ignore:Checkpoint directory",
    "ignore:You.re resuming from a checkpoint that ended before the epoch ended",
)
"""What Lightning remarks on runs of a few steps that are stopped and resumed."""

ADAMW = partial(torch.optim.AdamW, lr=0.01)


def tensorboard(folder: Path) -> TensorBoardLogger:
    """A logger that writes into ``folder`` itself."""
    return TensorBoardLogger(folder, name="", version="")


@dataclass
class Real:
    """What really happened in one optimizer step, by parameter name."""

    step: int
    update: dict[str, Tensor] = field(default_factory=dict)
    gradient: dict[str, Tensor] = field(default_factory=dict)


class Observed(LightningModule):
    """Two layers; writes down parameters around each step, independently of any hook.

    Args:
        make: Builds an optimizer from parameters.
        poison: Batch whose loss is made infinite.
        manual: Two optimizers, stepped by hand.
    """

    def __init__(
        self,
        make: Callable[[Any], torch.optim.Optimizer],
        *,
        poison: int | None = None,
        manual: bool = False,
    ) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 6), nn.Linear(6, 2)
        self.make, self.poison, self.automatic_optimization = make, poison, not manual
        self.real: list[Real] = []

    def each_optimizer(self, *, bare: bool = False) -> list[Any]:
        """Its optimizers in manual optimization, of which Lightning says that they may be one alone.

        Args:
            bare: Without what Lightning puts around them.
        """
        found: Any = self.optimizers(use_pl_optimizer=not bare)
        return list(found)

    def loss(self, batch: Tensor, index: int) -> Tensor:
        out = self.head(torch.tanh(self.body(batch.to(self.body.weight.dtype))))
        loss = out.square().mean()
        return loss * torch.inf if index == self.poison else loss

    def training_step(self, batch: Tensor, index: int) -> Tensor | None:
        if self.automatic_optimization:
            return self.loss(batch, index)
        for optimizer in self.each_optimizer():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch, index))
            with self._written_down():
                optimizer.step()
        return None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        with self._written_down():
            super().optimizer_step(*args, **kwargs)

    def _written_down(self) -> Any:
        module = self

        class Around:
            def __enter__(self) -> None:
                self.before = {n: p.detach().clone() for n, p in module.named_parameters()}

            def __exit__(self, *_: object) -> None:
                step = module.trainer.fit_loop.epoch_loop._batches_that_stepped
                module.real.append(
                    Real(
                        step,
                        {
                            n: p.detach().double() - self.before[n].double()
                            for n, p in module.named_parameters()
                        },
                        {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None},
                    )
                )

        return Around()

    def configure_optimizers(self) -> Any:
        if self.automatic_optimization:
            return self.make(self.parameters())
        return [self.make(self.body.parameters()), self.make(self.head.parameters())]

    def train_dataloader(self) -> DataLoader[Tensor]:
        generator = torch.Generator().manual_seed(1)
        return DataLoader(list(torch.randn(64, 8, generator=generator)), batch_size=4)  # type: ignore[arg-type]


def scaler_for(precision: str, **options: Any) -> torch.amp.GradScaler | None:
    """A scale that fits the model from the start: skipped steps are then only those we ask for."""
    options = {"init_scale": 1024.0, **options}
    return torch.amp.GradScaler("cpu", **options) if precision == "16-mixed" else None


def trainer_for(
    precision: str,
    *callbacks: Callback,
    clip_fused: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    **options: Any,
) -> Trainer:
    """A quiet trainer; 16-mixed on CPU has a real gradient scaler, which Lightning gives only this way.

    Args:
        precision: Lightning's name.
        callbacks: Of the trainer.
        clip_fused: Take our precision plugin instead of Lightning's.
        scaler: For 16-mixed on CPU; ``None`` takes `scaler_for`'s.
        options: Further arguments of ``Trainer``.
    """
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "max_epochs": 1,
        "callbacks": list(callbacks),
        **options,
    }
    on_cpu = settings["accelerator"] == "cpu"
    scaler = (scaler or scaler_for(precision)) if on_cpu else None
    if clip_fused:
        settings["plugins"] = FusedMixedPrecision(precision, scaler=scaler)  # type: ignore[arg-type]
    elif precision == "16-mixed" and on_cpu:
        settings["plugins"] = MixedPrecision("16-mixed", "cpu", scaler)
    else:
        settings["precision"] = precision
    return Trainer(**settings)
