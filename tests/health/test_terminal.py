"""Findings in the terminal: together what belongs together, and names as they are."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from lightning_adapt.health import Finding, grouped, print_findings

FINDING = Finding(
    rule="epsilon-floor",
    severity="warning",
    parameter="a",
    optimizer="Adam",
    first_step=3,
    last_step=9,
    ended_at=None,
    value=0.5,
    cause="small",
    sentence="a: eps sets the step size",
    remedy="set eps to 1e-12",
    source="Somebody (2020)",
)


def printed(*findings: Finding, color: bool = False) -> str:
    stream = io.StringIO()
    print_findings(findings, Console(file=stream, width=100, force_terminal=color))
    return stream.getvalue()


def test_nothing_was_found() -> None:
    assert printed() == "no findings\n"


def test_the_same_of_several_parameters_is_one_paragraph() -> None:
    findings = [
        replace(FINDING, parameter=name, first_step=step) for step, name in enumerate("abcdefg", start=3)
    ]
    critical = replace(
        FINDING, rule="non-finite-gradient", severity="critical", cause="", ended_at=12, last_step=11
    )
    other = replace(FINDING, optimizer="SGD")
    assert [len(group) for group in grouped([*findings, critical, other])] == [1, 7, 1]
    lines = [line.rstrip() for line in printed(*findings, critical, other).splitlines()]
    assert lines[0] == "critical non-finite-gradient  Adam, steps 3 to 11, ended"
    assert lines[4:9] == [
        "warning  epsilon-floor (small)  Adam, steps 3 to 9",
        "  a: eps sets the step size",
        "  likewise: b, c, d, e and 2 more",
        "  do: set eps to 1e-12",
        "  why: Somebody (2020)",
    ]
    assert lines[-1] == "1 critical, 8 warnings"


def test_names_are_shown_as_they_are() -> None:
    nasty = "[red]w[/red]\x1b[31m"
    text = printed(replace(FINDING, parameter=nasty, sentence=f"{nasty}: is odd", optimizer="[b]\x07"))
    assert "[red]w[/red]\\x1b[31m: is odd" in text
    assert "[b]\\x07" in text
    assert "\x1b" not in text
    assert "\x07" not in text
