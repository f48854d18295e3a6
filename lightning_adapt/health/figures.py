"""Figures that rules look at beside the table's columns: rates, hyperparameters, sums over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import numpy as np

from lightning_adapt._text import unknown_name
from lightning_adapt.dynamics.histograms import HISTOGRAMS, UPDATE, FloatArray
from lightning_adapt.dynamics.statistics import COLUMNS
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health.facts import Facts
from lightning_adapt.health.rows import Rows


def figure(name: str, table: DynamicsTable, rows: Rows, facts: Facts) -> FloatArray:
    """One figure of every row, shape ``(rows,)``, or one for the whole table, 0-dim.

    Args:
        name: A column of the table, or one of `DERIVED` or `OF_FACTS`.
        table: Of one optimizer after one step.
        rows: Its rows.
        facts: What is known beside it.

    Raises:
        ValueError: If there is no such figure.
    """
    if name in DERIVED:
        return DERIVED[name](table, rows)
    if name in OF_FACTS:
        return _number(getattr(facts, name))
    if name in table.columns:
        return table[name]
    check_columns("column", [name])
    return np.full(len(rows), np.nan)  # a table from before there was such a column


def check_columns(what: str, names: Iterable[str]) -> None:
    """Refuse names that no figure has.

    Args:
        what: The argument that holds them.
        names: To check.

    Raises:
        ValueError: For the first that is not known.
    """
    known = [*COLUMNS, *DERIVED, *OF_FACTS]
    for name in names:
        if name not in known:
            raise ValueError(unknown_name(what, name, known, most=8))


def hyperparameter(name: str, table: DynamicsTable, rows: Rows) -> FloatArray:
    """A hyperparameter of each row's group; NaN where it is not known."""
    found = [table.hyperparameters.get(group, {}).get(name, np.nan) for group in rows.groups]
    return np.array(found, dtype=np.float64)[rows.group_index]


def learning_rate(table: DynamicsTable, rows: Rows) -> FloatArray:
    """The learning rate of each row's group."""
    found = [table.learning_rates.get(group, np.nan) for group in rows.groups]
    return np.array(found, dtype=np.float64)[rows.group_index]


def gradient_norm(table: DynamicsTable, rows: Rows) -> FloatArray:
    """The norm of all gradients together, as clipping by norm knows it."""
    square = table["numel"] * table["grad_rms"] ** 2
    return np.sqrt(np.nansum(square)) if not np.isnan(square).all() else np.array(np.nan)


def moved_frac(table: DynamicsTable, rows: Rows) -> FloatArray:
    """Share of each row's elements that moved, from the histogram of |update|; NaN without it."""
    if table.histograms is None:
        return np.full(len(rows), np.nan)
    counts = table.histograms[:, HISTOGRAMS.index(UPDATE)]
    share: FloatArray = 1.0 - counts[:, 0] / counts.sum(axis=1, dtype=np.float64)
    return share


def _number(value: float | None) -> FloatArray:
    return np.array(np.nan if value is None else value, dtype=np.float64)


DERIVED: Mapping[str, Callable[[DynamicsTable, Rows], FloatArray]] = MappingProxyType(
    {
        "learning_rate": learning_rate,
        "initial_lr": lambda table, rows: hyperparameter("initial_lr", table, rows),
        "state_bits": lambda table, rows: rows.state_bits,
        "moved_frac": moved_frac,
        "gradient_norm": gradient_norm,
        "loss_scale": lambda table, rows: _number(table.loss_scale),
        "real_steps": lambda table, rows: _number(table.real_steps),
        "skipped_steps": lambda table, rows: _number(table.skipped_steps),
        "skipped": lambda table, rows: _number(table.skipped),
    }
)
"""Name to function of a table; from ``gradient_norm`` on, one number for the whole table."""

OF_FACTS = ("loss", "clipped_frac")
"""Numbers out of `Facts`; NaN where they are not known."""
