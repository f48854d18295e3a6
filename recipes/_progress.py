"""The progress bar of recipes."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class RecipeProgressBar(RichProgressBar):
    """Lightning's rich bar, redrawn less often, without the log version and with epochs counted from 1.

    A run that is counted in steps has one epoch, so its bar counts the steps and names no epoch.
    """

    def __init__(self) -> None:
        # 100 times a second, Lightning's choice, takes a good part of a small machine from a small model.
        super().__init__(refresh_rate=5)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs
        return f"epoch {current_epoch + 1} of {epochs}" if epochs and epochs > 0 else "training"
