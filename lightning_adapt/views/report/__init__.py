"""Runs as one file: a page that opens without a network, markdown, or JSON."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adapt.views.report.report import FORMATS, report_text, write_report

_HOME = ("FORMATS", "report_text", "write_report")
__all__ = ["FORMATS", "report_text", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.report"), name)


def __dir__() -> list[str]:
    return list(__all__)
