"""The porch: when to read, whom to tell. Lightning callbacks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_adapt.callbacks._factory import callbacks_factory

if TYPE_CHECKING:
    from lightning_adapt.callbacks._health_outlet import HealthWarning
    from lightning_adapt.callbacks.dynamics_monitor import OptimizerDynamicsMonitor
    from lightning_adapt.callbacks.health_monitor import CriticalFindingError, OptimizerHealthMonitor
    from lightning_adapt.callbacks.loss_scale_monitor import LossScaleMonitor
    from lightning_adapt.callbacks.mixed_precision import FusedMixedPrecision
    from lightning_adapt.callbacks.skip_aware_scheduler import SkipAwareScheduler
    from lightning_adapt.callbacks.step_notice import OptimizerStepNotice

# Lightning asks for the factory at every Trainer(): what it does not need is loaded when first used.
_HOME = {
    "CriticalFindingError": "health_monitor",
    "FusedMixedPrecision": "mixed_precision",
    "HealthWarning": "_health_outlet",
    "LossScaleMonitor": "loss_scale_monitor",
    "OptimizerDynamicsMonitor": "dynamics_monitor",
    "OptimizerHealthMonitor": "health_monitor",
    "OptimizerStepNotice": "step_notice",
    "SkipAwareScheduler": "skip_aware_scheduler",
}
__all__ = [
    "CriticalFindingError",
    "FusedMixedPrecision",
    "HealthWarning",
    "LossScaleMonitor",
    "OptimizerDynamicsMonitor",
    "OptimizerHealthMonitor",
    "OptimizerStepNotice",
    "SkipAwareScheduler",
    "callbacks_factory",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
