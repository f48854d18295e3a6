"""Findings as a page: HTML in one file, or markdown with figures beside it."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_adapt.recipes.landscapes._study import Figure
from lightning_adapt.recipes.landscapes.run import Result, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

_HEAD = ("claim", "predicted", "measured", "differs by", "within", "holds")
_UNITS = "The difference and what it may be are relative to the prediction, or absolute where it says abs."


def write_markdown(results: Sequence[Result], path: Path) -> list[Path]:
    """Write ``path`` and one ``<stem>-<landscape>-<n>.svg`` for each figure beside it.

    Returns:
        All files written.
    """
    lines, files = ["# Landscapes: what was predicted and what was measured", "", _UNITS, ""], [path]
    for result in results:
        lines += [f"## {result.entry.name}", "", f"{result.claim}.", "", *_markdown_table(result), ""]
        for number, figure in enumerate(result.outcome.figures if result.outcome else (), start=1):
            file = path.with_name(f"{path.stem}-{result.entry.name}-{number}.svg")
            file.write_text(svg(figure))
            files.append(file)
            lines += [f"![{figure.title}]({file.name})", ""]
    path.write_text("\n".join(lines))
    return files


def _markdown_table(result: Result) -> list[str]:
    if result.error:
        return [f"It failed: {result.error}"]
    rows = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    for finding in result.findings:
        claim = finding.claim.replace("|", "\\|")
        rows.append(f"| {claim} | {' | '.join(numbers(finding))} | {'yes' if finding.holds else '**no**'} |")
    rows += [f"\n{f.claim}: {f.reason}" for f in result.findings if f.explained]
    return rows


_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .3rem .6rem; text-align: left; }
tr { border-bottom: 1px solid #8884; } td:nth-child(n+2) { font-variant-numeric: tabular-nums; }
svg { max-width: 100%; height: auto; background: white; } .no { font-weight: bold; }"""


def write_html(results: Sequence[Result], path: Path) -> None:
    """Write one self-contained page."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Landscapes</title>",
        f"<style>{_STYLE}</style><h1>Landscapes: what was predicted and what was measured</h1>",
        f"<p>{_UNITS}</p>",
    ]
    for result in results:
        parts.append(
            f"<h2 id={result.entry.name}>{result.entry.name}</h2><p>{html.escape(result.claim)}.</p>"
        )
        if result.error:
            parts.append(f"<p class=no>It failed: {html.escape(result.error)}</p>")
            continue
        parts.append("<table><tr>" + "".join(f"<th>{name}</th>" for name in _HEAD) + "</tr>")
        for finding in result.findings:
            cells = [finding.claim, *numbers(finding), "yes" if finding.holds else "no"]
            row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            parts.append(f"<tr class={cells[-1]}>{row}</tr>")
            if finding.explained:
                parts.append(f"<tr><td colspan={len(_HEAD)}>{html.escape(finding.reason)}</td></tr>")
        parts.append("</table>")
        parts += [svg(figure) for figure in (result.outcome.figures if result.outcome else ())]
    path.write_text("\n".join(parts))


def svg(figure: Figure) -> str:
    """A figure as an SVG element: measured curves solid, predicted ones dashed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Picture

    # Text as text and a fixed salt: the same numbers give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lightning-adapt", "font.size": 9}):
        picture = Picture(figsize=(6.4, 3.8), layout="constrained")
        _draw(picture, figure)
        out = io.StringIO()
        picture.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text[text.index("<svg") :]


#: Okabe and Ito's palette: told apart by colour-blind eyes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def _draw(picture: Picture, figure: Figure) -> None:
    axes = picture.add_subplot()
    measured = [name for name in figure.curves if not name.startswith("predicted")]
    for name, (x, y) in figure.curves.items():
        dashed = name.startswith("predicted")
        rank = list(figure.curves).index(name) if dashed else measured.index(name)
        twin = name.replace("predicted", "measured", 1)
        colour = "#555555" if dashed and twin in measured else _COLOURS[rank % len(_COLOURS)]
        axes.plot(x, y, "--" if dashed else "-", label=name, color=colour, linewidth=1.2 if dashed else 1.8)
    axes.set_xscale("log" if figure.log_x else "linear")
    axes.set_yscale("log" if figure.log_y else "linear")
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    axes.set_title(figure.title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
