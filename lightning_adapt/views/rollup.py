"""Roll-ups: one figure for many parameters, and which parameters stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, EFFECTIVE_LR_QUANTILES, FloatArray, quantiles
from lightning_adapt.dynamics.table import DynamicsTable

_ROOT_MEAN_SQUARE = (
    "grad_rms",
    "first_moment_rms",
    "second_moment_rms",
    "update_rms",
    "param_rms",
    "decay_rms",
    "rms_t",
)
_LARGEST = (
    "grad_absmax",
    "first_moment_absmax",
    "second_moment_absmax",
    "effective_lr_max",
    "update_absmax",
)


def summarise(table: DynamicsTable, rows: npt.NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Roll the parameters of a table up into one figure a statistic, every element weighing the same.

    ``rms = sqrt(sum(numel · rms²) / sum(numel))``, shares and means likewise; extremes stay extremes;
    quantiles come from the added histogram counts; the cosine from added dot products and norms.
    Parameters without a figure (NaN) are left out of that figure.

    Args:
        table: Of one optimizer.
        rows: Which parameters, shape ``(parameters,)``, all by default.

    Returns:
        A figure for each column of the table, NaN where no parameter has one.

    Example:
        >>> from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo
        >>> values = np.full((2, len(COLUMNS)), np.nan)
        >>> values[:, COLUMNS.index("numel")] = 1, 3
        >>> values[:, COLUMNS.index("eps_floor_frac")] = 1.0, 0.0
        >>> summarise(DynamicsTable((RowInfo("a"), RowInfo("b")), values, step=1))["eps_floor_frac"]
        0.25
    """
    return summaries(table, [rows])[0]


def summaries(
    table: DynamicsTable, selections: Sequence[npt.NDArray[np.bool_] | None]
) -> list[dict[str, float]]:
    """As `summarise`, for several selections of parameters at once."""
    at = {name: place for place, name in enumerate(table.columns)}
    terms, weights, squared = _weighted(table.values, at)
    dot, update, gradient = _products(table.values, at)
    largest, lowest = [at[name] for name in _LARGEST], at["effective_lr_min"]
    chosen = [slice(None) if rows is None else rows for rows in selections]
    found: list[dict[str, float]] = []
    for kept in chosen:
        values, total = table.values[kept], weights[kept].sum(axis=0)
        means: FloatArray = np.full(len(at), np.nan)
        np.divide(terms[kept].sum(axis=0), total, out=means, where=total > 0)
        means[squared] = np.sqrt(means[squared])
        one = dict(zip(table.columns, means.tolist(), strict=True))
        numel = values[:, at["numel"]]
        one["numel"] = float(numel[numel >= 0].sum())
        one |= zip(_LARGEST, np.fmax.reduce(values[:, largest], initial=np.nan).tolist(), strict=True)
        one["effective_lr_min"] = float(np.fmin.reduce(values[:, lowest], initial=np.nan))
        one["update_ratio"] = one["update_rms"] / one["param_rms"] if one["param_rms"] else np.nan
        norm = np.sqrt(update[kept].sum() * gradient[kept].sum())
        one["update_grad_cosine"] = float(dot[kept].sum() / norm) if norm > 0 else np.nan
        found.append(one)
    if table.histograms is not None:
        counted = table.histograms[:, 0]
        counts = [counted[kept].sum(axis=0, dtype=np.int64) for kept in chosen]
        ends = ([one[f"effective_lr_{end}"] for one in found] for end in ("min", "max"))
        rates = quantiles(np.array(counts), [*EFFECTIVE_LR_QUANTILES.values()], EFFECTIVE_LR, *ends)
        for one, each in zip(found, rates.T.tolist(), strict=True):
            one |= zip(EFFECTIVE_LR_QUANTILES, each, strict=True)
    return found


def _weighted(values: FloatArray, at: Mapping[str, int]) -> tuple[FloatArray, FloatArray, list[int]]:
    """Each figure times its weight, the weights, and the columns of which these are the squares.

    Both are 0 where a parameter has no figure, or it is of no element.
    """
    weights = values[:, [at["numel"]]] * np.ones(len(at))
    # These two are means over part of the elements: the finite ones, and those with v > 0.
    for name, absent in (("grad_rms", "grad_nonfinite_frac"), ("snr_mean", "second_moment_zero_frac")):
        weights[:, at[name]] *= 1 - values[:, at[absent]]
    squared = [at[name] for name in _ROOT_MEAN_SQUARE]
    terms = values.copy()
    terms[:, squared] **= 2
    known = ~np.isnan(terms) & (weights > 0)  # NaN > 0 is false
    # What has weight 0 is 0, so that inf · 0 cannot be.
    terms, weights = np.where(known, terms, 0.0), np.where(known, weights, 0.0)
    return terms * weights, weights, squared


def _products(values: FloatArray, at: Mapping[str, int]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Dot product of update and gradient, and their squared norms, 0 where a parameter lacks one of them."""
    numel = values[:, at["numel"]]
    update = numel * values[:, at["update_rms"]] ** 2
    gradient = numel * values[:, at["grad_rms"]] ** 2
    dot = values[:, at["update_grad_cosine"]] * np.sqrt(update * gradient)
    known = ~np.isnan(update) & ~np.isnan(gradient)
    dot = np.where(np.isnan(dot), 0.0, dot)
    return dot, np.where(known, update, 0.0), np.where(known, gradient, 0.0)


def worst(table: DynamicsTable, column: str, most: int) -> list[tuple[str, float]]:
    """The ``most`` parameters with the largest finite ``column``, largest first.

    Example:
        >>> from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo
        >>> values = np.array([[0.1] * len(COLUMNS), [0.7] * len(COLUMNS)])
        >>> worst(DynamicsTable((RowInfo("a"), RowInfo("b")), values, step=1), "update_ratio", 1)
        [('b', 0.7)]
    """
    figures = table[column]
    known = np.flatnonzero(np.isfinite(figures))
    order = known[np.argsort(-figures[known], kind="stable")[:most]]
    return [(table.rows[i].name, figure) for i, figure in zip(order, figures[order].tolist(), strict=True)]


def badness(table: DynamicsTable) -> FloatArray:
    """How much a parameter deserves to be looked at, for sorting: higher is worse.

    First whatever share of it is on the epsilon floor, non-finite or lost to rounding; among equals,
    the update ratio's distance from 1e-3 in decades.
    """
    shares = np.stack([table[c] for c in ("eps_floor_frac", "grad_nonfinite_frac", "update_lost_frac")])
    trouble = np.clip(np.nan_to_num(shares), 0, 1).max(axis=0, initial=0.0)
    ratio = table["update_ratio"]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log10(ratio / 1e-3))
    distance = np.where(np.isfinite(distance), np.minimum(distance, 99.0), 0.0)
    score: FloatArray = np.round(trouble, 3) * 100 + distance / 100
    return score


def worst_rows(table: DynamicsTable, most: int) -> Sequence[int]:
    """Indices of the ``most`` rows that deserve a look, worst first."""
    order: list[int] = np.argsort(-badness(table), kind="stable")[:most].tolist()
    return order


CAUSES = ("untouched", "underflow", "small")


def floor_cause(table: DynamicsTable, row: int) -> str:
    """Which causes put elements of a row on the epsilon floor, the largest first.

    Returns:
        For example ``"small"`` or ``"untouched, underflow"``; empty when no element is on the floor.
    """
    shares = {c: table.values[row, table.columns.index(f"eps_floor_{c}_frac")] for c in CAUSES}
    present = [cause for cause, share in shares.items() if share > 0]
    return ", ".join(sorted(present, key=lambda cause: -shares[cause]))
