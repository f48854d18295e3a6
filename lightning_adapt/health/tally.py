"""The counting of one rule for one optimizer: when a finding begins and when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health.finding import Finding
from lightning_adapt.health.rule import Rule, Text, Verdict

REST = 3
"""Tables without a hit before a finding ends, or its patience where that is more: none flickers."""


class Tally:
    """Counts the tables in a row in which a rule held, and did not, for each row or for the whole run."""

    def __init__(self) -> None:
        self._held = np.zeros(0, dtype=np.int64)
        self._clear = np.zeros(0, dtype=np.int64)
        self._clear_from = np.zeros(0, dtype=np.int64)
        self._open: dict[int, Finding] = {}
        self._whole = False

    def add(self, rule: Rule, verdict: Verdict, table: DynamicsTable) -> list[Finding]:
        """Count one more table.

        Returns:
            Findings that began or ended with it.
        """
        self._whole = np.ndim(verdict.hit) == 0
        hit = np.atleast_1d(verdict.hit)
        if len(hit) != (1 if self._whole else len(table.rows)):
            raise ValueError(
                f"a verdict must be of {len(table.rows)} rows or of the run, got {len(hit)} values"
            )
        if len(self._held) != len(hit):
            self._resize(len(hit))
        self._clear_from = np.where(~hit & (self._clear == 0), table.step, self._clear_from)
        self._held = np.where(hit, self._held + 1, 0)
        self._clear = np.where(hit, 0, self._clear + 1)
        news: list[Finding] = []
        for at, finding in list(self._open.items()):
            if hit[at]:
                finding.last_step = table.step
            elif self._clear[at] >= max(rule.patience, REST):
                finding.ended_at = int(self._clear_from[at])
                news.append(self._open.pop(at))
        for at in np.flatnonzero(self._held >= rule.patience).tolist():
            if at not in self._open:
                self._open[at] = _finding(rule, verdict, table, at)
                news.append(self._open[at])
        return news

    def rename(self, index: Sequence[int]) -> None:
        """The table has other rows now: ``index`` has the old place of each, -1 for a new one."""
        if self._whole or not len(self._held):
            return
        places = np.array(index, dtype=np.int64)
        for name in ("_held", "_clear", "_clear_from"):
            setattr(self, name, np.where(places >= 0, getattr(self, name)[places], 0))
        moved = {old: new for new, old in enumerate(index)}
        for old, finding in self._open.items():
            if old not in moved:
                finding.ended_at = finding.last_step
        self._open = {moved[old]: finding for old, finding in self._open.items() if old in moved}

    def _resize(self, size: int) -> None:
        self._held, self._clear, self._clear_from = (np.zeros(size, dtype=np.int64) for _ in range(3))

    def state_dict(self) -> dict[str, Any]:
        """Lists of whole numbers; which findings are open, the judge's list says."""
        return {
            "held": self._held.tolist(),
            "clear": self._clear.tolist(),
            "clear_from": self._clear_from.tolist(),
            "whole": self._whole,
        }

    def load_state_dict(
        self, state: Mapping[str, Any], still_open: Sequence[Finding], names: Sequence[str]
    ) -> None:
        """Go on counting.

        Args:
            state: From `state_dict`.
            still_open: This rule's findings that hold.
            names: Rows of the optimizer's last table.
        """
        self._held, self._clear, self._clear_from = (
            np.array(state[key], dtype=np.int64) for key in ("held", "clear", "clear_from")
        )
        self._whole = bool(state["whole"])
        place = {name: at for at, name in enumerate(names)}
        self._open = {0 if self._whole else place[f.parameter]: f for f in still_open}


def _finding(rule: Rule, verdict: Verdict, table: DynamicsTable, at: int) -> Finding:
    whole = np.ndim(verdict.hit) == 0
    parameter = verdict.parameter if whole else table.rows[at].name
    cause, value = str(_one(verdict.cause, at)), float(_one(verdict.value, at))
    words = {
        **rule.thresholds,
        **{name: _one(detail, at) for name, detail in verdict.details.items()},
        "parameter": parameter,
        "value": value,
        "step": table.step,
        "optimizer": table.optimizer,
    }
    return Finding(
        rule=rule.name,
        severity=rule.severity_of(cause),
        parameter=parameter,
        optimizer=table.optimizer,
        first_step=table.step,
        last_step=table.step,
        ended_at=None,
        value=value,
        cause=cause,
        sentence=_text(rule.sentence, cause).format(**words),
        remedy=_text(rule.remedy, cause).format(**words),
        source=rule.source,
    )


def _one(values: Any, at: int) -> Any:
    """The value of one row, of an array or of one value for all."""
    return values[at] if isinstance(values, np.ndarray) and values.ndim else values


def _text(text: Text, cause: str) -> str:
    return text if isinstance(text, str) else text[cause]
