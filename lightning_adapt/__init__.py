"""See what an adaptive optimizer really does while a model trains.

Importing this package is light: every public name is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adapt import callbacks, dynamics, health, optimizers, recipes, views
    from lightning_adapt.views.alerts import read_findings
    from lightning_adapt.views.reader import read_dynamics

__all__ = [
    "callbacks",
    "dynamics",
    "health",
    "optimizers",
    "read_dynamics",
    "read_findings",
    "recipes",
    "views",
]
__version__ = "0.1.0"

_HOME = {
    "read_dynamics": "lightning_adapt.views.reader",
    "read_findings": "lightning_adapt.views.alerts",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
