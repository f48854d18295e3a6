"""From run folders to a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_adapt._text import unknown_name
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.views.report.recording import Recording
from lightning_adapt.views.report.runs import find_runs
from lightning_adapt.views.report.summary import strict, summary_of
from lightning_adapt.views.report.words import markdown

FORMATS = ("html", "md", "json")
Judge = Callable[[Iterable[DynamicsTable], int], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        path: Where.
        runs: How many runs it is about.
        size: Bytes of the file.
        scripts: Bytes of that which are the chart library, the same in every report.
    """

    path: Path
    runs: int
    size: int
    scripts: int


def write_report(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    format: str = "html",
    judge: Judge | None = None,
) -> Report:
    """Write one file about one or several runs.

    Args:
        runs: Log folders, or folders above them.
        output: The file; its folder must exist, and an older file is replaced.
        format: One of `FORMATS`.
        judge: Findings for the tables of a run, and its last step, where no health monitor looked.

    Raises:
        FileNotFoundError: If a run or the folder of ``output`` does not exist, or plotly is not installed.
        ValueError: If a run has no tables, or ``format`` is not known.
        OSError: If the file cannot be written.
    """
    path = writable(output)
    text, count = report_text(runs, format, judge=judge)
    _replace(path, text.encode("utf-8", "backslashreplace"))
    scripts = 0
    if format == "html":
        from lightning_adapt.views.tab.static_files import plotly_js

        scripts = plotly_js().stat().st_size
    return Report(path, count, path.stat().st_size, scripts)


def report_text(
    runs: Sequence[str | os.PathLike[str]],
    format: str = "html",
    *,
    judge: Judge | None = None,
) -> tuple[str, int]:
    """What `write_report` writes, and how many runs it is about."""
    if format not in FORMATS:
        raise ValueError(unknown_name("format", format, FORMATS))
    found = [(name, each, _findings(each, judge)) for name, each in find_runs(runs)]
    summaries = [
        summary_of(name, each, optimizer, findings[optimizer])
        for name, each, findings in found
        for optimizer in each.places
    ]
    if format == "md":
        return markdown(summaries), len(found)
    if format == "json":
        content = {"format": 1, "runs": strict(summaries)}
        return json.dumps(content, indent=1, allow_nan=False) + "\n", len(found)
    from lightning_adapt.views.report.embed import embed
    from lightning_adapt.views.report.page import html

    embedded = embed([(name, each, strict(findings)) for name, each, findings in found])
    for summary in summaries:
        summary["notes"] += embedded.notes[summary["run"], summary["optimizer"]]
    return html(summaries, embedded.bodies), len(found)


def _findings(recording: Recording, judge: Judge | None) -> dict[str, list[Mapping[str, Any]]]:
    """Findings by optimizer: those of the run's own monitor, or what ``judge`` finds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for optimizer, places in recording.places.items():
        if recording.judged or judge is None:
            found[optimizer] = [each for each in recording.findings if each["optimizer"] == optimizer]
        else:
            found[optimizer] = list(judge(recording.tables(optimizer), places[-1].step))
    return found


def writable(output: str | os.PathLike[str]) -> Path:
    """``output`` as a path that a file can be written to.

    Raises:
        OSError: If not, and why.
    """
    path = Path(output)
    if path.is_dir():
        raise IsADirectoryError(f"the report must be a file, got the folder {str(path)!r}; add a name")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the report must lie in a folder that exists, got {str(path)!r}; make {str(path.parent)!r} first"
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(
            f"the report must be where you may write, got {str(path)!r}; choose another place"
        )
    return path


def _replace(path: Path, content: bytes) -> None:
    """Write it completely or not at all."""
    if path.exists() and not path.is_file():  # such as /dev/stdout
        path.write_bytes(content)
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(f"the report could not be written to {str(path)!r}: {error}") from error
