"""Epsilon sets the step size: how many elements, and why."""

from __future__ import annotations

import numpy as np

from lightning_adapt.dynamics.histograms import SECOND_MOMENT, FloatArray
from lightning_adapt.health.rows import Flags
from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.rules._measures import epsilon, filled, median, power_of_ten, root_quantile
from lightning_adapt.health.window import Window

_NOISE = 1e-3
"""A gradient this far below the others of its model is rounding noise: bfloat16 keeps two to three digits."""


def _epsilon_floor(window: Window, limits: Limits) -> Verdict:
    small, untouched = window["eps_floor_small_frac"], window["eps_floor_untouched_frac"]
    value = np.maximum(small, untouched)
    hit = value >= limits["threshold"]
    size, typical, suggested = _sizes(window, hit)
    cause = np.where(np.isnan(window.hyper("rho")), "small", "adadelta")
    cause = np.where(size < _NOISE * typical, "no-signal", cause)
    cause = np.where(untouched > small, "untouched", cause)
    details = {"eps": epsilon(window), "size": size, "typical": typical, "suggested": suggested}
    return Verdict(hit, value, cause, details)


def _sizes(window: Window, rows: Flags) -> tuple[FloatArray, float, FloatArray]:
    """sqrt(v_hat) of what is on the floor, of the model's typical element, and an eps, for ``rows``."""
    counts, rms = window.counts("second_moment"), window["second_moment_rms"]
    if counts is None:
        return rms, float(median(rms)), power_of_ten(rms / 100)
    if not rows.any():
        return rms, np.nan, rms
    lower_edges = np.concatenate([[0.0], SECOND_MOMENT.edges])
    on_floor = lower_edges < epsilon(window)[rows, None] ** 2
    size = root_quantile(np.where(on_floor, counts[rows], 0), 0.5)
    typical = root_quantile(counts.sum(axis=0, dtype=np.int64)[None], 0.5)[0]
    # A hundredth of what nearly all of its elements have.
    suggested = power_of_ten(root_quantile(counts[rows], 0.1) / 100)
    return filled(len(rms), rows, size), float(typical), filled(len(rms), rows, suggested)


def _epsilon_lost(window: Window, limits: Limits) -> Verdict:
    infinite, eps = np.isposinf(window["effective_lr_max"]), epsilon(window)
    # Half of the smallest number rounds to 0, as its even neighbour. Fused kernels add eps in float32.
    latent = (eps > 0) & (eps <= window.rows.state_smallest / 2) & ~(window.hyper("fused") > 0)
    latent &= np.isnan(window.hyper("ns_steps"))  # Muon's eps is beside the norm of a matrix
    suggested = np.sqrt(window.rows.state_smallest)
    details = {"dtype": window.rows.state_dtypes, "suggested": suggested}
    return Verdict(infinite | latent, eps, np.where(infinite, "infinite", "latent"), details)


RULES = [
    Rule(
        name="epsilon-floor",
        meaning=(
            "sqrt(v_hat) is at or below eps: epsilon, not the gradient, sets the step size of these "
            "elements, and for them the optimizer is gradient descent with rate lr / eps."
        ),
        measure=_epsilon_floor,
        thresholds={"threshold": 0.1},
        patience=3,
        severity={"small": "warning", "no-signal": "info", "untouched": "info", "adadelta": "info"},
        snapshot=True,
        sentence={
            "small": (
                "{parameter}: eps {eps:g} sets the step size of {value:.0%} of the elements: their gradients"
                " are about {size:.0e}, like those of the rest of the model ({typical:.0e})"
            ),
            "no-signal": (
                "{parameter}: {value:.0%} of the elements get no gradient but rounding noise ({size:.0e}, "
                "where the model has {typical:.0e}), and epsilon keeps them still"
            ),
            "untouched": "{parameter}: {value:.0%} of the elements have never had a gradient",
            "adadelta": (
                "{parameter}: eps sets the step size of {value:.0%} of the elements: their gradients, about "
                "{size:.0e}, are below its root {eps:g}"
            ),
        },
        remedy={
            "small": (
                "set eps to {suggested:.0e}, a hundredth of the sqrt(v_hat) that nine of ten elements exceed"
            ),
            "no-signal": (
                "nothing to do: this parameter cannot get a gradient where softmax or a normalization takes "
                "it out again (key biases of attention, biases before a norm); a model without it is the "
                "same"
            ),
            "untouched": (
                "nothing to do if the data never use these rows (rare words, nodes far from labels); else "
                "see that the loss reaches them"
            ),
            "adadelta": "nothing to do if it learns: eps also is what Adadelta's first steps are made of",
        },
        source=(
            "Wortsman et al. (2023), arXiv:2309.14322, and Everett et al. (2024), arXiv:2407.05872: updates "
            "shrink once gradients reach eps; a tenth of the elements: own choice, healthy runs stay below"
        ),
    ),
    Rule(
        name="epsilon-lost",
        meaning="eps rounds to 0 in the dtype of the state: where v is 0, the step is infinite.",
        measure=_epsilon_lost,
        severity="critical",
        snapshot=True,
        sentence={
            "infinite": (
                "{parameter}: an effective learning rate is infinite: v is 0, and eps {value:g} is 0 in "
                "{dtype}"
            ),
            "latent": "{parameter}: eps {value:g} is 0 in {dtype}, in which the step adds it to sqrt(v)",
        },
        remedy="set eps to {suggested:.0e}, or keep the state in float32 (precision *-mixed)",
        source=(
            "half of the smallest number of a dtype, and less, rounds to 0 (IEEE 754); in fp16 that is 3e-8"
        ),
    ),
]
