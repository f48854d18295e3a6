"""Small measures that several rules share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import SECOND_MOMENT, FloatArray
from lightning_adapt.health.rows import Flags
from lightning_adapt.health.window import Window

_ROOTS = np.sqrt(
    np.append(np.sqrt(SECOND_MOMENT.edges[:-1] * SECOND_MOMENT.edges[1:]), SECOND_MOMENT.edges[-1])
)
"""sqrt(v_hat) in the middle of each bin but the lowest."""


def second_beta(window: Window) -> FloatArray:
    """The decay factor of the second moment: beta2 of Adam, alpha of RMSprop, rho of Adadelta."""
    found = window.hyper("beta2")
    for name in ("alpha", "rho"):
        found = np.where(np.isnan(found), window.hyper(name), found)
    return found


def epsilon(window: Window) -> FloatArray:
    """What sqrt(v_hat) is compared with, of each row: eps, or its root where it is inside (Adadelta)."""
    eps = window.hyper("eps")
    inside = ~np.isnan(window.hyper("rho"))
    # Adafactor's first eps is by default the one of the dtype.
    factored = np.where(np.isnan(window.hyper("eps1")), window.rows.eps, window.hyper("eps1"))
    eps = np.where(np.isnan(window.hyper("beta2_decay")), eps, factored)
    return np.where(inside, np.sqrt(eps), eps)


def non_finite(window: Window) -> tuple[Flags, Flags]:
    """Rows with inf or NaN in the gradient that a step used, and rows whose moments or weights have it."""
    table, numel = window.table, window["numel"] > 0
    bad = window["grad_nonfinite_frac"] > 0
    # Where every element is NaN or inf there is nothing to show, though the elements were counted.
    poisoned = numel & np.isnan(window["second_moment_rms"]) & ~np.isnan(window["second_moment_zero_frac"])
    if table.update_source in ("measured", "mixed"):  # else the weights may not be known
        poisoned |= numel & np.isnan(window["param_rms"])
    if table.loss_scale is not None:
        bad &= False  # the scaler skips such steps
    return bad, poisoned


def geometric_mean(figures: FloatArray) -> FloatArray:
    """Over the first axis, of what is above 0; NaN where nothing is."""
    logs = np.log(np.where(figures > 0, figures, np.nan))
    known = ~np.isnan(logs)
    count = known.sum(axis=0)
    mean = np.where(known, logs, 0.0).sum(axis=0) / np.where(count, count, 1)
    return np.where(count > 0, np.exp(mean), np.nan)


def median(figures: FloatArray) -> FloatArray:
    """Over the first axis, NaN left out; of an even number the lower one; NaN where nothing is known."""
    ordered = np.sort(figures, axis=0)  # NaN last
    count = (~np.isnan(figures)).sum(axis=0)
    at = np.maximum(count - 1, 0) // 2
    found: FloatArray = np.take_along_axis(ordered, at[None], axis=0)[0]
    return found


def middle(figures: FloatArray) -> float:
    """The median of one row of figures, NaN left out."""
    known = figures[~np.isnan(figures)]
    return float(np.median(known)) if len(known) else float("nan")


def root_quantile(counts: npt.NDArray[np.integer] | FloatArray, q: float) -> FloatArray:
    """The ``q`` quantile of sqrt(v_hat) of each row, from its histogram; elements with v = 0 are left out.

    Args:
        counts: Shape ``(rows, bins)``, of `SECOND_MOMENT`.
        q: In [0, 1].

    Returns:
        Middle of the bin, exact to a factor of 1.2; NaN where all are 0.
    """
    counted = np.asarray(counts, dtype=np.float64)[:, 1:]
    reached, total = np.cumsum(counted, axis=1), counted.sum(axis=1)
    index = (reached < q * total[:, None]).sum(axis=1)
    return np.where(total > 0, _ROOTS[np.minimum(index, len(_ROOTS) - 1)], np.nan)


def power_of_ten(values: FloatArray) -> FloatArray:
    """The power of ten at or below each value."""
    return 10.0 ** np.floor(np.log10(values))


def filled(size: int, at: npt.NDArray[np.bool_], values: FloatArray) -> FloatArray:
    """``values`` in the places ``at``, NaN elsewhere."""
    found = np.full(size, np.nan)
    found[at] = values
    return found
