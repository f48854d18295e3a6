"""Tables in the terminal, worst parameters first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_adapt._text import printable
from lightning_adapt.dynamics.statistics import BY_NAME
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.views.rollup import floor_cause, summarise, worst_rows

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


def print_worst(tables: Sequence[DynamicsTable], *, most: int = 12, console: Console | None = None) -> None:
    """Print each table's parameters, worst first, with what the columns mean below.

    Args:
        tables: The last table of each optimizer, usually one.
        most: Rows shown for each.
        console: Where to print; standard output by default.

    Raises:
        ValueError: If ``most`` is not positive.
    """
    if most < 1:
        raise ValueError(f"`most` must be a positive number of rows, got {most}; 12 fit a screen")
    from rich.console import Console

    console = Console() if console is None else console
    for table in tables:
        console.print(worst_table(table, most))
        for line in _remarks(table, worst_rows(table, most)):
            console.print(line)


def worst_table(table: DynamicsTable, most: int) -> Table:
    """The rich table of one `DynamicsTable`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = worst_rows(table, most)
    page = Table(title=_title(table), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    page.add_column("parameter", overflow="fold", min_width=16)
    page.add_column("dtype", no_wrap=True)
    for name in ("eff. lr\np05", "\np50", "\np95"):
        page.add_column(name, justify="right", no_wrap=True)
    page.add_column("on eps\nfloor", justify="right", no_wrap=True)
    page.add_column("cause")
    page.add_column("update\nratio", justify="right", no_wrap=True)
    for index in shown:
        at = dict(zip(table.columns, table.values[index].tolist(), strict=True))
        info = table.rows[index]
        dtype = _SHORT.get(info.dtype, info.dtype)
        if info.state_dtype not in ("", info.dtype):
            dtype += f"/{_SHORT.get(info.state_dtype, info.state_dtype)}"  # parameter/state
        share = at["eps_floor_frac"]
        style = "bold red" if share >= 0.1 else "yellow" if share >= 0.01 else ""
        page.add_row(
            # Text: a name is shown as it is, whatever markup or control characters it holds.
            Text(printable(info.name)),
            dtype,
            *(_number(at[f"effective_lr_{q}"]) for q in ("p05", "p50", "p95")),
            Text(_percent(share), style=style),
            floor_cause(table, index),
            _number(at["update_ratio"]),
        )
    if len(table.rows) > len(shown):
        page.caption = f"{len(shown)} of {len(table.rows)} parameters, worst first"
        page.caption_justify = "left"
    return page


_SHORT = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}


def _title(table: DynamicsTable) -> str:
    rates = [f"{rate:.3g}" for rate in sorted(set(table.learning_rates.values()))]
    parts = [f"{table.optimizer or 'optimizer'} at step {table.step}"]
    if rates:
        which = " of the next step" if table.update_source == "checkpoint" else ""
        parts.append((f"lr {rates[0]}" if len(rates) == 1 else f"lr {rates[0]} … {rates[-1]}") + which)
    if table.loss_scale is not None:
        parts.append(f"loss scale {table.loss_scale:g}, {table.skipped_steps} steps skipped")
    if table.skipped:
        parts.append("this step was skipped")
    return ", ".join(parts)


def _number(x: float) -> str:
    """Two digits: ``6.8e-4``."""
    if not np.isfinite(x) or x == 0:
        return "–" if np.isnan(x) else f"{x:g}"
    mantissa, exponent = f"{x:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _percent(x: float) -> str:
    return "–" if np.isnan(x) else "0" if x == 0 else f"{100 * x:.1f} %" if x >= 0.001 else "< 0.1 %"


def _remarks(table: DynamicsTable, shown: Sequence[int]) -> list[RenderableType]:
    """One line on the whole model, and what each cause on show means."""
    from rich.text import Text

    whole = summarise(table)
    lines: list[RenderableType] = [
        Text(
            f"all {int(whole['numel']):,} elements: effective lr p50 {_number(whole['effective_lr_p50'])}, "
            f"on the epsilon floor {_percent(whole['eps_floor_frac'])}, "
            f"update ratio {_number(whole['update_ratio'])}"
        )
    ]
    for cause in ("untouched", "underflow", "small"):
        column = f"eps_floor_{cause}_frac"
        shares = table.values[list(shown), table.columns.index(column)]
        if (np.nan_to_num(shares) > 0).any():
            about = BY_NAME[column]
            lines.append(Text(f"{cause}: {about.meaning} {about.advice}", style="dim"))
    return lines
