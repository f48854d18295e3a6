"""The porch: when to read, whom to tell. Lightning callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_adapt.callbacks._factory import callbacks_factory

if TYPE_CHECKING:
    from lightning_adapt.callbacks.dynamics_monitor import OptimizerDynamicsMonitor

__all__ = ["OptimizerDynamicsMonitor", "callbacks_factory"]


def __getattr__(name: str) -> Any:
    # Lightning asks for the factory at every Trainer(): what it does not need is loaded when first used.
    if name != "OptimizerDynamicsMonitor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_adapt.callbacks.dynamics_monitor import OptimizerDynamicsMonitor

    return OptimizerDynamicsMonitor


def __dir__() -> list[str]:
    return list(__all__)
