"""Silence for what libraries say without telling the user anything; real warnings pass."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Warnings that ask for nothing here: the data of the recipes lies in memory, small batches are meant so.
_WARNINGS = (
    r".*does not have many workers which may be a bottleneck",
    # What Lightning uses of jsonargparse is no business of the user.
    r"(?s)\n    .*[Dd]eprecat",  # jsonargparse's warnings begin so
    r"The dirpath has changed from",  # a resumed run has a folder of its own
    r".*isinstance\(treespec, LeafSpec\)",
    r".*Checkpoint directory .* exists and is not empty",
    r".*The number of training batches .* is smaller than the logging interval",
    r".*Trying to infer the `batch_size` from an ambiguous collection",
)
_LOG_LINES = (
    "GPU available",
    "TPU available",
    "HPU available",
    "💡",
    "Loaded model weights",
    "Restored all states",
    "Restoring states",
    "Seed set to",
    "`Trainer.fit` stopped",
    "Missing logger folder",
    "Detected KeyboardInterrupt",
    "`loss_type=None`",
)
_LOGGERS = ("lightning.pytorch", "lightning.fabric", "transformers")


def _worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().strip().startswith(_LOG_LINES)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out chatter inside the block; nothing stays changed after it."""
    handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    with warnings.catch_warnings():
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        for handler in handlers:
            handler.addFilter(_worth_reading)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(_worth_reading)
