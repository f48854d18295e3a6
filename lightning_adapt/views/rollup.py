"""Roll-ups: one figure for many parameters, and which parameters stand out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

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
    at = _places(table.columns)
    added, ends = _added(table.values, at), table.values[:, at.ends] * at.signs
    sums = np.array([added.sum(axis=0) if rows is None else added[rows].sum(axis=0) for rows in selections])
    tops = [np.fmax.reduce(ends if rows is None else ends[rows], initial=np.nan) for rows in selections]
    terms, weights, others = sums[:, : at.size], sums[:, at.size : -3], sums[:, -3:]
    found: FloatArray = np.empty(terms.shape)
    found.fill(np.nan)
    np.divide(terms, weights, out=found, where=weights > 0)
    found[:, at.squared] = np.sqrt(found[:, at.squared])
    found[:, at.ends] = np.array(tops) * at.signs
    found[:, at.numel] = weights[:, at.numel]
    norms, ratio, cosine = np.sqrt(others[:, 1] * others[:, 2]), found[:, at.ratio], found[:, at.cosine]
    ratio[:] = cosine[:] = np.nan
    np.divide(found[:, at.update], found[:, at.parameter], out=ratio, where=found[:, at.parameter] > 0)
    np.divide(others[:, 0], norms, out=cosine, where=norms > 0)
    if table.histograms is not None:
        counted = table.histograms[:, 0]
        counts = [
            (counted if rows is None else counted[rows]).sum(axis=0, dtype=np.int64) for rows in selections
        ]
        qs, lowest, highest = [*EFFECTIVE_LR_QUANTILES.values()], found[:, at.lowest], found[:, at.highest]
        found[:, at.quantiles] = quantiles(np.array(counts), qs, EFFECTIVE_LR, lowest, highest).T
    return [dict(zip(table.columns, figures, strict=True)) for figures in found.tolist()]


class _Places:
    """Where columns are.

    Args:
        columns: Of a table.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        at = {name: place for place, name in enumerate(columns)}
        self.size, self.numel = len(at), at["numel"]
        self.squared = [at[name] for name in _ROOT_MEAN_SQUARE]
        self.ends = [*(at[name] for name in _LARGEST), at["effective_lr_min"]]
        self.signs = np.array([1.0] * len(_LARGEST) + [-1.0])  # makes the smallest the largest
        self.lowest, self.highest = at["effective_lr_min"], at["effective_lr_max"]
        self.quantiles = [at[name] for name in EFFECTIVE_LR_QUANTILES]
        self.update, self.gradient, self.parameter = at["update_rms"], at["grad_rms"], at["param_rms"]
        self.ratio, self.cosine = at["update_ratio"], at["update_grad_cosine"]
        # These two are means over part of the elements: the finite ones, and those with v > 0.
        self.partly = [at["grad_rms"], at["snr_mean"]]
        self.absent = [at["grad_nonfinite_frac"], at["second_moment_zero_frac"]]


_places = lru_cache(maxsize=8)(_Places)


def _added(values: FloatArray, at: _Places) -> FloatArray:
    """What is added up, parameter by parameter.

    Returns:
        Each figure times its weight (a root mean square squared), the weights, the dot product of update and
        gradient, and their squared norms, side by side. All are 0 where a parameter has no figure, or it is
        of no element; the last three where it lacks one of both.
    """
    added = np.empty((len(values), 2 * at.size + 3))
    terms, weights, others = added[:, : at.size], added[:, at.size : -3], added[:, -3:]
    terms[:], weights[:] = values, values[:, at.numel, None]
    weights[:, at.partly] *= 1 - values[:, at.absent]
    terms[:, at.squared] **= 2
    unknown = np.isnan(terms) | ~(weights > 0)  # NaN > 0 is false
    # What has weight 0 is 0, so that inf · 0 cannot be.
    terms[unknown] = weights[unknown] = 0.0
    terms *= weights
    others[:, 1:] = terms[:, [at.update, at.gradient]]
    others[unknown[:, at.update] | unknown[:, at.gradient], 1:] = 0.0
    others[:, 0] = values[:, at.cosine] * np.sqrt(others[:, 1] * others[:, 2])
    others[np.isnan(others[:, 0]), 0] = 0.0
    return added


def worst(table: DynamicsTable, columns: Sequence[str], most: int) -> FloatArray:
    """The ``most`` largest finite figures of each of ``columns``, largest first.

    Returns:
        Shape ``(most, len(columns))``; NaN where there are no more.

    Example:
        >>> from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo
        >>> values = np.array([[0.1] * len(COLUMNS), [0.7] * len(COLUMNS)])
        >>> worst(DynamicsTable((RowInfo("a"), RowInfo("b")), values, step=1), ["update_ratio"], 3)
        array([[0.7],
               [0.1],
               [nan]])
    """
    figures = table.values[:, [table.columns.index(column) for column in columns]]
    figures[~np.isfinite(figures)] = np.nan
    largest = -np.sort(-figures, axis=0)[:most]  # NaN comes last
    found: FloatArray = np.full((most, len(columns)), np.nan)
    found[: len(largest)] = largest
    return found


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
