"""The columns of the dynamics table: name, unit, meaning and how two readings of it merge.

This module is numpy-free and torch-free: it is also read by viewers that must start quickly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Merge = Literal["sum", "max", "min", "histogram"]


@dataclass(frozen=True)
class Statistic:
    """One column of the table.

    Args:
        name: Column name, also the log key.
        unit: What one is counted in; ``share`` lies in [0, 1].
        merge: How partial readings (shards, ranks) of it come together: its sums or counts are added
            (``sum``), the larger or smaller one stays, or it is read from added histogram counts.
        meaning: One sentence.
        advice: What to look for, one sentence.
    """

    name: str
    unit: str
    merge: Merge
    meaning: str
    advice: str


_GRADIENT, _STEP, _SHARE, _ONE = "gradient", "parameter", "share", "1"

STATISTICS: tuple[Statistic, ...] = (
    Statistic("numel", "elements", "sum", "Number of elements (a complex number counts as two).", ""),
    Statistic(
        "grad_rms",
        _GRADIENT,
        "sum",
        "Root mean square of the finite gradient elements, unscaled and clipped as the step used them.",
        "Falling by decades along depth: vanishing; rising: exploding.",
    ),
    Statistic("grad_absmax", _GRADIENT, "max", "Largest finite |gradient|.", "Far above grad_rms: outliers."),
    Statistic(
        "grad_zero_frac",
        _SHARE,
        "sum",
        "Share of gradient elements that are exactly 0.",
        "Near 1: rows never used, or half-precision gradients that underflowed.",
    ),
    Statistic(
        "grad_nonfinite_frac",
        _SHARE,
        "sum",
        "Share of gradient elements that are inf or NaN.",
        "Above 0 without a gradient scaler: the moments of this parameter are poisoned.",
    ),
    Statistic(
        "first_moment_rms",
        _GRADIENT,
        "sum",
        "Root mean square of the stored first moment (momentum buffer), not bias-corrected.",
        "Compare with grad_rms: equal when gradients agree over time, smaller when they cancel.",
    ),
    Statistic(
        "first_moment_absmax", _GRADIENT, "max", "Largest finite |first moment|.", "Far above rms: outliers."
    ),
    Statistic(
        "second_moment_rms",
        _GRADIENT,
        "sum",
        "sqrt(mean(v_hat)): typical size of the bias-corrected denominator before eps.",
        "Compare with eps: of the same order means eps sets step sizes.",
    ),
    Statistic(
        "second_moment_absmax",
        "gradient²",
        "max",
        "Largest finite stored second moment.",
        "Near 65504 in fp16: about to overflow.",
    ),
    Statistic(
        "second_moment_zero_frac",
        _SHARE,
        "sum",
        "Share of stored second-moment elements that are exactly 0.",
        "See eps_floor_untouched_frac and eps_floor_underflow_frac for the cause.",
    ),
    Statistic(
        "second_moment_subnormal_frac",
        _SHARE,
        "sum",
        "Share of stored second-moment elements below the smallest normal number of their dtype.",
        "Above 0: precision is running out; keep the state in a wider dtype.",
    ),
    Statistic(
        "effective_lr_min", "parameter/gradient", "min", "Smallest effective learning rate.", "These crawl."
    ),
    Statistic(
        "effective_lr_p05", "parameter/gradient", "histogram", "5 % of elements have a smaller one.", ""
    ),
    Statistic(
        "effective_lr_p50",
        "parameter/gradient",
        "histogram",
        "Median of lr / denominator, the factor on the bias-corrected numerator.",
        "Falls for ever under Adagrad; settles under RMSProp and Adam.",
    ),
    Statistic(
        "effective_lr_p95", "parameter/gradient", "histogram", "5 % of elements have a larger one.", ""
    ),
    Statistic(
        "effective_lr_max",
        "parameter/gradient",
        "max",
        "Largest effective learning rate.",
        "lr / eps: an element whose second moment is 0. inf: eps rounded to 0.",
    ),
    Statistic(
        "eps_floor_frac",
        _SHARE,
        "sum",
        "Share of elements with sqrt(v_hat) <= eps: epsilon sets their step size.",
        "Above 0.01 outside unused rows: look at the three causes.",
    ),
    Statistic(
        "eps_floor_untouched_frac",
        _SHARE,
        "sum",
        "On the floor because nothing ever came: v = 0 and gradient and first moment are 0.",
        "Unused embedding rows, dead units, parameters cut off from the loss.",
    ),
    Statistic(
        "eps_floor_underflow_frac",
        _SHARE,
        "sum",
        "On the floor because v = 0 although the gradient or first moment is not: g² underflowed.",
        "Keep the state in fp32 or raise eps.",
    ),
    Statistic(
        "eps_floor_small_frac",
        _SHARE,
        "sum",
        "On the floor because 0 < sqrt(v_hat) <= eps: the gradient is that small.",
        "Attention key biases (softmax does not see them), or an eps too large for this model.",
    ),
    Statistic(
        "eps_share_mean",
        _SHARE,
        "sum",
        "Mean of eps / denominator: how much of the denominator is epsilon.",
        "Towards 1: the optimizer has become SGD with learning rate lr / eps.",
    ),
    Statistic(
        "update_rms",
        _STEP,
        "sum",
        "Root mean square of what the optimizer added to the parameter, weight decay included.",
        "About 0.2 to 1 times lr for Adam.",
    ),
    Statistic("update_absmax", _STEP, "max", "Largest finite |update|.", "Many times lr: a jump."),
    Statistic(
        "update_lost_frac",
        _SHARE,
        "sum",
        "Share of elements that should have moved but did not: rounded away in the parameter's dtype.",
        "Common in bf16 parameters; use fp32 master weights or stochastic rounding.",
    ),
    Statistic(
        "update_grad_cosine",
        _ONE,
        "sum",
        "Cosine between update and gradient: -1 is straight downhill.",
        "Near 0: the step has little to do with this batch's gradient.",
    ),
    Statistic("param_rms", _STEP, "sum", "Root mean square of the parameter after the step.", ""),
    Statistic(
        "update_ratio",
        _ONE,
        "sum",
        "update_rms / param_rms.",
        "About 1e-3 is healthy for weight matrices; 1e-5 crawls, 1e-2 is violent.",
    ),
    Statistic(
        "decay_rms",
        _STEP,
        "sum",
        "Root mean square of the weight-decay part of the update: lr·wd·θ decoupled, "
        "effective_lr·wd·θ when decay is added to the gradient (L2).",
        "Close to update_rms: decay dominates.",
    ),
    Statistic(
        "rms_t",
        _ONE,
        "sum",
        "sqrt(mean(g² / max(v_hat, eps²))), the loss-spike warning of Wortsman et al. (2023).",
        "About 1 is normal; 2.3 and above: the second moment is out of date.",
    ),
    Statistic(
        "snr_mean",
        _ONE,
        "sum",
        "Mean of |m_hat| / sqrt(v_hat) where v_hat > 0: signal to noise of the gradient.",
        "Near 1: gradients agree; near 0: mostly noise.",
    ),
)

COLUMNS: tuple[str, ...] = tuple(statistic.name for statistic in STATISTICS)
"""Column names in table order."""

BY_NAME: dict[str, Statistic] = {statistic.name: statistic for statistic in STATISTICS}
