"""The reference engine: the same figures in float64 numpy, whole tensors, one obvious line each.

The judge in tests and for doubts; it reads every scalar on the host and so waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep, Row
from lightning_adapt.dynamics.engines.packed import COUNTS, FIGURES, MAXIMA, SUMS, Packed
from lightning_adapt.dynamics.histograms import (
    EFFECTIVE_LR,
    HISTOGRAMS,
    SECOND_MOMENT,
    UPDATE,
    WIDTH,
    Bins,
    FloatArray,
)

_Figures = dict[str, float]


@torch.no_grad()
def measure(rows: Iterable[Row], *, histograms: bool = True) -> Packed:
    """Measure ``rows`` in float64 on the host; same figures as every other engine."""
    figures: list[list[float]] = []
    counts: list[FloatArray] = []
    with np.errstate(all="ignore"):
        for row in rows:
            found, counted = _measure_row(row)
            figures.append(
                [found.get(name, 0.0) for name in (*COUNTS, *SUMS)]
                + [found.get(name, -np.inf) for name in MAXIMA]
            )
            counts.append(counted)
    table = torch.tensor(figures, dtype=torch.float64).reshape(-1, FIGURES)
    if not histograms:
        return Packed.of(table, None)
    stacked = np.array(counts).reshape(-1, len(HISTOGRAMS), WIDTH)
    return Packed.of(table, torch.from_numpy(stacked.astype(np.int32)))


def predicted_update(row: Row) -> FloatArray:
    """What the canonical step says the optimizer added to the parameter, float64.

    Raises:
        ValueError: If the row has no canonical step.
    """
    if row.canonical is None:
        raise ValueError(f"`row` must have a canonical step, got none for {row.info.name!r}")
    with np.errstate(all="ignore"):
        rate, _, _ = _effective_lr(row.canonical, row)
        return _predict(row.canonical, row, rate)[1]


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().cpu().double().numpy()


def _gradient(row: Row) -> Any:
    step = row.canonical
    given = step.gradient if step is not None and step.gradient is not None else row.gradient
    return None if given is None else _array(given) * float(row.gradient_factor)


def _measure_row(row: Row) -> tuple[_Figures, FloatArray]:
    after, before, g, step = _array(row.parameter), _array(row.before), _gradient(row), row.canonical
    counts = np.zeros((len(HISTOGRAMS), WIDTH))
    found: _Figures = {"numel": after.size, **_squares("param", after)}
    if g is not None:
        found |= {"grad_numel": g.size, "grad_zero": np.sum(g == 0), "grad_absmax": _top(np.abs(g))}
        found |= _squares("grad", g)
    predicted = None
    if step is not None:
        rate, hat, denominator = _effective_lr(step, row)
        m = _array(step.first_moment)
        if m is not None:
            found |= _squares("first", m)
            found["first_moment_absmax"] = _top(np.abs(m))
        found["effective_lr_max"] = _top(rate, keep_inf=True)
        found["effective_lr_negated_min"] = _top(-rate, keep_inf=True)
        counts[0] = _histogram(rate, EFFECTIVE_LR)
        if hat is not None:
            counts[1] = _histogram(hat, SECOND_MOMENT)
            found |= _second(step, hat)
            found |= _floor(step, hat, denominator, g, m)
            found |= _ratios(step, hat, g, m)
        start, predicted = _predict(step, row, rate)
        factor = _number(step.decay) + (step.l2 * rate if step.l2 else 0.0)
        found |= _squares("decay", start * factor if _number(row.applied) else np.zeros_like(start))
    update = predicted if before is None else after - before
    if update is not None:
        counts[2] = _histogram(np.abs(update), UPDATE)
        found |= _squares("update", update)
        found["update_absmax"] = _top(np.abs(update))
        if g is not None:
            both = np.isfinite(update) & np.isfinite(g)
            found["update_dot_grad"] = np.sum(update[both] * g[both])
    if predicted is not None:
        found["lost_numel"] = after.size
        found["lost"] = np.sum(_unmoved(row, predicted) & (predicted != 0))
    return found, counts


def _number(x: float | Tensor) -> float:
    return float(x)


def _squares(name: str, x: FloatArray) -> _Figures:
    finite = x[np.isfinite(x)]
    return {f"{name}_finite": finite.size, f"{name}_square": np.sum(finite**2)}


def _top(x: FloatArray, *, keep_inf: bool = False) -> float:
    kept = x[~np.isnan(x)] if keep_inf else x[np.isfinite(x)]
    return float(kept.max()) if kept.size else -np.inf


def _histogram(x: FloatArray, bins: Bins) -> FloatArray:
    index = np.searchsorted(bins.edges, x[~np.isnan(x)].ravel(), side="right")
    return np.bincount(index, minlength=WIDTH).astype(np.float64)


def _effective_lr(step: CanonicalStep, row: Row) -> tuple[FloatArray, Any, Any]:
    """Effective learning rate, v_hat and the denominator of each element."""
    like = np.ones(tuple(row.parameter.shape))
    stored = _array(step.second_moment)
    if stored is None:
        given = _array(step.effective_lr)
        return (like * _number(step.lr) if given is None else given), None, None
    eps = 0.0 if step.eps is None else _number(step.eps)
    if step.second_moment_is_root:
        hat = np.where(np.isnan(stored), np.nan, np.maximum(stored - eps, 0.0)) ** 2
    else:
        hat = stored * _number(step.second_moment_correction)
        if step.centering is not None:
            hat = np.maximum(hat - _array(step.centering) ** 2, 0.0)
    if step.eps_placement == "inside":
        denominator = np.sqrt(hat + eps)
    elif step.eps_placement == "clamp":
        denominator = np.maximum(np.sqrt(hat), eps)
    else:
        denominator = np.sqrt(hat) + eps
    if step.effective_lr is not None:
        return _array(step.effective_lr), hat, denominator
    rate = _number(step.lr) / denominator if _number(step.adaptive) else like * _number(step.lr)
    return rate, hat, denominator


def _second(step: CanonicalStep, hat: FloatArray) -> _Figures:
    stored = _array(step.second_moment)
    assert step.second_moment is not None
    finite = np.isfinite(stored)
    return {
        "second_numel": stored.size,
        "second_finite": np.sum(finite),
        "second_hat": np.sum(hat[finite]),
        "second_zero": np.sum(_is_zero(step, stored)),
        "second_subnormal": np.sum((stored > 0) & (stored < torch.finfo(step.second_moment.dtype).tiny)),
        "second_moment_absmax": _top(np.abs(stored)),
    }


def _is_zero(step: CanonicalStep, stored: FloatArray) -> Any:
    """Where nothing has been accumulated."""
    if step.second_moment_is_root:
        return stored <= (0.0 if step.eps is None else _number(step.eps))
    return stored == 0


def _floor(step: CanonicalStep, hat: FloatArray, denominator: FloatArray, g: Any, m: Any) -> _Figures:
    if step.eps is None or not _number(step.adaptive):
        return {}
    eps = _number(step.eps)
    hit = hat <= eps if step.eps_placement == "inside" else np.sqrt(hat) <= eps
    zero = _is_zero(step, _array(step.second_moment))
    nothing = np.ones_like(zero)
    for x in (g, m):
        nothing = nothing & (True if x is None else x == 0)
    share = (np.sqrt(eps) if step.eps_placement == "inside" else eps) / denominator
    known = ~np.isnan(share)
    return {
        "floor_numel": hat.size,
        "floor_untouched": np.sum(hit & zero & nothing),
        "floor_underflow": np.sum(hit & zero & ~nothing),
        "floor_small": np.sum(hit & ~zero),
        "eps_share_numel": np.sum(known),
        "eps_share": np.sum(share[known]),
    }


def _ratios(step: CanonicalStep, hat: FloatArray, g: Any, m: Any) -> _Figures:
    found: _Figures = {}
    eps = 0.0 if step.eps is None else _number(step.eps)
    if g is not None:
        floor = eps if step.eps_placement == "inside" else eps**2
        ratio = np.where(g == 0, 0.0, g**2 / np.maximum(hat, floor))
        finite = np.isfinite(ratio)
        found |= {"rms_t_numel": np.sum(finite), "rms_t": np.sum(ratio[finite])}
    if m is not None and step.first_moment_correction is not None:
        ratio = np.abs(m) * _number(step.first_moment_correction) / np.sqrt(hat)
        usable = (hat > 0) & np.isfinite(ratio)
        found |= {"snr_numel": np.sum(usable), "snr": np.sum(ratio[usable])}
    return found


def _predict(step: CanonicalStep, row: Row, rate: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The parameter before the step and the update that the canonical step says."""
    after, g = _array(row.parameter), _gradient(row)
    pull = 0.0
    if step.numerator is not None:
        numerator = _array(step.numerator)
    else:
        pull = _number(step.gradient_factor) * step.l2
        numerator = np.zeros_like(after)
        if step.first_moment is not None:
            numerator = numerator + _number(step.first_moment_factor) * _array(step.first_moment)
        if g is not None:
            numerator = numerator + (-g if step.maximize else g) * _number(step.gradient_factor)
    gain = np.full_like(rate, _number(step.lr)) if step.preconditioned else rate
    decay = _number(step.decay)
    if row.before is not None:
        before = _array(row.before)
    elif _number(row.applied):
        before = (after + gain * numerator) / (1 - decay - gain * pull)
    else:
        before = after
    if not _number(row.applied):
        return before, np.zeros_like(after)
    return before, -gain * (numerator + pull * before) - decay * before


def _unmoved(row: Row, predicted: FloatArray) -> Any:
    if row.before is not None:
        return _array(row.parameter) == _array(row.before)
    moved = torch.from_numpy(np.asarray(_array(row.parameter) + predicted)).to(row.parameter.dtype)
    return _array(moved) == _array(row.parameter)
