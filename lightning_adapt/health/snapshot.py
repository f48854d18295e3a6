"""Judging what there is only one table of: a checkpoint, or a set-up before its first step."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health.facts import Facts
from lightning_adapt.health.finding import Finding, rank
from lightning_adapt.health.judge import Judge, Rules
from lightning_adapt.health.registry import rules_from


def judge_snapshot(
    tables: Iterable[DynamicsTable], rules: Rules = "default", facts: Facts | None = None
) -> list[Finding]:
    """Judge one table of each optimizer, with those rules that need no more (`Rule.snapshot`).

    Args:
        tables: One an optimizer, as `lightning_adapt.dynamics.read_checkpoint` gives them.
        rules: As for `Judge`.
        facts: What is known beside them.

    Returns:
        Findings, most severe first.

    Raises:
        ValueError: If a rule or a threshold is not known.
    """
    able = [rule.changed(window=0, patience=1) for rule in rules_from(rules) if rule.snapshot]
    judge = Judge(able)
    for table in tables:
        judge.see(table, facts)
    return sorted(judge.findings, key=lambda finding: -rank(finding.severity))
