"""One recipe, several optimizers, one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_adapt.recipes.registry import Recipe
from lightning_adapt.recipes.runner import Outcome, check_optimizer, run
from lightning_adapt.views.rollup import summarise


@dataclass(frozen=True)
class Row:
    """One optimizer's line: what came out of its run, or why there is nothing."""

    optimizer: str
    outcome: Outcome | None
    reason: str = ""


def compare(
    recipe: Recipe,
    optimizers: Sequence[str],
    args: Sequence[str] = (),
    *,
    preset: str | None = None,
    threads: int | None = None,
    logs: str | Path = "runs",
    console: Console | None = None,
) -> tuple[list[Row], Path]:
    """Run ``recipe`` once for each optimizer; a run that fails leaves its reason and the others go on.

    Args:
        recipe: What to train.
        optimizers: Names in the optimizer catalog.
        args: LightningCLI options for every run.
        preset: A variant of the recipe's values.
        threads: CPU threads for torch; ``None`` chooses.
        logs: Folder in which the comparison's folder is made.
        console: Where each run says what was chosen.

    Returns:
        One row for each optimizer, in the order asked for, and the folder with one log folder for each.

    Raises:
        ValueError: If an optimizer is unknown or none is named.
    """
    if not optimizers:
        raise ValueError("`--optimizers` must be names divided by commas, got none; for example adagrad,adam")
    for optimizer in optimizers:
        check_optimizer(optimizer)
    console = console or Console()
    folder = _next_version(Path(logs) / f"{recipe.name}-compare")
    rows = []
    for optimizer in optimizers:
        try:
            outcome = run(
                recipe,
                args,
                optimizer=optimizer,
                preset=preset,
                threads=threads,
                logs=folder.parent,
                name=folder.name,
                version=optimizer,
                console=console,
            )
            rows.append(Row(optimizer, outcome))
        except Exception as error:  # whatever it was, the others still have something to say
            reason = " ".join(str(error).split()) or type(error).__name__
            rows.append(Row(optimizer, None, reason))
            console.print(f"[red]{optimizer} failed[/]: {escape(reason)}")
    return rows, folder


def show_comparison(recipe: Recipe, rows: Sequence[Row], folder: Path, console: Console) -> None:
    """Print the one table, the best run in bold, and the TensorBoard line.

    Args:
        recipe: What was trained.
        rows: One for each optimizer.
        folder: Where the log folders are.
        console: Where to print.
    """
    table = Table(
        title=f"{recipe.name}: {recipe.metric} ({recipe.metric_mode} is best)", title_justify="left"
    )
    table.add_column("optimizer")
    for name in ("lr", recipe.metric, "seconds", "median effective lr", "eps-floor share"):
        table.add_column(name, justify="right", overflow="fold")
    best = _best(recipe, rows)
    for row in rows:
        cells = [escape(row.optimizer), *_cells(recipe, row)]
        table.add_row(*cells, style="bold" if row is best else None)
    console.print(table)
    for row in rows:
        if row.outcome is None:
            console.print(
                f"{escape(row.optimizer)} failed: {escape(row.reason)}", soft_wrap=True, highlight=False
            )
    console.print(f"look     tensorboard --logdir {folder}", soft_wrap=True, highlight=False, markup=False)


def _cells(recipe: Recipe, row: Row) -> list[str]:
    if row.outcome is None:
        return ["", "failed", "", "", ""]
    outcome = row.outcome
    figures = summarise(outcome.table) if outcome.table is not None else {}
    nan = float("nan")
    return [
        f"{outcome.lr:.3g}",
        f"{outcome.metrics.get(recipe.metric, nan):.4g}",
        f"{outcome.seconds:.1f}",
        f"{figures.get('effective_lr_p50', nan):.2e}",
        f"{figures.get('eps_floor_frac', nan):.2%}",
    ]


def _best(recipe: Recipe, rows: Sequence[Row]) -> Row | None:
    scores = {
        row.outcome.metrics[recipe.metric]: row
        for row in rows
        if row.outcome is not None and recipe.metric in row.outcome.metrics
    }
    # A run that ended in NaN is never the best.
    real = [score for score in scores if score == score]
    if not real:
        return None
    return scores[min(real) if recipe.metric_mode == "min" else max(real)]


def _next_version(parent: Path) -> Path:
    taken = [int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdigit()]
    return parent / f"version_{max(taken, default=-1) + 1}"
