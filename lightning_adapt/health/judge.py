"""The judge: runs rules over the tables of a run as they come, and keeps what they found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health.facts import Facts
from lightning_adapt.health.finding import Finding
from lightning_adapt.health.history import History
from lightning_adapt.health.registry import rules_from
from lightning_adapt.health.rule import Rule
from lightning_adapt.health.tally import Tally
from lightning_adapt.health.window import Window

MOST_FINDINGS = 2000
"""Findings kept; of those that have ended, the oldest are let go of first."""

Rules = str | Sequence[Rule] | Mapping[str, Any]


def _warn(sentence: str) -> None:
    warnings.warn(sentence, RuntimeWarning, stacklevel=4)


class Judge:
    """Judges the tables of a run, of one optimizer or several, while it runs or afterwards.

    Windows count steps of the tables' axis (`DynamicsTable.step`), patience counts tables. A table of a
    skipped step is shown only to rules that ask for it.

    Args:
        rules: ``"default"``; a list of rules; or changes to the default ones as `rules_from` takes them.
        on_fault: Told, in a sentence, when a rule has failed; that rule is switched off, and nothing else. By
            default it is a warning.

    Raises:
        ValueError: If a rule or a threshold is not known.

    Example:
        >>> from lightning_adapt.dynamics import COLUMNS, RowInfo
        >>> values = np.full((1, len(COLUMNS)), np.nan)
        >>> values[0, COLUMNS.index("rms_t")] = 4.0
        >>> judge = Judge()
        >>> [finding.rule for finding in judge.see(DynamicsTable((RowInfo("w"),), values, step=7))]
        ['spike-warning']
        >>> judge.see(DynamicsTable((RowInfo("w"),), values, step=8))  # told once
        []
        >>> judge.open[0].last_step
        8
    """

    def __init__(self, rules: Rules = "default", *, on_fault: Callable[[str], None] = _warn) -> None:
        self.rules = tuple(rules_from(rules))
        self.findings: list[Finding] = []
        """All findings so far, oldest first."""
        self._on_fault = on_fault
        self._off: set[str] = set()
        self._watches: dict[str, _Watch] = {}

    @property
    def open(self) -> list[Finding]:
        """Findings that hold now, oldest first."""
        return [finding for finding in self.findings if finding.ended_at is None]

    def see(self, table: DynamicsTable, facts: Facts | None = None) -> list[Finding]:
        """Judge one more table.

        Args:
            table: The next one of its optimizer.
            facts: What the one who trains knows beside it.

        Returns:
            Findings that began with this table, and those that ended (``ended_at`` is set).
        """
        if table.optimizer not in self._watches:
            self._watches[table.optimizer] = _Watch(self.rules)
        watch = self._watches[table.optimizer]
        watch.take(table)
        others = [w.last for label, w in self._watches.items() if label != table.optimizer and w.last]
        news: list[Finding] = []
        for rule in self.rules:
            if rule.name in self._off or (table.skipped and not rule.skipped):
                continue
            try:
                with np.errstate(all="ignore"):
                    window = Window(table, facts, watch.history_of(rule), rule.window, others)
                    verdict = rule.measure(window, rule.thresholds)
                    if verdict is not None:
                        news += watch.tallies[rule.name].add(rule, verdict, table)
            except Exception as error:  # a rule must not end a training
                self._off.add(rule.name)
                self._on_fault(
                    f"health rule {rule.name!r} is switched off after a fault: "
                    f"{type(error).__name__}: {error}; the other rules go on"
                )
        self.findings += [finding for finding in news if finding.ended_at is None]
        self._forget()
        return news

    def _forget(self) -> None:
        surplus = len(self.findings) - MOST_FINDINGS
        if surplus > 0:
            ended = [at for at, finding in enumerate(self.findings) if finding.ended_at is not None]
            gone = set(ended[:surplus])
            self.findings = [finding for at, finding in enumerate(self.findings) if at not in gone]

    def state_dict(self) -> dict[str, Any]:
        """Windows, counters and findings: numbers, strings, lists, dicts and tensors only."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "optimizers": {label: watch.state_dict() for label, watch in self._watches.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier `state_dict`. Findings of rules that are no longer there end."""
        self.findings = [Finding.from_dict(values) for values in state["findings"]]
        self._watches = {}
        names = {rule.name for rule in self.rules}
        for finding in self.open:
            if finding.rule not in names:
                finding.ended_at = finding.last_step
        for label, saved in state["optimizers"].items():
            watch = self._watches[label] = _Watch(self.rules)
            watch.load_state_dict(saved, [finding for finding in self.open if finding.optimizer == label])


class _Watch:
    """What a judge remembers of one optimizer."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.last: DynamicsTable | None = None
        self._names: tuple[str, ...] | None = None
        self.tallies = {rule.name: Tally() for rule in rules}
        # Rules that look back equally far share a memory.
        wanted: dict[tuple[int | None, bool], set[str]] = {}
        for rule in rules:
            if rule.window != 0:
                wanted.setdefault((rule.window, rule.skipped), set()).update(rule.columns)
        self._histories = {key: History(key[0], sorted(columns)) for key, columns in wanted.items()}

    def history_of(self, rule: Rule) -> History | None:
        return self._histories.get((rule.window, rule.skipped))

    def take(self, table: DynamicsTable) -> None:
        names = table.names
        if self._names is not None and names != self._names:
            old = {name: at for at, name in enumerate(self._names)}
            index = [old.get(name, -1) for name in names]
            for history in self._histories.values():
                history.rename(index)
            for tally in self.tallies.values():
                tally.rename(index)
        self._names, self.last = names, table
        for (_, skipped), history in self._histories.items():
            if skipped or not table.skipped:
                history.add(table)

    def state_dict(self) -> dict[str, Any]:
        return {
            "names": list(self._names or ()),
            "histories": [
                {"span": span, "skipped": skipped, **history.state_dict()}
                for (span, skipped), history in self._histories.items()
            ],
            "tallies": {name: tally.state_dict() for name, tally in self.tallies.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], still_open: Sequence[Finding]) -> None:
        self._names = tuple(state["names"])
        for saved in state["histories"]:
            history = self._histories.get((saved["span"], saved["skipped"]))
            if history is not None:
                history.load_state_dict(saved)
        for name, tally in self.tallies.items():
            if name in state["tallies"]:
                found = [finding for finding in still_open if finding.rule == name]
                tally.load_state_dict(state["tallies"][name], found, self._names)
