"""A rule is data: what it looks at, when it speaks, what it says, and where its threshold comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_adapt._text import unknown_name
from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.health.finding import SEVERITIES, Severity

if TYPE_CHECKING:
    from lightning_adapt.health.window import Window

Limits = Mapping[str, float]
Text = str | Mapping[str, str]
"""One text, or one for each cause."""


@dataclass(frozen=True)
class Verdict:
    """What a rule measured.

    Args:
        hit: Where it holds: shape ``(rows,)``, or one value for the whole run.
        value: The figure that was compared, same shape; NaN where there is none.
        cause: Which of the rule's causes, one or one a row; decides about text and severity.
        details: Further values for the rule's texts, each one value or one a row.
        parameter: For the whole run: the parameter that it is about, if any.
    """

    hit: npt.NDArray[np.bool_] | np.bool_ | bool
    value: FloatArray | float
    cause: str | npt.NDArray[Any] = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    parameter: str = ""


Measure = Callable[["Window", Limits], "Verdict | None"]


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a training.

    Args:
        name: Words with hyphens.
        meaning: What it means when the rule speaks, one sentence.
        measure: From the `Window` and the thresholds to a `Verdict`; ``None`` when there is nothing to judge.
        columns: Columns of the table that ``measure`` looks back on, see `Window.past`.
        thresholds: Name to number; a rule with one calls it ``threshold``.
        window: Steps that it looks back on; 0: this table alone; ``None``: the whole run.
        patience: Tables in a row in which it must hold before it is told.
        severity: One, or one for each cause.
        sentence: Template of what is wrong: ``{parameter}``, ``{value}``, ``{step}``, ``{optimizer}``, the
            thresholds and the verdict's details by name. One, or one for each cause.
        remedy: Template of what to do, likewise.
        source: Where the threshold comes from.
        skipped: Also looks at steps that the gradient scaler skipped.
        snapshot: One table alone can tell, as from a checkpoint: there window and patience do not count.

    Example:
        >>> import numpy as np
        >>> rule = Rule(
        ...     name="gradient-outlier",
        ...     meaning="One element's gradient is far above the others.",
        ...     measure=lambda window, limits: Verdict(
        ...         hit=window["grad_absmax"] > limits["threshold"] * window["grad_rms"],
        ...         value=window["grad_absmax"] / window["grad_rms"],
        ...     ),
        ...     thresholds={"threshold": 1000.0},
        ...     severity="info",
        ...     sentence="{parameter}: one gradient is {value:.0f} times the root mean square",
        ...     remedy="look at the batch of step {step}",
        ...     source="an example",
        ... )
        >>> rule.changed(threshold=500.0).thresholds
        {'threshold': 500.0}
    """

    name: str
    meaning: str
    measure: Measure
    sentence: Text
    remedy: Text
    source: str
    columns: tuple[str, ...] = ()
    thresholds: Limits = field(default_factory=dict)
    window: int | None = 0
    patience: int = 1
    severity: Severity | Mapping[str, Severity] = "warning"
    skipped: bool = False
    snapshot: bool = False

    def changed(self, **changes: Any) -> Rule:
        """This rule with other thresholds, window, patience or severity.

        Raises:
            ValueError: If a name is not known or a value makes no sense.
        """
        known = [*self.thresholds, "window", "patience", "severity"]
        thresholds, fields = dict(self.thresholds), {}
        for name, value in changes.items():
            if name in self.thresholds:
                thresholds[name] = _number(f"{self.name}.{name}", value)
            elif name == "severity":
                if value not in SEVERITIES:
                    raise ValueError(unknown_name(f"{self.name}.severity", value, SEVERITIES))
                fields[name] = value
            elif name in ("window", "patience"):
                fields[name] = _count(f"{self.name}.{name}", value, name)
            else:
                raise ValueError(unknown_name(f"rules.{self.name}", name, known))
        return replace(self, thresholds=thresholds, **fields)

    def severity_of(self, cause: str) -> Severity:
        """The severity of a finding of ``cause``."""
        if isinstance(self.severity, str):
            return self.severity
        return self.severity[cause]


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, got {value!r}; leave it out for the default")
    return float(value)


def _count(name: str, value: object, which: str) -> int | None:
    if which == "window" and value is None:
        return None
    least = 0 if which == "window" else 1
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        unit = "steps, or null for the whole run" if which == "window" else "tables"
        raise ValueError(
            f"`{name}` must be a whole number of {unit}, at least {least}, got {value!r}; "
            "leave it out for the default"
        )
    return value
