"""A run that is over, judged from its tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health.judge import Judge, Rules


def judge_run(tables: Iterable[DynamicsTable], rules: Rules = "default") -> list[dict[str, Any]]:
    """Judge all tables of a run, one after the other.

    Args:
        tables: In order of steps; they need not be in memory at once.
        rules: See `Judge`.

    Returns:
        Findings as plain values, oldest first.

    Example:
        >>> judge_run([])
        []
    """
    judge = Judge(rules)
    for table in tables:
        judge.see(table)
    return [finding.to_dict() for finding in judge.findings]
