"""Figures that rules look at beside the table's columns: rates, hyperparameters, dtypes, sums over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from lightning_adapt._text import unknown_name
from lightning_adapt.dynamics.histograms import HISTOGRAMS, UPDATE, FloatArray
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health.formats import format_of


def figure(name: str, table: DynamicsTable) -> FloatArray:
    """One figure of every row, shape ``(rows,)``, or one for the whole table, 0-dim.

    Args:
        name: A column of the table, or one of `DERIVED`.
        table: Of one optimizer after one step.

    Raises:
        KeyError: If there is no such figure.
    """
    if name in DERIVED:
        return DERIVED[name](table)
    if name in table.columns:
        return table[name]
    raise KeyError(unknown_name("column", name, [*table.columns, *DERIVED], most=8))


def hyperparameter(table: DynamicsTable, name: str) -> FloatArray:
    """A hyperparameter of each row's group; NaN where it is not known."""
    nothing: Mapping[str, float] = {}
    groups = {group: numbers.get(name, np.nan) for group, numbers in table.hyperparameters.items()}
    return _by_group(table, groups) if groups else _by_group(table, nothing)


def _by_group(table: DynamicsTable, numbers: Mapping[str, float]) -> FloatArray:
    return np.array([numbers.get(row.group, np.nan) for row in table.rows], dtype=np.float64)


def learning_rate(table: DynamicsTable) -> FloatArray:
    """The learning rate of each row's group."""
    return _by_group(table, table.learning_rates)


def state_bits(table: DynamicsTable) -> FloatArray:
    """Bits of a number of each row's state; NaN where there is none."""
    return np.array([_bits(row.state_dtype) for row in table.rows], dtype=np.float64)


def _bits(dtype: str) -> float:
    known = format_of(dtype)
    return float("nan") if known is None else float(known.bits)


def gradient_norm(table: DynamicsTable) -> FloatArray:
    """The norm of all gradients together, as clipping by norm knows it."""
    square = table["numel"] * table["grad_rms"] ** 2
    return np.sqrt(np.nansum(square)) if not np.isnan(square).all() else np.array(np.nan)


def moved_frac(table: DynamicsTable) -> FloatArray:
    """Share of each row's elements that moved, from the histogram of |update|; NaN without it."""
    if table.histograms is None:
        return np.full(len(table.rows), np.nan)
    counts = table.histograms[:, HISTOGRAMS.index(UPDATE)]
    total = counts.sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        share: FloatArray = 1.0 - counts[:, 0] / total
    return share


def _number(value: float | None) -> FloatArray:
    return np.array(np.nan if value is None else value, dtype=np.float64)


DERIVED: Mapping[str, Callable[[DynamicsTable], FloatArray]] = MappingProxyType(
    {
        "learning_rate": learning_rate,
        "initial_lr": lambda table: hyperparameter(table, "initial_lr"),
        "state_bits": state_bits,
        "moved_frac": moved_frac,
        "gradient_norm": gradient_norm,
        "loss_scale": lambda table: _number(table.loss_scale),
        "real_steps": lambda table: _number(table.real_steps),
        "skipped_steps": lambda table: _number(table.skipped_steps),
    }
)
"""Name to function of a table; the last four are one number for the whole table."""


def matrices(table: DynamicsTable) -> npt.NDArray[np.bool_]:
    """Rows that are weight matrices (two or more dimensions larger than 1): no biases, norms or scalars."""
    return np.array([sum(size > 1 for size in row.shape) >= 2 for row in table.rows], dtype=bool)
