"""SHOW: tables become scalars, histograms, event files and a terminal page. Tables only, no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adapt.views.alerts import read_findings
    from lightning_adapt.views.findings import print_findings
    from lightning_adapt.views.reader import read_dynamics
    from lightning_adapt.views.rollup import summarise
    from lightning_adapt.views.terminal import print_worst

_HOME = {
    "print_findings": "findings",
    "print_worst": "terminal",
    "read_dynamics": "reader",
    "read_findings": "alerts",
    "summarise": "rollup",
}
__all__ = ["print_findings", "print_worst", "read_dynamics", "read_findings", "summarise"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
