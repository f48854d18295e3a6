"""JUDGE: tables become findings: what is wrong, why, and what to do. Tables only, no torch.

A rule is data (`Rule`), a `Judge` runs rules over the tables of a run, and what they find are `Finding`s:

>>> from lightning_adapt.health import Judge
>>> judge = Judge({"epsilon-floor": {"threshold": 0.2}, "spike-warning": False})
>>> # for table in lightning_adapt.read_dynamics(folder): news = judge.see(table)
>>> judge.findings
[]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adapt.health.facts import Facts
    from lightning_adapt.health.finding import Finding
    from lightning_adapt.health.judge import Judge
    from lightning_adapt.health.registry import default_rules, rules_from
    from lightning_adapt.health.rule import Rule, Verdict
    from lightning_adapt.health.window import Window

_HOME = {
    "Facts": "facts",
    "Finding": "finding",
    "Judge": "judge",
    "Rule": "rule",
    "Verdict": "rule",
    "Window": "window",
    "default_rules": "registry",
    "rules_from": "registry",
}
__all__ = ["Facts", "Finding", "Judge", "Rule", "Verdict", "Window", "default_rules", "rules_from"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
