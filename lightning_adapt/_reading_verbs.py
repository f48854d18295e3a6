"""The verbs that read and judge, inspect to list; each imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_adapt._command import Parser, parser_of, standard_output

if TYPE_CHECKING:
    from lightning_adapt.health import Finding


def inspect(verb: str, about: str, rest: list[str]) -> int:
    """Print a run's or a checkpoint's parameters, worst first."""
    parser = parser_of(verb, about)
    parser.add_argument(
        "path", metavar="RUN_DIR_OR_CKPT", type=Path, help="a log folder, or a checkpoint file"
    )
    parser.add_argument(
        "--most", type=int, default=12, metavar="N", help="rows to print (default: %(default)s)"
    )
    given = parser.parse_args(rest)
    if given.most < 1:
        raise ValueError(f"`--most` must be at least 1, got {given.most}; it is the number of rows")
    if not given.path.exists():
        raise FileNotFoundError(
            f"`RUN_DIR_OR_CKPT` must be a log folder or a checkpoint, got {str(given.path)!r}, "
            "which does not exist; check the name"
        )
    from lightning_adapt.views.terminal import print_worst

    if given.path.is_dir():
        from lightning_adapt.views.reader import read_dynamics

        history = read_dynamics(given.path)
        tables = [history.of(optimizer)[-1] for optimizer in history.optimizers]
    else:
        from lightning_adapt.dynamics.checkpoint import read_checkpoint

        tables = read_checkpoint(given.path)
    print_worst(tables, most=given.most, console=standard_output())
    return 0


def check(verb: str, about: str, rest: list[str]) -> int:
    """Say what is wrong with a run or a checkpoint."""
    parser = _findings_parser(verb, about)
    parser.add_argument("path", metavar="RUN_OR_CKPT", type=Path, help="a log folder, or a checkpoint file")
    given = parser.parse_args(rest)
    if not given.path.exists():
        raise ValueError(
            f"`RUN_OR_CKPT` must be a log folder or a checkpoint, got {str(given.path)!r}, which does not "
            "exist; check the name"
        )
    from lightning_adapt.health import judge_run, judge_snapshot
    from lightning_adapt.health.files import read_rules

    rules = read_rules(given.rules)
    if given.path.is_dir():
        from lightning_adapt.views.reader import read_dynamics

        try:
            history = read_dynamics(given.path)
        except FileNotFoundError as error:  # bad input, and no failure
            raise ValueError(str(error)) from error
        return _tell(judge_run(history, rules), given.format)
    from lightning_adapt.dynamics.checkpoint import read_checkpoint

    return _tell(judge_snapshot(read_checkpoint(given.path), rules), given.format)


def lint(verb: str, about: str, rest: list[str]) -> int:
    """Say what is wrong with a config."""
    parser = _findings_parser(verb, about)
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file of LightningCLI")
    given = parser.parse_args(rest)

    from lightning_adapt.health import lint_config
    from lightning_adapt.health.files import read_rules, read_yaml

    config = read_yaml(given.config, "CONFIG")
    return _tell(lint_config(config, read_rules(given.rules)), given.format)


def _findings_parser(verb: str, about: str) -> Parser:
    parser = parser_of(verb, about, "exit status: 1 when a finding is critical, 2 on bad input, else 0")
    parser.add_argument(
        "--rules", type=Path, metavar="FILE", help="YAML with changes to the rules, see docs/health.md"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: %(default)s")
    return parser


def _tell(findings: Sequence[Finding], form: str) -> int:
    """Print findings; the exit status says whether one is critical."""
    from lightning_adapt.health import print_findings

    if form == "json":
        import json

        print(json.dumps([finding.to_dict() for finding in findings], indent=2))
    else:
        print_findings(findings, standard_output())
    return int(any(finding.severity == "critical" for finding in findings))


def report(verb: str, about: str, rest: list[str]) -> int:
    """Write runs into one file."""
    parser = parser_of(verb, about)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a log folder, or a folder above several")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where to write (default: report.html, .md or .json; - prints)"
    )
    parser.add_argument(
        "--format", metavar="NAME", help="html, md or json (default: as FILE ends, else html)"
    )
    given = parser.parse_args(rest)

    from lightning_adapt.health.offline import values_found
    from lightning_adapt.views.report import FORMATS, write_report

    ending = Path(given.output or "").suffix.lstrip(".")
    format = given.format or (ending if ending in FORMATS else "html")
    output = given.output or f"report.{format}"
    if output == "-":
        from lightning_adapt.views.report.report import report_text

        text, _ = report_text(given.runs, format, judge=values_found)
        sys.stdout.write(text)
        return 0
    written = write_report(given.runs, output, format=format, judge=values_found)
    size = f"{written.size / 1e6:.1f} MB"
    if written.scripts:
        size += f", of which {written.scripts / 1e6:.1f} MB are the chart library"
    print(f"{written.path}: {written.runs} {'run' if written.runs == 1 else 'runs'}, {size}")
    return 0


def list_(verb: str, about: str, rest: list[str]) -> int:
    """List the optimizers."""
    parser = parser_of(verb, about)
    parser.add_argument(
        "pattern", nargs="?", default="*", help="names as a shell matches them; one says more"
    )
    given = parser.parse_args(rest)

    from rich import box
    from rich.table import Table

    from lightning_adapt.optimizers import catalog_rows

    rows = catalog_rows(given.pattern)
    if len(rows) == 1:
        table = Table(show_header=False, box=None)
        for key, value in rows[0].items():
            table.add_row(key, _cell(value), style="bold" if key == "optimizer" else None)
    else:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        columns = ("optimizer", "lr", "eps", "eps placement", "weight decay", "state")
        for column in (*columns, "supports"):
            table.add_column(column, overflow="fold")
        for row in rows:
            supports = ", ".join(key for key, value in row.items() if value is True)
            table.add_row(*(_cell(row[column]) for column in columns), supports)
    standard_output().print(table, highlight=False)
    return 0


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value).replace("[", r"\[")
