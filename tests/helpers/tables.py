"""Tables made up for what a view must stand, and written as the monitor writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH
from lightning_adapt.views.event_file import tag_of, to_summary


def table(names: Sequence[str], step: int, **fields: Any) -> DynamicsTable:
    """A table of figures that differ by step, row and column; ``fields`` replace what it says otherwise."""
    generator = np.random.default_rng(step)
    rows = tuple(RowInfo(name, "decay", (2, 3), "float32", "float32") for name in names)
    values = 10 ** generator.uniform(-6, 0, (len(rows), len(COLUMNS)))
    values[:, COLUMNS.index("numel")] = 6
    counts = np.zeros((len(rows), len(HISTOGRAMS), WIDTH), dtype=np.int32)
    counts[:, :, 240:260] = generator.integers(0, 9, (len(rows), len(HISTOGRAMS), 20))
    defaults: dict[str, Any] = {
        "values": values,
        "histograms": counts,
        "optimizer": "AdamW",
        "learning_rates": {"decay": 0.01 * step},
        "hyperparameters": {"decay": {"eps": 1e-3, "beta2": 0.999}},
        "real_steps": step,
    }
    return DynamicsTable(rows=rows, step=step, **{**defaults, **fields})


def write(folder: Path, tables: Sequence[DynamicsTable], wall_times: Sequence[float] | None = None) -> None:
    """Write tables, and a loss, into one event file of ``folder``."""
    described: set[str] = set()
    with SummaryWriter(str(folder)) as writer:
        for at, each in enumerate(tables):
            time = None if wall_times is None else wall_times[at]
            summary = to_summary(each, describe=tag_of(each) not in described)
            described.add(tag_of(each))
            writer._get_file_writer().add_summary(summary, each.step, time)
            writer.add_scalar("train/loss", 2.0 / (1 + each.step), each.step, time)
