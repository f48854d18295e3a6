"""Roll-ups: one figure for many parameters, and which parameters stand out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, FloatArray, quantile
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
_QUANTILES = {"effective_lr_p05": 0.05, "effective_lr_p50": 0.5, "effective_lr_p95": 0.95}


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
    kept = np.ones(len(table.rows), dtype=bool) if rows is None else rows
    values = {column: table[column][kept] for column in table.columns}
    numel = values["numel"]
    found = {name: _mean(column, numel) for name, column in values.items()}
    found["numel"] = float(np.nansum(numel))
    found |= {name: float(np.sqrt(_mean(values[name] ** 2, numel))) for name in _ROOT_MEAN_SQUARE}
    # These two are means over part of the elements: the finite ones, and those with v > 0.
    finite = numel * (1 - values["grad_nonfinite_frac"])
    found["grad_rms"] = float(np.sqrt(_mean(values["grad_rms"] ** 2, finite)))
    found["snr_mean"] = _mean(values["snr_mean"], numel * (1 - values["second_moment_zero_frac"]))
    found |= {name: _extreme(values[name]) for name in _LARGEST}
    found["effective_lr_min"] = -_extreme(-values["effective_lr_min"])
    found |= _quantiles(table, kept, found["effective_lr_min"], found["effective_lr_max"])
    found["update_ratio"] = found["update_rms"] / found["param_rms"] if found["param_rms"] else np.nan
    found["update_grad_cosine"] = _cosine(values)
    return found


def _mean(column: FloatArray, numel: FloatArray) -> float:
    known = ~np.isnan(column) & (numel > 0)  # NaN > 0 is false
    return float(np.average(column[known], weights=numel[known])) if known.any() else float("nan")


def _extreme(column: FloatArray) -> float:
    known = column[~np.isnan(column)]
    return float(known.max()) if known.size else float("nan")


def _quantiles(
    table: DynamicsTable, kept: npt.NDArray[np.bool_], lowest: float, highest: float
) -> dict[str, float]:
    if table.histograms is None:
        return {}
    counts = table.histograms[kept, 0].sum(axis=0, dtype=np.int64)[None]
    return {
        name: float(quantile(counts, q, EFFECTIVE_LR, [lowest], [highest])[0])
        for name, q in _QUANTILES.items()
    }


def _cosine(values: dict[str, FloatArray]) -> float:
    update = values["numel"] * values["update_rms"] ** 2
    gradient = values["numel"] * values["grad_rms"] ** 2
    dot = values["update_grad_cosine"] * np.sqrt(update * gradient)
    known = ~np.isnan(update) & ~np.isnan(gradient)
    norm = np.sqrt(update[known].sum() * gradient[known].sum())
    return float(np.nansum(dot) / norm) if norm > 0 else float("nan")


def worst(table: DynamicsTable, column: str, most: int) -> list[tuple[str, float]]:
    """The ``most`` parameters with the largest finite ``column``, largest first.

    Example:
        >>> from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo
        >>> values = np.array([[0.1] * len(COLUMNS), [0.7] * len(COLUMNS)])
        >>> worst(DynamicsTable((RowInfo("a"), RowInfo("b")), values, step=1), "update_ratio", 1)
        [('b', 0.7)]
    """
    figures = table[column]
    order = np.argsort(-np.where(np.isfinite(figures), figures, -np.inf), kind="stable")[:most]
    return [(table.names[i], float(figures[i])) for i in order if np.isfinite(figures[i])]


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
