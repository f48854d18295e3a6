"""Rules that hold when a test wants them to, and the runs they are tried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from helpers.runs import ADAMW, Observed
from lightning_adapt.callbacks import OptimizerDynamicsMonitor, OptimizerHealthMonitor
from lightning_adapt.health import Finding, Rule, Verdict


def between(first: int, last: int, **options: Any) -> Rule:
    """Holds for both weights from step ``first`` to step ``last``."""
    severity = options.get("severity", "warning")
    return Rule(
        name=options.get("name", f"between-{severity}"),
        meaning="A step of the training is in a range.",
        measure=lambda window, limits: Verdict(
            hit=[first <= window.table.step <= last and "weight" in row.name for row in window.table.rows],  # type: ignore[arg-type]
            value=window["grad_rms"],
        ),
        patience=options.get("patience", 1),
        severity=severity,
        sentence="{parameter} is in the range at step {step}",
        remedy="wait",
        source="a test",
    )


def loss_rule(limit: float) -> Rule:
    """Holds for the whole while the loss is above ``limit``."""
    return Rule(
        name="loss",
        meaning="The loss is large.",
        measure=lambda window, limits: (
            None
            if window.facts.loss is None
            else Verdict(window.facts.loss > limits["threshold"], window.facts.loss)
        ),
        thresholds={"threshold": limit},
        sentence="loss {value}",
        remedy="none",
        source="a test",
    )


def observed(**options: Any) -> Observed:
    """The same module each time."""
    torch.manual_seed(0)
    return Observed(ADAMW, **options)


def dumps(folder: Path) -> list[Path]:
    """What the black box has left in a run's folder."""
    return sorted(folder.glob("health_dumps/*"))


def told(findings: list[Finding]) -> list[tuple[str, str, int, int, int | None]]:
    return [(f.rule, f.parameter, f.first_step, f.last_step, f.ended_at) for f in findings]


BETWEEN = [
    ("between-warning", "body.weight", 3, 6, 7),
    ("between-warning", "head.weight", 3, 6, 7),
]


def monitors(order: str, every: int, rules: list[Rule]) -> tuple[list[Callback], OptimizerHealthMonitor]:
    health = OptimizerHealthMonitor(rules, every_n_steps=every, strict=True)
    dynamics = OptimizerDynamicsMonitor(every, history=None, strict=True)
    listed: dict[str, list[Callback]] = {
        "alone": [health],
        "before": [health, dynamics],
        "after": [dynamics, health],
    }
    return listed[order], health
