"""Judging what is over: a finished run; and what there is only one table of, a checkpoint or a set-up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health.facts import Facts
from lightning_adapt.health.finding import Finding, rank
from lightning_adapt.health.judge import Judge, Rules
from lightning_adapt.health.registry import rules_from


def judge_run(
    tables: Iterable[DynamicsTable], rules: Rules = "default", last_step: int | None = None
) -> list[Finding]:
    """Judge all tables of a run that is over, of one optimizer or several.

    What the tables say is all there is: rules that need other facts (see `Facts`) stay silent, but for the
    length of the run, which is taken to be the last step.

    Args:
        tables: In order of time, as `lightning_adapt.read_dynamics` gives them.
        rules: As for `Judge`.
        last_step: Of the run, for tables that are not in memory at once; ``None``: that of the last table.

    Returns:
        Findings, in order of time.

    Raises:
        ValueError: If a rule or a threshold is not known.
    """
    judge = Judge(rules)
    if last_step is None:
        tables = list(tables)
        last_step = tables[-1].step if tables else 0
    facts = Facts(total_steps=last_step + 1)
    for table in tables:
        judge.see(table, facts)
    return judge.findings


def values_found(tables: Iterable[DynamicsTable], last_step: int) -> list[dict[str, Any]]:
    """As `judge_run` with the default rules, as plain values, for those who may not know what a finding is.

    Args:
        tables: In order of time.
        last_step: Of the run.
    """
    return [finding.to_dict() for finding in judge_run(tables, last_step=last_step)]


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
    judge = Judge([rule.changed(window=0, patience=1) for rule in rules_from(rules) if rule.snapshot])
    for table in tables:
        judge.see(table, facts)
    return sorted(judge.findings, key=lambda finding: -rank(finding.severity))
