"""Findings of a run as text: markdown for TensorBoard, a page for the terminal, lines for a log.

A finding is shown from plain values, as `lightning_adapt.health.Finding.to_dict` gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lightning_adapt._text import printable

if TYPE_CHECKING:
    from rich.console import Console

Values = Mapping[str, Any]

_RANK = {"critical": 0, "warning": 1, "info": 2}
_STYLE = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def worst_first(findings: Iterable[Values]) -> list[Values]:
    """Critical ones first, those that hold before those that are over, then by step."""
    return sorted(
        findings,
        key=lambda f: (_RANK.get(f["severity"], 3), f["ended_at"] is not None, f["first_step"], f["rule"]),
    )


def in_lines(news: Sequence[Values], most: int = 3) -> list[tuple[str, str]]:
    """One line a rule for findings that began, and for those that ended.

    Args:
        news: Of one table.
        most: Parameters named in a line.

    Returns:
        Severity (of endings ``"info"``) and line.

    Example:
        >>> finding = {"rule": "spike-warning", "severity": "warning", "parameter": "w", "cause": "",
        ...     "optimizer": "Adam", "first_step": 7, "ended_at": None, "sentence": "w: rms_t 4.0",
        ...     "remedy": "warm up"}
        >>> in_lines([finding, {**finding, "parameter": "v"}])
        [('warning', 'step 7, spike-warning: w: rms_t 4.0; warm up (and 1 more: v)')]
    """

    def alike(finding: Values) -> tuple[bool, int, str, str, str]:
        rank = _RANK.get(finding["severity"], 3)
        return finding["ended_at"] is not None, rank, finding["rule"], finding["cause"], finding["optimizer"]

    found = []
    for (ended, *_), together in groupby(sorted(news, key=alike), key=alike):
        first, *others = together
        names = [printable(other["parameter"] or other["optimizer"]) for other in others]
        if ended:
            names = [printable(first["parameter"] or first["optimizer"]), *names]
            found.append(
                ("info", f"step {first['ended_at']}, {first['rule']}: over for {_listed(names, most)}")
            )
        else:
            text = f"step {first['first_step']}, {first['rule']}: {first['sentence']}; {first['remedy']}"
            more = f" (and {len(names)} more: {_listed(names, most)})" if names else ""
            found.append((first["severity"], printable(text) + more))
    return found


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def findings_markdown(findings: Iterable[Values], most: int = 50) -> str:
    """A markdown table, worst first.

    Args:
        findings: Usually those that hold.
        most: Rows.
    """
    ordered = worst_first(findings)
    if not ordered:
        return "Nothing holds: every finding is over."
    lines = ["| severity | since step | rule | what is wrong | what to do |", "|---|---|---|---|---|"]
    for finding in ordered[:most]:
        cells = [finding[key] for key in ("severity", "first_step", "rule", "sentence", "remedy")]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    if len(ordered) > most:
        lines.append(f"\n{len(ordered) - most} more are left out.")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return printable(" ".join(str(value).splitlines())).replace("|", "\\|")


def print_findings(findings: Iterable[Values], *, most: int = 20, console: Console | None = None) -> None:
    """Print findings, worst first, each with what to do.

    Args:
        findings: Plain values, see `lightning_adapt.health.Finding.to_dict`.
        most: How many.
        console: Where to print; standard output by default.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if console is None else console
    ordered = worst_first(findings)
    if not ordered:
        console.print("health: nothing was found")
        return
    page = Table(title=f"health: {_counted(ordered)}", box=box.SIMPLE_HEAD, title_justify="left")
    page.add_column("severity", no_wrap=True)
    page.add_column("steps", no_wrap=True, justify="right")
    page.add_column("rule", overflow="fold")
    page.add_column("what is wrong, and what to do", overflow="fold")
    for finding in ordered[:most]:
        over = finding["ended_at"] is not None
        style = "dim" if over else _STYLE.get(finding["severity"], "")
        steps = (
            f"{finding['first_step']} to {finding['ended_at']}" if over else f"from {finding['first_step']}"
        )
        text = Text(printable(finding["sentence"]) + "\n")
        text.append(printable(finding["remedy"]), style="dim")
        page.add_row(Text(finding["severity"], style=style), steps, Text(finding["rule"]), text)
    if len(ordered) > most:
        page.caption, page.caption_justify = f"{len(ordered) - most} more are left out", "left"
    console.print(page)


def _counted(findings: Sequence[Values]) -> str:
    """``2 critical, 1 warning; 3 are over``."""
    holding = [finding["severity"] for finding in findings if finding["ended_at"] is None]
    parts = [f"{holding.count(severity)} {severity}" for severity in _RANK if severity in holding]
    over = len(findings) - len(holding)
    counted = ", ".join(parts) or "nothing holds"
    return counted + (f"; {over} {'is' if over == 1 else 'are'} over" if over else "")


def counted(findings: Iterable[Values]) -> dict[str, int]:
    """How many hold, by severity."""
    holding = [finding["severity"] for finding in findings if finding["ended_at"] is None]
    return {severity: holding.count(severity) for severity in _RANK}
