"""A finding: what one rule says about one parameter, or about the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from lightning_adapt._text import unknown_name

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""Mildest first: info is worth knowing, warning is likely wrong, critical means that the training is lost."""


@dataclass
class Finding:
    """What a rule found.

    Args:
        rule: Name of the rule.
        severity: ``"info"``, ``"warning"`` or ``"critical"``.
        parameter: Row of the table, ``""`` for the whole run.
        optimizer: The table's optimizer.
        first_step: Step of the table with which it began.
        last_step: Step of the last table in which it held.
        ended_at: Step of the first table in which it no longer held; ``None`` while it holds.
        value: The rule's figure when it was told.
        cause: Which of the rule's causes; ``""`` for rules with one.
        sentence: What is wrong, and why.
        remedy: What to do, with concrete values.
        source: Where the threshold comes from.
    """

    rule: str
    severity: Severity
    parameter: str
    optimizer: str
    first_step: int
    last_step: int
    ended_at: int | None
    value: float
    cause: str
    sentence: str
    remedy: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """The inverse of `to_dict`; names it does not know, from newer versions, are left out.

        Raises:
            ValueError: If something is missing, or the severity is not known.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"a finding must have {', '.join(names)}, got one without {', '.join(missing)}")
        if values["severity"] not in SEVERITIES:
            raise ValueError(unknown_name("severity", values["severity"], SEVERITIES))
        return cls(**{name: values[name] for name in names})
