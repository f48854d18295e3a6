"""The lab: real Trainers on small landscapes, watched; predictions are drawn beside measurements."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_adapt import optimizers
from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.dynamics import DynamicsHistory
from lightning_adapt.dynamics.histograms import FloatArray

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from typing_extensions import Self


Curves = dict[str, tuple[Sequence[float], Sequence[float]]]
"""x and y by name."""


class Landscape(LightningModule):
    """A loss over a few parameters, trained by a named optimizer; subclasses define `loss`.

    Args:
        optimizer: Name of a factory in `lightning_adapt.optimizers`.
        **options: Its keyword arguments.
    """

    def __init__(self, optimizer: str, **options: Any) -> None:
        super().__init__()
        self.optimizer, self.options = optimizer, options
        self.losses: list[float] = []

    def loss(self, step: int) -> Tensor:
        """The loss at ``step``, from 0."""
        raise NotImplementedError

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        """Evaluate the loss and keep its value in ``losses``."""
        loss = self.loss(batch_idx)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The named optimizer over all parameters."""
        made: torch.optim.Optimizer = getattr(optimizers, self.optimizer)(self, **self.options)
        return made


def column(history: DynamicsHistory, name: str) -> FloatArray:
    """One column of all tables, shape ``(readings, parameters)``."""
    return np.stack([table[name] for table in history])


class Lab:
    """Trains modules with `OptimizerDynamicsMonitor` on and hands back their tables.

    Args:
        folder: Where TensorBoard logs go, one folder a training; ``None`` writes nothing.

    Use it as a context: its end lays the charts out.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}
        self._charts: dict[str, dict[str, list[Any]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lay out the charts and close their files.

        TensorBoard reads one layout of each folder, and loses charts when two layouts have a category of the
        same title: so each folder gets one layout, when all its charts are known, and a title of its own.
        """
        for name, writer in self._writers.items():
            writer.add_custom_scalars(
                {f"{self._place(name)}: prediction beside measurement": self._charts[name]}
            )
            writer.close()
        self._writers.clear()
        self._charts.clear()

    def _place(self, name: str) -> str:
        """A training's name that no other landscape's training and no other run of the command has."""
        assert self.folder is not None
        return "/".join((*self.folder.absolute().parts[-2:], name))

    def train(
        self, module: LightningModule, *, steps: int, name: str, every_n_steps: int = 1, **options: Any
    ) -> DynamicsHistory:
        """Train for ``steps`` optimizer steps.

        Args:
            module: A `Landscape`, or any module with its own ``train_dataloader``.
            steps: Optimizer steps.
            name: Of this training, for its log folder.
            every_n_steps: Tables are read this often.
            **options: Further arguments of ``Trainer``.

        Returns:
            The tables; ``table.step`` counts from 0.
        """
        monitor = OptimizerDynamicsMonitor(every_n_steps=every_n_steps, history=None, strict=True)
        logger = TensorBoardLogger(self.folder, name="", version=name) if self.folder else False
        with _quiet():
            trainer = Trainer(
                accelerator="cpu",
                devices=1,
                max_steps=steps,
                max_epochs=-1,
                callbacks=[monitor],
                logger=logger,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
                **options,
            )
            if isinstance(module, Landscape):
                trainer.fit(module, DataLoader(range(steps), batch_size=None))  # type: ignore[arg-type]
            else:
                trainer.fit(module)
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
        return DynamicsHistory(monitor.history, source=name)

    def draw(
        self,
        name: str,
        what: str,
        steps: Sequence[int],
        predicted: Sequence[float],
        measured: Sequence[float],
    ) -> None:
        """Put a predicted curve beside a measured one into TensorBoard, as one custom chart.

        Args:
            name: Folder of the chart, usually that of the training.
            what: Name of the quantity.
            steps: Common to both curves.
            predicted: From the formula.
            measured: From the tables.
        """
        if self.folder is None:
            return
        if name not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[name] = SummaryWriter(str(self.folder / f"{name}-claim"))
            self._charts[name] = {}
        # A chart shows its tags from every folder: the landscape and the training tell them apart.
        keys = [f"{self._place(name)}/{what}/{kind}" for kind in ("predicted", "measured")]
        for key, values in zip(keys, (predicted, measured), strict=True):
            for step, value in zip(steps, values, strict=True):
                self._writers[name].add_scalar(key, value, step)
        # TensorBoard reads the tags of a chart as regular expressions.
        self._charts[name][what] = ["Multiline", [f"{re.escape(key)}$" for key in keys]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's start-up lines would drown the one table that matters."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
