"""Findings as lines, markdown and a page."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from lightning_adapt.views.findings import (
    counted,
    findings_markdown,
    in_lines,
    print_findings,
    worst_first,
)


def _finding(**options: Any) -> dict[str, Any]:
    return {
        "rule": "spike-warning",
        "severity": "warning",
        "parameter": "w",
        "optimizer": "AdamW",
        "first_step": 7,
        "last_step": 8,
        "ended_at": None,
        "value": 4.0,
        "cause": "",
        "sentence": "w: rms_t 4.0",
        "remedy": "warm up",
        "source": "a paper",
        **options,
    }


MANY = [_finding(parameter=f"layer.{i}") for i in range(6)]


def test_lines_are_one_a_rule_worst_first() -> None:
    news = [
        _finding(severity="info", rule="floor", sentence="a\nb"),
        *MANY,
        _finding(severity="critical", rule="lost", first_step=9, parameter=""),
        _finding(ended_at=12, parameter="x\x1b[31m"),
        _finding(ended_at=12, parameter=""),
    ]
    assert in_lines(news) == [
        ("critical", "step 9, lost: w: rms_t 4.0; warm up"),
        (
            "warning",
            "step 7, spike-warning: w: rms_t 4.0; warm up (and 5 more: layer.1, layer.2, layer.3, …)",
        ),
        ("info", "step 7, floor: a\\nb; warm up"),
        ("info", "step 12, spike-warning: over for x\\x1b[31m, AdamW"),
    ]
    assert in_lines([]) == []


def test_causes_and_optimizers_have_lines_of_their_own() -> None:
    news = [_finding(cause="small"), _finding(cause="underflow"), _finding(optimizer="SGD")]
    assert len(in_lines(news)) == 3


def test_order_and_count() -> None:
    over, info, critical = _finding(ended_at=9), _finding(severity="info"), _finding(severity="critical")
    assert worst_first([info, over, critical]) == [critical, over, info]
    assert counted([info, over, critical]) == {"critical": 1, "warning": 0, "info": 1}


def test_markdown() -> None:
    page = findings_markdown([_finding(sentence="a | b\nc"), *MANY], most=3)
    lines = page.split("\n")
    assert lines[0] == "| severity | since step | rule | what is wrong | what to do |"
    assert "| warning | 7 | spike-warning | a \\| b c | warm up |" in lines
    assert len([line for line in lines if line.startswith("| warning")]) == 3
    assert lines[-1] == "4 more are left out."
    assert findings_markdown([]) == "Nothing holds: every finding is over."


def _printed(findings: list[dict[str, Any]], **options: Any) -> str:
    page = StringIO()
    print_findings(findings, console=Console(file=page, width=100), **options)
    return page.getvalue()


def test_the_page() -> None:
    page = _printed([_finding(ended_at=9, sentence="[bold]x[/]\x1b[31m"), _finding(severity="critical")])
    assert "health: 1 critical; 1 is over" in page
    assert page.index("from 7") < page.index("7 to 9")
    assert "[bold]x[/]\\x1b[31m" in page
    assert "warm up" in page
    assert "4 more are left out" in _printed(MANY, most=2)
    assert _printed([]) == "health: nothing was found\n"
    assert "health: nothing holds; 2 are over" in _printed([_finding(ended_at=9)] * 2)
