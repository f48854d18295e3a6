"""The page: summary, views and data in one file that asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from lightning_adapt._text import printable
from lightning_adapt.dynamics.statistics import BY_NAME
from lightning_adapt.views.report.words import WORST_COLUMNS, Values, cell, clipped, facts, grouped, judged
from lightning_adapt.views.tab import static_files
from lightning_adapt.views.tab.bundle import bundle

_STATIC = Path(__file__).with_name("static")
_FIRST_FINDINGS, _NAMED, _MOST_FINDINGS = 10, 4, 500


def html(summaries: Sequence[Values], bodies: Sequence[bytes]) -> str:
    """One HTML file.

    Args:
        summaries: One for each optimizer of each run.
        bodies: Data of the views, compressed; see `lightning_adapt.views.report.embed`.

    Raises:
        FileNotFoundError: If plotly is not installed.
    """
    scripts = [static_files.content(static_files.PLOTLY).decode(), _script()]
    style = (static_files.FOLDER / "style.css").read_text(encoding="utf-8")
    style += (_STATIC / "report.css").read_text(encoding="utf-8")
    title = ", ".join(dict.fromkeys(str(summary["run"]) for summary in summaries))
    data = "\n".join(
        f'<script type="text/plain" data-body="{at}">{base64.b64encode(body).decode()}</script>'
        for at, body in enumerate(bodies)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Optimizer dynamics: {_text(title[:200])}</title>
<style>
{style}</style>
</head>
<body>
<section class="summary" aria-label="Summary">
<h1>Optimizer dynamics report</h1>
{"".join(_section(summary) for summary in summaries)}
</section>
<noscript><p class="message">The views below need JavaScript.</p></noscript>
<div id="views"></div>
{data}
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def _policy(scripts: Sequence[str]) -> str:
    """Only our two scripts run, and nothing is loaded from anywhere."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    # The chart library styles its elements itself, and draws heat maps as images.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@lru_cache(maxsize=1)
def _script() -> str:
    return bundle(_STATIC / "report.js")


def _text(text: Any) -> str:
    """``text`` as text, whatever it holds."""
    return escape(printable(str(text)))


def _section(summary: Values) -> str:
    rows = "".join(f"<dt>{label}</dt><dd>{escape(line)}</dd>" for label, line in facts(summary))
    rows += "".join(f"<dt>note</dt><dd>{_text(note)}</dd>" for note in summary["notes"])
    return (
        f'<section data-run="{_text(summary["run"])}" data-optimizer="{_text(summary["optimizer"])}">'
        f"<h2>{_text(summary['run'])} · {_text(summary['optimizer'])}</h2><dl>{rows}</dl>"
        f"<h3>Findings</h3><p>{escape(judged(summary))}</p>{_findings(summary['findings'])}"
        f"{_worst(summary['worst'])}</section>\n"
    )


def _findings(findings: Sequence[Values]) -> str:
    groups = grouped(findings)
    items = "".join(_finding(first, others) for first, others in groups[:_FIRST_FINDINGS])
    shown = f"<ol>{items}</ol>" if items else ""
    if len(findings) > min(len(groups), _FIRST_FINDINGS):
        every = "".join(map(_finding, findings[:_MOST_FINDINGS]))
        left = (
            f"<p>{len(findings) - _MOST_FINDINGS} more are left out.</p>"
            if len(findings) > _MOST_FINDINGS
            else ""
        )
        shown += f"<details><summary>One by one</summary><ol>{every}</ol>{left}</details>"
    return shown


def _finding(finding: Values, others: Sequence[Values] = ()) -> str:
    over = "" if finding["ended_at"] is None else f", over at {finding['ended_at']}"
    when = f"{_text(finding['severity'])}, {_text(finding['rule'])}, from step {finding['first_step']}{over}"
    severity = finding["severity"] if finding["severity"] in ("critical", "warning") else "info"
    more = ""
    if others:
        names = list(dict.fromkeys(_text(clipped(each["parameter"] or "the run")) for each in others))
        listed = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        more = f" <small>(and {len(others)} more: {listed})</small>"
    return (
        f'<li><span class="{severity}">{when}:</span> {_text(finding["sentence"])}; '
        f"{_text(finding['remedy'])}{more}</li>"
    )


def _worst(worst: Values | None) -> str:
    if worst is None:
        return "<p>No step was made: all were skipped.</p>"
    head = "".join(f'<th scope="col" title="{_about(name)}">{name}</th>' for name in WORST_COLUMNS)
    body = "".join(
        f'<tr><th scope="row">{_text(row["parameter"])}</th>'
        + "".join(f'<td class="number">{escape(cell(row, name))}</td>' for name in WORST_COLUMNS)
        + "</tr>"
        for row in worst["rows"]
    )
    return (
        f"<details><summary>The worst {len(worst['rows'])} parameters at step {worst['step']}</summary>"
        '<div class="scrolled" tabindex="0" role="region" aria-label="Worst parameters"><table>'
        f'<thead><tr><th scope="col">parameter</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _about(name: str) -> str:
    return (
        escape(f"{BY_NAME[name].meaning} {BY_NAME[name].advice}") if name in BY_NAME else "What puts it there"
    )
