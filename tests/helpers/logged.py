"""Small real trainings with a log folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from helpers.runs import Observed, trainer_for
from lightning_adapt.callbacks import OptimizerDynamicsMonitor

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.02),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, eps=1e-4),
}


class Logged(Observed):
    """Logs its loss, as users do."""

    def training_step(self, batch: Tensor, index: int) -> Tensor | None:
        loss = super().training_step(batch, index)
        self.log("train/loss", torch.zeros(()) if loss is None else loss.detach())
        return loss


def train(
    folder: Path,
    name: str,
    precision: str = "32-true",
    monitor: OptimizerDynamicsMonitor | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> None:
    """Train one epoch with the optimizer ``name`` and log into the folder of that name."""
    module = Logged(OPTIMIZERS[name], **options)
    monitor = monitor or OptimizerDynamicsMonitor(every_n_steps=1)
    logger = TensorBoardLogger(str(folder), name=name, version="")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, for a model this small
        trainer_for(precision, monitor, *callbacks, logger=logger, log_every_n_steps=1).fit(module)


def accumulated(folder: Path) -> EventAccumulator:
    """All that was written into ``folder``."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "histograms": 0})
    events.Reload()
    return events
