"""Run one landscape or all of them, and show what was found."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import getdoc, signature
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Finding, Outcome, Study
from lightning_adapt.recipes.landscapes.registry import LANDSCAPES, Entry

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One landscape that was run.

    Args:
        entry: Which.
        claim: In one sentence.
        outcome: Findings and figures; ``None`` when it failed.
        error: Why it failed.
        folder: TensorBoard logs.
    """

    entry: Entry
    claim: str
    outcome: Outcome | None
    error: str = ""
    folder: Path | None = None

    @property
    def findings(self) -> Sequence[Finding]:
        """What was found, nothing when it failed."""
        return self.outcome.findings if self.outcome else ()


def parse(entry: Entry, words: Sequence[str]) -> Study:
    """Build a study from its YAML file and the command line.

    Args:
        entry: Which landscape.
        words: For example ``["--lr", "1.0"]``; ``--help`` lists all.

    Raises:
        ValueError: If an option is unknown or has a bad value.
    """
    study = entry.load()
    parser = _parser(entry, study)
    try:
        values = parser.parse_args(list(words)).as_dict()
    except Exception as error:
        raise ValueError(f"{' '.join(str(error).split())}; see {parser.prog} --help") from error
    options = signature(study).parameters
    return study(**{name: value for name, value in values.items() if name in options})


def _parser(entry: Entry, study: type[Study]) -> ArgumentParser:
    """Options of a study; the help shows its formula, its source and what to look at."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """The docstring keeps its lines."""

    theory = (getdoc(study) or "").partition("\n\nArgs:")[0]
    parser = ArgumentParser(
        prog=f"lightning-adapt run landscapes/{entry.name}",
        description=f"{study.claim}.\n\n{theory}",
        epilog="--logs DIR belongs to the command: folder in which log folders are made (default: runs)",
        formatter_class=Help,
        default_config_files=[str(entry.config_path)],
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file with values")
    parser.add_class_arguments(study, None)
    for group in (parser.groups or {}).values():  # its title was the docstring's first line once more
        group.title = "values of the experiment"
    return parser


def fresh(folder: Path) -> Path:
    """The first of ``folder/version_0``, ``version_1``, … after all that exist: no run adds to older logs."""
    names = [place.name.removeprefix("version_") for place in folder.glob("version_*")]
    last = max((int(name) for name in names if name.isdecimal()), default=-1)
    return folder / f"version_{last + 1}"


def run_one(entry: Entry, folder: Path | None, study: Study | None = None) -> Result:
    """Run one landscape.

    Args:
        entry: Which.
        folder: Of its logs; ``None`` writes none.
        study: Made by `parse`; with default values otherwise.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small are several times slower with two
    try:
        with Lab(folder) as lab:
            outcome = (study or entry.load()()).run(lab)
    finally:
        torch.set_num_threads(threads)
    return Result(entry, entry.load().claim, outcome, folder=folder)


def attempt(entry: Entry, folder: Path | None) -> Result:
    """`run_one`, but a failure becomes part of the result, so that others still run."""
    try:
        return run_one(entry, folder)
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Result(entry, entry.load().claim, None, text, folder)


def run_all(names: Sequence[str], folder: Path | None, console: Console) -> list[Result]:
    """Run the landscapes called ``names``, all when empty, in teaching order.

    Args:
        names: Of landscapes.
        folder: Above their log folders; ``None`` writes no logs.
        console: Says what is running.
    """
    from rich.text import Text

    chosen = [entry for entry in LANDSCAPES.values() if not names or entry.name in names]
    results = []
    with console.status("") as status:
        for entry in chosen:
            status.update(Text(f"{entry.name}: {entry.summary}"))
            results.append(attempt(entry, folder and folder / entry.name))
    return results


def show(results: Sequence[Result], console: Console) -> None:
    """Print one table over all findings, and the reasons of those that do not hold."""
    if any(result.findings for result in results):
        console.print(findings_table(results))
    for result in results:
        if result.error:
            where = f"(lightning-adapt --debug run landscapes/{result.entry.name} shows where)"
            line = f"{result.entry.name} failed: {result.error} {where}"
            console.print(line, style="bold red", markup=False)
        for finding in result.findings:
            if not finding.holds:
                why = finding.reason or "see its page in docs/landscapes"
                console.print(f"{result.entry.name}: {finding.claim}: {why}", style="yellow", markup=False)


def sum_up(results: Sequence[Result], console: Console, seconds: float) -> None:
    """Print how many claims held, the wall time of it all, and where the logs are."""
    findings = [finding for result in results for finding in result.findings]
    held = sum(finding.holds for finding in findings)
    console.print(f"{held} of {len(findings)} claims held, {seconds:.0f} s", highlight=False)
    folders = [result.folder for result in results if result.folder is not None]
    if folders:
        where = folders[0] if len(folders) == 1 else folders[0].parent
        console.print(f"look     tensorboard --logdir {where}", markup=False, highlight=False, soft_wrap=True)


def findings_table(results: Sequence[Result]) -> Table:
    """Claim, predicted, measured, how far apart, how far they may be, holds or not.

    A landscape's name stands in a row of its own above its claims, so that these get the room.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("claim", overflow="fold")
    for name in ("predicted", "measured", "differs", "within"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("holds")
    for result in results:
        if not result.findings:
            continue
        table.add_row(Text(result.entry.name, "bold"))
        for finding in result.findings:
            predicted, measured, apart, within = numbers(finding)
            # The mark stands in the next column too, and the room is the claim's.
            words = (finding.claim, predicted, measured, apart.removesuffix(" abs."), within)
            # As `Text`, because rich would take [rows] in a string for markup.
            cells = (Text(word) for word in words)
            table.add_row(*cells, Text("yes") if finding.holds else Text("no", "bold yellow"))
        table.add_section()
    return table


def numbers(finding: Finding) -> tuple[str, str, str, str]:
    """Predicted, measured, how far apart they are and how far they may be, as text.

    The last two are relative to the prediction unless marked ``abs.``; for a bound the last is the bound.
    """
    absolute = " abs." if finding.absolute or finding.predicted == 0 else ""
    within = {
        "equal": f"±{finding.tolerance:.2g}{absolute}",
        "at most": f"≤ {finding.predicted + finding.allowance:.6g}",
        "at least": f"≥ {finding.predicted - finding.allowance:.6g}",
    }[finding.kind]
    return (
        f"{finding.predicted:.6g}",
        f"{finding.measured:.6g}",
        f"{finding.difference:.1e}{absolute}",
        within,
    )
