"""From diagnoses to tables and bars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from diagnosis.diagnose import Diagnosis
from diagnosis.spikes import ORGANIC, PROVOKED, Spike, in_vain, spikes_of, warnings_of, watched
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


def measured(cases: Iterable[Case]) -> dict[str, float]:
    """What `bars.BARS` are about, from the held-out half."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if case[0].held_out:
            groups.setdefault(case[0].name, []).append(case)
    well, spiky = groups.pop("healthy", []), [groups.pop(name, []) for name in (PROVOKED, ORGANIC)]
    found: dict[str, float] = {}
    if groups:
        found["found_least"] = min(Half("", one).share or 0.0 for one in groups.values())
    kinds = [[spike.lead for case in kind for spike in spikes_of(*case)] for kind in spiky]
    leads = [lead for kind in kinds for lead in kind if lead is not None]
    if any(kinds):
        found["spikes_warned"] = min(sum(lead is not None for lead in k) / len(k) for k in kinds if k)
        found["spike_lead"] = float(median(leads or [0]))
    for severity, key in (("critical", "healthy_critical"), ("warning", "healthy_warnings")):
        if well:
            found[key] = _alarms(Half("", well), severity) or 0.0
    return found


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


def spike_row(name: str, cases: Sequence[Case]) -> dict[str, Any]:
    """One line on the loss spikes of some trainings."""
    spikes = [spike for case in cases for spike in spikes_of(*case)]
    leads = [spike.lead for spike in spikes if spike.lead is not None]
    tune, held_out = ([s for s in spikes if s.trial.held_out == half] for half in (False, True))
    covered, steps = (sum(counts) for counts in zip(*(watched(*case) for case in cases), strict=True))
    return {
        "spikes": name,
        "runs": len(cases),
        "warned, tuning": _warned(tune),
        "warned, held-out": _warned(held_out),
        "lead": _median(leads),
        "least": min(leads, default=None),
        "most": max(leads, default=None),
        "warnings": sum(len(warnings_of(diagnosis)) for _, diagnosis in cases),
        "by chance": f"{covered / steps:.0%}",
        "in vain": sum(in_vain(diagnosis) for _, diagnosis in cases),
    }


def _warned(spikes: Sequence[Spike]) -> str:
    return f"{sum(s.lead is not None for s in spikes)} of {len(spikes)}" if spikes else "–"


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
