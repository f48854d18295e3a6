"""From diagnoses to tables and bars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from diagnosis.diagnose import Diagnosis
from diagnosis.trial import Trial

from lightning_adapt.health import Finding

Case = tuple[Trial, Diagnosis]


@dataclass(frozen=True)
class Half:
    """The cases of one half."""

    name: str
    cases: Sequence[Case]

    @property
    def share(self) -> float | None:
        """How many of them were found."""
        return sum(d.found for _, d in self.cases) / len(self.cases) if self.cases else None

    @property
    def fraction(self) -> str:
        """The same for reading."""
        return f"{sum(d.found for _, d in self.cases)} of {len(self.cases)}" if self.cases else "–"


def halves(cases: Sequence[Case]) -> tuple[Half, Half]:
    """Tuning half and held-out half."""
    tune = [case for case in cases if not case[0].held_out]
    return Half("tuning", tune), Half("held-out", [case for case in cases if case[0].held_out])


def sick_row(name: str, cases: Sequence[Case]) -> dict[str, Any]:
    """One line of the table of sicknesses; figures beyond the two shares are of all cases shown."""
    tune, held_out = halves(cases)
    diagnoses = [diagnosis for _, diagnosis in cases]
    leads = [d.lead for d in diagnoses if d.lead is not None]
    unseen = sum(d.found and d.loss_step is None for d in diagnoses)
    rules = Counter(rule for d in diagnoses for rule in d.by)
    return {
        "sickness": name,
        "tuning": tune.fraction,
        "held-out": held_out.fraction,
        "by rule": ", ".join(rule for rule, _ in rules.most_common()),
        "told after": _median([d.delay for d in diagnoses if d.delay is not None]),
        "before loss": _lead(leads, unseen),
        "loss silent": f"{unseen} of {len(diagnoses)}",
        "wrong a run": sum(len(d.wrong) for d in diagnoses) / len(diagnoses),
        "wrong": told(f for d in diagnoses for f in d.wrong),
    }


def sick_shares(cases: Iterable[Case]) -> dict[str, float]:
    """Share found, by sickness."""
    groups: dict[str, list[bool]] = {}
    for trial, diagnosis in cases:
        groups.setdefault(trial.name, []).append(diagnosis.found)
    return {name: sum(found) / len(found) for name, found in groups.items()}


def missed_rows(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """What was not found, or with other parameters."""
    return [
        {
            "trial": str(trial),
            "half": "held-out" if trial.held_out else "tuning",
            "not named": ", ".join(sorted(diagnosis.missing)[:3]) or "–",
            "named wrongly": ", ".join(sorted(diagnosis.surplus)[:3]) or "–",
            "said instead": told(f for f in diagnosis.findings if f.severity != "info") or "–",
        }
        for trial, diagnosis in cases
        if not diagnosis.found
    ]


def healthy_rows(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """One line for each recipe, and one for all."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case[0].recipe, []).append(case)
    rows = [_healthy_row(recipe, group) for recipe, group in groups.items()]
    return [*rows, _healthy_row("all", cases)]


def _healthy_row(name: str, cases: Sequence[Case]) -> dict[str, Any]:
    findings = [finding for _, diagnosis in cases for finding in diagnosis.findings]
    tune, held_out = halves(cases)
    return {
        "recipe": name,
        "runs": len(cases),
        "critical": _count(findings, "critical"),
        "warnings": _count(findings, "warning"),
        "a run, tuning": _alarms(tune, "warning"),
        "a run, held-out": _alarms(held_out, "warning"),
        "which": told(f for f in findings if f.severity != "info") or "–",
    }


def spike_row(name: str, cases: Sequence[Case], spikes: Sequence[tuple[bool, bool, int | None]]) -> dict[str, Any]:
    """One line on loss spikes.

    Args:
        name: What provoked them.
        cases: The trainings.
        spikes: Of each spike: whether it is held out, whether a warning came before, and how long before.
    """
    leads = [lead for _, warned, lead in spikes if warned and lead is not None]
    return {
        "spikes": name,
        "runs": len(cases),
        "tuning": _warned(spikes, held_out=False),
        "held-out": _warned(spikes, held_out=True),
        "lead": _median(leads),
        "least": min(leads, default=None),
        "most": max(leads, default=None),
    }


def _warned(spikes: Sequence[tuple[bool, bool, int | None]], *, held_out: bool) -> str:
    chosen = [warned for half, warned, _ in spikes if half == held_out]
    return f"{sum(chosen)} of {len(chosen)}"


def _count(findings: Iterable[Finding], severity: str) -> int:
    return sum(finding.severity == severity for finding in findings)


def _alarms(half: Half, severity: str) -> float | None:
    if not half.cases:
        return None
    return sum(_count(diagnosis.findings, severity) for _, diagnosis in half.cases) / len(half.cases)


def told(findings: Iterable[Finding]) -> str:
    """Which rules spoke, most often first."""
    counted = Counter(finding.rule for finding in findings)
    return ", ".join(f"{rule} × {count}" for rule, count in counted.most_common())


def _median(figures: Sequence[int]) -> float | None:
    return float(median(figures)) if figures else None


def _lead(leads: Sequence[int], unseen: int) -> str:
    if not leads:
        return "–"
    earlier = sum(lead > 0 for lead in leads)
    return f"{median(leads):.0f} ({earlier} of {len(leads)} earlier)"
