"""What the browser is told about statistics and histograms: units, meanings, and how to draw them first."""

from __future__ import annotations

from typing import Any

from lightning_adapt.dynamics.histograms import HISTOGRAMS
from lightning_adapt.dynamics.statistics import STATISTICS, Statistic

_SIGNED = ("update_grad_cosine",)
_LINEAR = ("snr_mean",)
#: Where a larger figure is no trouble by itself: rows that stand out from the others come first.
_OUTLIER = (
    "numel",
    "param_rms",
    "first_moment_rms",
    "second_moment_rms",
    "effective_lr_min",
    "effective_lr_p05",
    "effective_lr_p50",
    "effective_lr_p95",
    "grad_rms",
    "update_rms",
    "decay_rms",
)
_LOW = ("snr_mean",)
_TARGET = {"update_ratio": 1e-3}


def catalogue() -> dict[str, Any]:
    """Statistics and histograms, as JSON can say them."""
    return {
        "statistics": [_statistic(statistic) for statistic in STATISTICS],
        "histograms": [_HISTOGRAMS[bins.name] | {"name": bins.name} for bins in HISTOGRAMS],
        "charts": _CHARTS,
        "first": "effective_lr_p50",
    }


def _statistic(statistic: Statistic) -> dict[str, Any]:
    share = statistic.unit == "share"
    name = statistic.name
    return {
        "name": name,
        "unit": statistic.unit,
        "meaning": statistic.meaning,
        "advice": statistic.advice,
        "scale": "linear" if share or name in _SIGNED + _LINEAR else "log",
        "range": [0, 1] if share else [-1, 1] if name in _SIGNED else None,
        "worse": "low" if name in _LOW else "outlier" if name in _OUTLIER else "high",
        "target": _TARGET.get(name),
    }


_HISTOGRAMS = {
    "effective_lr": {
        "title": "Effective learning rate of the elements",
        "unit": "parameter/gradient",
        "meaning": "How the elements' own learning rates are spread, step by step.",
        "advice": "Two separate bands: part of the elements live by another rule, often the epsilon floor.",
    },
    "second_moment": {
        "title": "Second moment against epsilon",
        "unit": "gradient",
        "meaning": "sqrt(v_hat) of the elements, with eps as a line: at and below it epsilon sets the step.",
        "advice": "Elements under the line are on the floor: look at the causes below.",
    },
    "update": {
        "title": "Size of the elements' updates",
        "unit": "parameter",
        "meaning": "|update| of the elements, step by step.",
        "advice": "A band far above lr: jumps.",
    },
}

_CHARTS = {
    "fan": {
        "title": "Effective learning rate",
        "unit": "parameter/gradient",
        "meaning": "The middle 90 % of the elements lie in the dark band, all of them in the light one.",
        "advice": "A wide fan: elements of one tensor move at very different speeds.",
    },
    "floor": {
        "title": "On the epsilon floor, by cause",
        "unit": "share",
        "meaning": "Share of elements with sqrt(v_hat) <= eps, split by why.",
        "advice": "Untouched: unused rows. Underflow: state needs a wider dtype. Small: gradients below eps.",
    },
}
