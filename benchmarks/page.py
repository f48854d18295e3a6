"""Fill the tables of docs/ from the JSON of the benchmarks: no figure is copied by hand."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from _bars import BARS, Bar, unmeasured, verdicts
from _measure import RESULTS, ROOT, Table, readable
from diagnosis.bars import BARS as DIAGNOSIS_BARS

PAGES = {"performance.md": BARS, "diagnosis.md": DIAGNOSIS_BARS}
"""Page in docs/ to the bars that it lists."""
NOTHING = "*Not measured yet.*"


def main() -> None:
    """Read all results and rewrite the pages between their markers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the JSON files")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder with the pages to fill")
    args = parser.parse_args()
    results = [json.loads(path.read_text()) for path in sorted(args.results.glob("*.json"))]
    for name, bars in PAGES.items():
        page = args.docs / name
        page.write_text(filled(page.read_text(), results, bars))


def filled(page: str, results: list[dict[str, Any]], bars: Mapping[str, Bar] = BARS) -> str:
    """The page with what ``results`` say between ``<!-- name -->`` and ``<!-- end -->``.

    Quick runs are left out: they say nothing. A result with a sentence under ``outdated`` is of a program
    that has changed much since: its tables are shown with it, its bars are to be measured again.
    """
    results = [result for result in results if not result["quick"]]
    measured = _bars(result for result in results if not result.get("outdated"))
    before = _bars(result for result in results if result.get("outdated"))
    parts = {"bars": _markdown(verdicts(measured, bars)) or NOTHING, "unmeasured": _left(measured, before)}
    for result in results:
        name = f"{result['name']}-{result['device']}"
        parts[name] = "\n\n".join([_made(result), *map(_section, result["tables"]), *_notes(result)])

    def part(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {name} -->\n{parts.get(name, NOTHING)}\n<!-- end -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- end -->", part, page, flags=re.DOTALL)


def _bars(results: Iterable[dict[str, Any]]) -> dict[str, float]:
    return {key: value for result in results for key, value in result["bars"].items()}


def _made(result: dict[str, Any]) -> str:
    """One line on when and on what."""
    about = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    outdated = f" **Outdated:** {result['outdated']}." if result.get("outdated") else ""
    return f"Made {result['made']}: {about}.{outdated}"


def _section(table: dict[str, Any]) -> str:
    return f"**{table['title']}.** {table['about']}\n\n{_markdown(Table(**table)) or NOTHING}"


def _notes(result: dict[str, Any]) -> list[str]:
    return ["\n".join(f"- {note}" for note in result["notes"])] if result["notes"] else []


def _left(measured: dict[str, float], before: dict[str, float]) -> str:
    """The bars nobody has measured, or not since much has changed, as a list."""
    lines: list[str] = []
    for key, bar in unmeasured(measured).items():
        earlier = f" ({readable(before[key])} in an outdated measurement)" if key in before else ""
        lines.append(f"- {bar.where}: {bar.what}, {bar.asked}{earlier}")
    return "\n".join(lines) or "Nothing: every bar was measured."


def _markdown(table: Table) -> str:
    """A Markdown table, empty without rows."""
    if not table.rows:
        return ""
    lines = [list(table.rows[0]), ["---"] * len(table.rows[0])]
    lines += [[readable(value) for value in row.values()] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
