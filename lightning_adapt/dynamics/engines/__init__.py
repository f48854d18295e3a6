"""Engines: the arithmetic from rows to figures. All give the same table."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Protocol

import torch

from lightning_adapt._text import unknown_name
from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines.packed import Packed

ENGINES = {
    "eager": "plain torch, chunked, any device",
    "reference": "float64 numpy, one obvious line a statistic; slow, waits for the device",
}


class Engine(Protocol):
    """Measures rows into one packed buffer on their device."""

    def __call__(self, rows: Iterable[Row], *, histograms: bool = True) -> Packed:
        """Measure ``rows``."""
        ...


def find_engine(name: str = "auto") -> Engine:
    """The engine called ``name``; ``"auto"`` chooses the fastest there is.

    Raises:
        ValueError: If there is no such engine.

    Example:
        >>> find_engine("fast")
        Traceback (most recent call last):
        ...
        ValueError: `engine` must be one of auto, eager, reference, got 'fast'; did you mean 'auto'?
    """
    chosen = "eager" if name == "auto" else name
    if chosen not in ENGINES:
        raise ValueError(unknown_name("engine", name, ["auto", *ENGINES]))
    engine: Engine = import_module(f"{__name__}.{chosen}").measure
    return engine


def default_chunk(device: torch.device) -> int:
    """Elements worked on at a time: what bounds the extra memory, and keeps a device busy."""
    return 1 << 16 if device.type == "cpu" else 1 << 22
