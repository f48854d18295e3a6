"""A summary in words: lines of facts that the page and the markdown share, and the markdown itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_adapt._text import printable
from lightning_adapt.views.findings import counted, findings_markdown

MOST_GROUPS, _NAMED = 12, 4
WORST_COLUMNS = (
    "effective_lr_p05",
    "effective_lr_p50",
    "effective_lr_p95",
    "eps_floor_frac",
    "floor_cause",
    "update_ratio",
    "update_lost_frac",
    "grad_rms",
    "grad_nonfinite_frac",
)
_PAIRS = {"beta1", "beta2", "momentum", "alpha", "eps", "weight_decay", "rho", "lr_decay"}
Values = Mapping[str, Any]


def facts(summary: Values) -> list[tuple[str, str]]:
    """What was trained and how, as labels and lines of text; not escaped for any markup."""
    steps = summary["steps"]
    found = [("trained", _trained(summary))]
    found.append(("parameters", f"{summary['parameters']:,} with {summary['elements']:,} elements"))
    read = f"{steps['read']:,} read, step {steps['first']:,} to {steps['last']:,}"
    if steps["read"] == 1:
        read = f"1 read, step {steps['first']:,}"
    found.append(("steps", f"{steps['made']:,} made, {steps['skipped']:,} skipped; {read}"))
    found.append(("precision", _precision(summary)))
    found += [("loss", f"{summary['loss']['tag']}: {_course(summary['loss'])}")] if summary["loss"] else []
    found += [("learning rate", line) for line in _groups(summary["learning_rates"], _rate)]
    found += [("hyperparameters", line) for line in _groups(summary["hyperparameters"], _hyper)]
    return [(label, printable(line)) for label, line in found]


def _trained(summary: Values) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in summary["settings"].items())
    model = summary["model"] or ("a model" if settings else "a model that its log folder does not name")
    return f"{model}{f' ({settings})' if settings else ''} with {summary['optimizer'] or 'an optimizer'}"


def _precision(summary: Values) -> str:
    parts = [] if summary["precision"] is None else [f"{summary['precision']} of the Trainer"]
    for each in summary["dtypes"]:
        state = f", state {each['state']}" if each["state"] else ", no state"
        parts.append(f"{each['parameters']:,} parameters {each['parameter'] or 'of unknown dtype'}{state}")
    scale = summary["loss_scale"]
    parts.append("no loss scale" if scale is None else f"loss scale {_range(scale)}")
    return "; ".join(parts)


def _groups(groups: Mapping[str, Any], write: Any) -> Iterator[str]:
    """One line for all groups of which the same is to be said."""
    names: dict[str, list[str]] = {}
    for name, values in groups.items():
        names.setdefault(write(values), []).append(name)
    for text, alike in list(names.items())[:MOST_GROUPS]:
        more = f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else ""
        yield f"{', '.join(alike[:_NAMED])}{more}: {text}"
    if len(names) > MOST_GROUPS:
        yield f"and {len(names) - MOST_GROUPS} more groups; --format json has all"


def _rate(found: Values) -> str:
    return _range(found)


def _hyper(values: Mapping[str, Any]) -> str:
    names = sorted(values, key=lambda name: name not in _PAIRS)
    return ", ".join(f"{name} {_range(values[name])}" for name in names)


def _range(found: Values) -> str:
    """``1e-3``, or where it begins and ends, and between what it moved."""
    if found["min"] == found["max"]:
        return number(found["last"])
    text = f"{number(found['first'])} to {number(found['last'])}"
    if {found["min"], found["max"]} != {found["first"], found["last"]}:
        text += f", between {number(found['min'])} and {number(found['max'])}"
    return text


def _course(found: Values) -> str:
    text = f"{number(found['first'])} at first, {number(found['last'])} at last"
    return text + (f", lowest {number(found['min'])}" if found["min"] < found["last"] else "")


def number(value: float | None) -> str:
    """Four digits at most.

    Example:
        >>> number(0.000031416), number(1.0), number(float("nan"))
        ('3.142e-05', '1', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def judged(summary: Values) -> str:
    """How many findings hold, and who found them."""
    findings = summary["findings"]
    by = (
        "while it trained" if summary["findings_from"] == "training" else "afterwards, with the default rules"
    )
    if not findings:
        return f"Nothing was found wrong (judged {by})."
    holding = ", ".join(f"{n} {severity}" for severity, n in counted(findings).items() if n) or "none"
    return f"{len(findings)} findings, of which hold at the end: {holding} (judged {by})."


def grouped(findings: Sequence[Values]) -> list[tuple[Values, list[Values]]]:
    """Findings that say the same of several parameters: the first of each, and the others.

    Args:
        findings: Worst first.
    """
    found: dict[tuple[Any, ...], list[Values]] = {}
    for each in findings:
        over = each["ended_at"] is not None
        found.setdefault((each["severity"], over, each["rule"], each["cause"]), []).append(each)
    return [(first, others) for first, *others in found.values()]


def clipped(text: str, most: int = 80) -> str:
    """At most ``most`` characters, the middle left out."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def cell(row: Values, column: str) -> str:
    """One cell of the table of worst rows."""
    if column == "floor_cause":
        return row["floor_cause"] or "–"
    value = row["statistics"].get(column, math.nan)
    if column.endswith("_frac"):
        return "–" if math.isnan(value) else f"{100 * value:.3g} %"
    return number(value)


def markdown(summaries: Sequence[Values]) -> str:
    """All of it for people and machines that read text."""
    lines = ["# Optimizer dynamics report", ""]
    for summary in summaries:
        lines += [f"## {_plain(summary['run'])}: {_plain(summary['optimizer'])}", ""]
        lines += [f"- {label}: {_plain(line)}" for label, line in facts(summary)]
        lines += [f"- note: {_plain(note)}" for note in summary["notes"]]
        lines += ["", "### Findings", "", judged(summary), ""]
        if summary["findings"]:
            lines += [findings_markdown([_shown(finding) for finding in summary["findings"]]), ""]
        lines += _worst(summary)
    return "\n".join(lines).rstrip() + "\n"


def _worst(summary: Values) -> list[str]:
    worst = summary["worst"]
    if worst is None:
        return ["### Worst parameters", "", "No step was made: all were skipped.", ""]
    lines = [f"### Worst parameters at step {worst['step']}", ""]
    lines += [f"| parameter | dtype | {' | '.join(WORST_COLUMNS)} |", "|---" * (2 + len(WORST_COLUMNS)) + "|"]
    for row in worst["rows"]:
        name = _plain(row["parameter"])
        lines.append(f"| {name} | {row['dtype']} | {' | '.join(cell(row, c) for c in WORST_COLUMNS)} |")
    return [*lines, ""]


def _shown(finding: Values) -> dict[str, Any]:
    # The table of findings escapes its own bars.
    shown = {key: _plain(str(finding[key]), _MARKS) for key in ("rule", "sentence", "remedy")}
    return {**finding, **shown}


_MARKS = "\\`*_[]~$"


def _plain(text: str, marks: str = _MARKS + "|") -> str:
    """``text`` where markdown and the HTML in it mean nothing."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in marks else letter for letter in text)
