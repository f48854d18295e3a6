"""Findings in the terminal: one paragraph a rule and cause, most severe first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lightning_adapt._text import printable
from lightning_adapt.health.finding import SEVERITIES, Finding, rank

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
_NAMES = 4
"""Parameters named in a paragraph beside the one whose sentence is printed."""


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings that say the same of several parameters, together: most severe first, then in order of time.

    Example:
        >>> grouped([])
        []
    """
    groups: dict[tuple[str, str, str, str], list[Finding]] = {}
    for finding in findings:
        key = (finding.severity, finding.rule, finding.cause, finding.optimizer)
        groups.setdefault(key, []).append(finding)
    return sorted(groups.values(), key=lambda group: (-rank(group[0].severity), group[0].first_step))


def count_line(findings: Sequence[Finding]) -> str:
    """How many findings of each severity, worst first.

    Example:
        >>> count_line([])
        'no findings'
    """
    counts = {severity: sum(f.severity == severity for f in findings) for severity in reversed(SEVERITIES)}
    names = {"critical": "critical", "warning": "warnings", "info": "worth knowing"}
    return ", ".join(f"{count} {names[s]}" for s, count in counts.items() if count) or "no findings"


def print_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print findings, grouped by what they say.

    Args:
        findings: In any order.
        console: Where to print; standard output by default.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console() if console is None else console
    for group in grouped(findings):
        first = group[0]
        console.print(_headline(group))
        others = list(dict.fromkeys(f.parameter for f in group if f.parameter != first.parameter))
        lines = [Text(printable(first.sentence))]
        if others:
            more = f" and {len(others) - _NAMES} more" if len(others) > _NAMES else ""
            names = ", ".join(printable(name) for name in others[:_NAMES])
            lines.append(Text(f"likewise: {names}{more}"))
        lines.append(Text(f"do: {printable(first.remedy)}", style="bold"))
        lines.append(Text(f"why: {printable(first.source)}", style="dim"))
        for line in lines:
            console.print(Padding(line, (0, 0, 0, 2)), highlight=False)
    console.print(Text(count_line(findings)))


def _headline(group: Sequence[Finding]) -> Text:
    from rich.text import Text

    first = group[0]
    head = Text()
    head.append(f"{first.severity:<9}", style=_STYLES[first.severity])
    cause = f" ({first.cause})" if first.cause else ""
    head.append(f"{first.rule}{cause}", style="bold")
    began, last = min(f.first_step for f in group), max(f.last_step for f in group)
    when = f"step {began}" if began == last else f"steps {began} to {last}"
    ended = "" if any(f.ended_at is None for f in group) else ", ended"
    head.append(printable(f"  {first.optimizer}, {when}{ended}"), style="dim")
    return head
