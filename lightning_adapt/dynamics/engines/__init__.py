"""Engines: the arithmetic from rows to figures. All give the same table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from threading import Timer
from typing import Protocol

import torch

from lightning_adapt._text import unknown_name
from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines.packed import Packed

ENGINES = {
    "eager": "plain torch, chunked, any device",
    "numba": "one compiled pass on all cores of the host; needs numba",
    "reference": "float64 numpy, one obvious line a statistic; slow, waits for the device",
    "triton": "CUDA kernels that read every tensor once; needs Triton, which comes with torch for CUDA",
}

_MODULES = {"numba": "cpu"}
"""Where an engine is that is not in a module of its own name."""


class Engine(Protocol):
    """Measures rows into one packed buffer on their device."""

    def __call__(self, rows: Iterable[Row], *, histograms: bool = True) -> Packed:
        """Measure ``rows``."""
        ...


def find_engine(name: str = "auto") -> Engine:
    """The engine called ``name``; ``"auto"`` takes for each reading what `choose` says.

    Raises:
        ValueError: If there is no such engine, or what it needs is not installed.

    Example:
        >>> find_engine("fast")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: `engine` must be one of auto, eager, ..., got 'fast'; did you mean 'auto'?
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(unknown_name("engine", name, ["auto", *ENGINES]))
    if not installed(name):
        raise ValueError(
            f"`engine` must be one that is installed, got {name!r}; pip install {name}, or engine='auto'"
        )
    engine: Engine = import_module(f"{__name__}.{_MODULES.get(name, name)}").measure
    return engine


def installed(name: str) -> bool:
    """Whether the library that the engine called ``name`` is named after is there."""
    return name not in ("numba", "triton") or find_spec(name) is not None


_faults: dict[str, str] = {}
"""Why an engine that is installed cannot be used, found out by trying."""


def _usable(name: str) -> bool:
    """Whether the engine called ``name`` can be imported: libraries are picky about each other's versions."""
    if name not in _faults:
        try:
            import_module(f"{__name__}.{_MODULES.get(name, name)}")
        except Exception as error:
            _faults[name] = f"{type(error).__name__}: {error}"
        else:
            return True
    return False


def choose(device: torch.device) -> tuple[str, str]:
    """The fastest engine for tensors on ``device``, and why it is that one.

    Example:
        >>> choose(torch.device("mps"))
        ('eager', 'there is no compiled engine for mps')
    """
    compiled = {"cpu": "numba", "cuda": "triton"}.get(device.type)
    if compiled is None or compiled not in ENGINES:
        return "eager", f"there is no compiled engine for {device.type}"
    if not installed(compiled):
        return "eager", f"{compiled} is not installed; with it a reading is many times faster"
    if not _usable(compiled):
        return "eager", f"{compiled} is installed but cannot be used ({_faults[compiled]})"
    return compiled, f"it is the fastest for {device.type}"


def prepare(name: str, device: torch.device, tell: Callable[[str], object] = print) -> str:
    """Get the engine ready for tensors on ``device``, before a training step would have to wait for it.

    Args:
        name: As for `find_engine`.
        device: Of the parameters.
        tell: Called with a sentence when that takes longer than a moment.

    Returns:
        Which engine it is and why, for a log line.
    """
    chosen, why = choose(device) if name == "auto" else (name, "it was asked for")
    module = import_module(f"{__name__}.{_MODULES.get(chosen, chosen)}")
    if hasattr(module, "prepare"):
        sentence = f"the engine {chosen} is being compiled, once on this machine: up to a minute"
        patience = Timer(1.5, tell, [sentence])
        patience.daemon = True
        patience.start()
        try:
            module.prepare()
        except Exception as error:
            if name != "auto":
                raise
            _faults[chosen] = f"{type(error).__name__}: {error}"
            return prepare(name, device, tell)
        finally:
            patience.cancel()
    return f"engine {chosen} on {device.type}: {why}"


def default_chunk(device: torch.device) -> int:
    """Elements worked on at a time: what bounds the extra memory, and keeps a device busy."""
    return 1 << 16 if device.type == "cpu" else 1 << 22
