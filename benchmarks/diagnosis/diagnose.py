"""From a record to what the rules said, and whether it is right."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from diagnosis.loss import shows_at, spikes
from diagnosis.record import Record, Truth
from lightning_adapt.health import Facts, Finding, Judge


@dataclass(frozen=True)
class Sign:
    """A finding that tells a sickness.

    Args:
        rule: Name of the rule.
        causes: Which of its causes; empty: any.
        whole: The finding is about the run and not about parameters.
    """

    rule: str
    causes: tuple[str, ...] = ()
    whole: bool = False

    def fits(self, finding: Finding) -> bool:
        """Whether a finding is of this rule and cause."""
        return finding.rule == self.rule and (not self.causes or finding.cause in self.causes)


@dataclass(frozen=True)
class Diagnosis:
    """What was said about one training.

    Args:
        findings: All of them.
        by: Names of the rules that told the sickness, with their causes.
        step: Step at which all of it was said; ``None`` if it was not.
        loss_step: Step at which the loss shows it; ``None`` if it does not.
        onset: Step at which the sickness began.
        missing: Sick parameters that no sign named.
        surplus: Parameters that a sign named and should not have.
        wrong: Warnings and critical findings that have nothing to do with it, or came before it.
        spikes: Spikes of the loss from the beginning on.
    """

    findings: tuple[Finding, ...]
    by: tuple[str, ...] = ()
    step: int | None = None
    loss_step: int | None = None
    onset: int = 0
    missing: frozenset[str] = frozenset()
    surplus: frozenset[str] = frozenset()
    wrong: tuple[Finding, ...] = field(default=())
    spikes: tuple[int, ...] = ()

    @property
    def found(self) -> bool:
        """Whether the sickness was told with its parameters and its cause."""
        return self.step is not None

    @property
    def delay(self) -> int | None:
        """Steps from the beginning of the sickness until it was told."""
        return None if self.step is None else self.step - self.onset

    @property
    def lead(self) -> int | None:
        """Steps by which it was told before the loss shows it; ``None`` where one of them did not come."""
        return None if self.step is None or self.loss_step is None else self.loss_step - self.step


def findings_of(record: Record, *, every: int = 1, facts: bool = True) -> tuple[Finding, ...]:
    """Judge the tables of a record.

    Args:
        record: Of a training.
        every: Look at every so-manyth step.
        facts: Tell the judge what only the trainer knows.
    """
    faults: list[str] = []
    judge, since = Judge(on_fault=faults.append), -1
    for table in record.tables:
        if (table.step + 1) % every == 0:
            judge.see(table, record.facts(table, since) if facts else Facts())
            since = table.step
    if faults:
        raise RuntimeError(f"{record.trial}: {faults[0]}")
    return tuple(judge.findings)


def diagnose(
    record: Record, signs: Iterable[Sign], also: Collection[str], *, every: int = 1, facts: bool = True
) -> Diagnosis:
    """Compare what the rules say about a training with what is true.

    Args:
        record: Of the training.
        signs: Each of them alone tells the sickness.
        also: Rules that may well speak, too: they follow from it.
        every: Look at every so-manyth step.
        facts: Tell the judge what only the trainer knows.
    """
    findings, signs = findings_of(record, every=every, facts=facts), list(signs)
    told = {at: _told(findings, sign, record.truth) for at, sign in enumerate(signs)}
    first = min((step for step, _, _ in told.values() if step is not None), default=None)
    by = [at for at, (step, _, _) in told.items() if step is not None]
    best = min(
        told.values(), key=lambda one: len(one[1]) + len(one[2]), default=(None, frozenset(), frozenset())
    )
    return Diagnosis(
        findings=findings,
        by=tuple(
            sorted({f"{f.rule}/{f.cause}".rstrip("/") for f in findings for at in by if signs[at].fits(f)})
        ),
        step=first,
        loss_step=shows_at(record.losses, record.truth.onset),
        onset=record.truth.onset,
        spikes=tuple(step for step in spikes(record.losses) if step >= record.truth.onset),
        missing=best[1],
        surplus=best[2],
        wrong=tuple(
            f for f in findings if f.severity != "info" and not _follows(f, record.truth, signs, also)
        ),
    )


def _follows(finding: Finding, truth: Truth, signs: Iterable[Sign], also: Collection[str]) -> bool:
    """Whether a finding tells the sickness or follows from it: before it began, none does."""
    right = finding.rule in also or any(sign.fits(finding) for sign in signs)
    return right and finding.first_step >= truth.onset


def _told(
    findings: Iterable[Finding], sign: Sign, truth: Truth
) -> tuple[int | None, frozenset[str], frozenset[str]]:
    """When the sign had said all of it, which parameters it left out, and which it should not have named."""
    fitting = [f for f in findings if sign.fits(f) and f.first_step >= truth.onset]
    fitting = [f for f in fitting if not truth.cause or f.cause == truth.cause]
    if sign.whole:
        named = {f.parameter for f in fitting if f.parameter}
        surplus = named - truth.right - truth.allowed if truth.right else set()
        return (fitting[0].first_step if fitting and not surplus else None), frozenset(), frozenset(surplus)
    steps: dict[str, int] = {}
    for finding in fitting:
        steps.setdefault(finding.parameter, finding.first_step)
    missing, surplus = truth.right - set(steps), set(steps) - truth.right - truth.allowed
    if missing or surplus or not truth.right:
        return None, frozenset(missing), frozenset(surplus)
    return max(steps[name] for name in truth.right), frozenset(), frozenset()
