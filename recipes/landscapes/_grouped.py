"""Training with the monitor's row groups: a parameter's rows, or groups of them, as rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.dynamics import DynamicsHistory
from lightning_adapt.recipes.landscapes._lab import Lab


def train_grouped(
    lab: Lab,
    module: LightningModule,
    row_groups: Mapping[str, Any],
    *,
    steps: int,
    name: str,
    every_n_steps: int = 1,
) -> DynamicsHistory:
    """`Lab.train` with ``row_groups``, see `lightning_adapt.dynamics.RowGroups`.

    Lightning lets a module bring its own callbacks, and they take the place of the Trainer's of that class.
    """
    monitor = OptimizerDynamicsMonitor(every_n_steps, history=None, row_groups=row_groups, strict=True)
    module.configure_callbacks = lambda: [monitor]  # type: ignore[method-assign]
    lab.train(module, steps=steps, name=name, every_n_steps=every_n_steps)
    return DynamicsHistory(monitor.history, source=name)
