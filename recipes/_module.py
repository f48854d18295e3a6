"""What every recipe's LightningModule shares: how it names and builds its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from lightning_adapt import optimizers


class RecipeModule(LightningModule):
    """A LightningModule whose optimizer is chosen by name from the command line.

    Args:
        optimizer: Name in the optimizer catalog, for example ``"adamw"`` or ``"adagrad"``.
        lr: Learning rate; ``None`` takes this recipe's preset for that optimizer.
        weight_decay: ``None`` takes this recipe's preset for that optimizer.
        schedule: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"inverse_sqrt"``.
        warmup_steps: Optimizer steps over which the learning rate rises linearly from near 0.
        optimizer_options: Further keyword arguments of the optimizer factory (``betas``, ``eps``, …).
    """

    #: Optimizer name -> keyword arguments (``lr``, ``weight_decay``, …) that this recipe was tuned with.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(
        self,
        optimizer: str = "adamw",
        lr: float | None = None,
        weight_decay: float | None = None,
        schedule: str = "constant",
        warmup_steps: int = 0,
        optimizer_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = {"lr": lr, "weight_decay": weight_decay}
        self._optimizer = optimizer
        self._optimizer_options = {
            **self.presets.get(optimizer, {}),
            **{key: value for key, value in given.items() if value is not None},
            **(optimizer_options or {}),
        }
        self._schedule = schedule
        self._warmup_steps = warmup_steps

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule from the names given to ``__init__``."""
        return optimizers.configure(
            self,
            self._optimizer,
            schedule=self._schedule,
            warmup_steps=self._warmup_steps,
            **self._optimizer_options,
        )
