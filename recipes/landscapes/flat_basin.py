"""Crossing a long flat region: Adagrad needs (D/2η)² steps, RMSProp D/η."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.recipes.landscapes._checks import at_least, decay, positive
from lightning_adapt.recipes.landscapes._lab import Lab, column
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study
from lightning_adapt.recipes.landscapes._travel import steps_to
from lightning_adapt.recipes.landscapes.rmsprop_memory import Jump

NAMES = {"adagrad": "Adagrad", "rmsprop": "RMSProp", "adam": "Adam", "sgd": "gradient descent"}
_LEADING = {
    "adagrad": "the sum of 1/√t is 2√n - 1.46, and textbooks leave the 1.46 out",
    "rmsprop": "v starts at 0 and torch does not correct it, so that the first steps are longer than lr",
    "adam": "Adam is exact here, as long as ε is small beside the slope",
}


class FlatBasin(Study):
    """On a slope s that never changes, step t is as long as the normalised gradient says, whatever s is.

    Adagrad's step is ``lr / sqrt(t)``: n steps go about ``2·lr·sqrt(n)``, so a way D takes ``(D / 2lr)²`` of
    them. RMSProp's is ``lr / sqrt(1 - rho**t)``, which settles at lr, and Adam's is lr from the start: both
    take about ``D / lr``. Gradient descent goes ``lr·|s|`` a step: it feels how flat the basin is.

    Source: Duchi, Hazan & Singer, Adaptive Subgradient Methods (2011); Tieleman & Hinton, lecture 6.5 (2012).
    Look at: ``dynamics/param_rms``, the way from the start: a root for Adagrad, a line for the others.

    Args:
        distance: D, across the basin.
        lr: Learning rate.
        slope: Of the middle parameter; the others stand on a hundredth and a hundred times it.
        rho: Decay of RMSProp.
        eps: The slope stops being without influence where this is no longer small beside it.
    """

    name = "flat-basin"
    claim = "Across a flat basin Adagrad needs (D/2η)² steps and RMSProp D/η, whatever the slope"

    def __init__(
        self,
        distance: float = 5.0,
        lr: float = 0.05,
        slope: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-16,
    ) -> None:
        positive("there would be nothing to cross", distance=distance, lr=lr, slope=slope)
        decay("rho", rho)
        at_least("eps", eps, 0, "it is added to a root")
        self.distance, self.lr, self.rho, self.eps = distance, lr, rho, eps
        self.slopes = [slope * 1e-2, slope, slope * 1e2]

    def run(self, lab: Lab) -> Outcome:
        """Walk with four optimizers over three slopes each."""
        ratio = self.distance / self.lr
        leading = {"adagrad": (ratio / 2) ** 2, "rmsprop": ratio, "adam": ratio}
        findings: list[Finding] = []
        curves: dict[str, tuple[list[float], list[float]]] = {}
        for optimizer, theory in leading.items():
            t, way = self._walk(lab, optimizer, math.ceil(theory + 2 * math.sqrt(theory)))
            exact = self._path(optimizer, t)
            needed = [steps_to(self.distance, t, way[:, i]) for i in range(len(self.slopes))]
            findings += self._findings(optimizer, theory, steps_to(self.distance, t, exact), needed)
            lab.draw(optimizer, "way from the start", (t - 1).tolist(), exact.tolist(), way[:, 1].tolist())
            name = NAMES[optimizer]
            curves[f"measured, {name}"] = (t.tolist(), way[:, 1].tolist())
            curves[f"predicted, {name}"] = (t.tolist(), exact.tolist())
        t, way = self._walk(lab, "sgd", math.ceil(ratio))
        apart = np.abs(way / (self.lr * np.outer(t, self.slopes)) - 1).max()
        claim = "gradient descent: largest relative deviation of its way from η·|s|·t, all slopes"
        findings.append(Finding(claim, 0.0, float(apart), 1e-6))
        curves[f"gradient descent, slope {self.slopes[0]:g}"] = (t.tolist(), way[:, 0].tolist())
        curves["predicted end of the basin"] = ([1.0, leading["adagrad"]], [self.distance] * 2)
        title = f"Across a basin of width {self.distance:g} with η = {self.lr:g}"
        return Outcome(findings, [Figure(title, "step", "way from the start", curves)])

    def _findings(self, optimizer: str, leading: float, exact: float, needed: list[float]) -> list[Finding]:
        formula, name = "(D/2η)²" if optimizer == "adagrad" else "D/η", NAMES[optimizer]
        # Adam's formula has nothing left out.
        tolerance = 1e-6 if optimizer == "adam" else 0.1
        apart = max(needed) / min(needed) - 1 if math.isfinite(max(needed)) else math.inf
        found = [
            Finding(f"{name}: steps to cross, {formula}", leading, needed[1], tolerance,
                    reason=_LEADING[optimizer]),
            Finding(f"{name}: relative difference of these steps, slopes 1 to 10⁴", 0.0, apart, 1e-6,
                    reason="a slope that is not large beside ε shortens the steps"),
        ]  # fmt: skip
        if optimizer != "adam":
            found.insert(1, Finding(f"{name}: the same, summed step by step", exact, needed[1], 1e-6))
        return found

    def _walk(self, lab: Lab, optimizer: str, steps: int) -> tuple[FloatArray, FloatArray]:
        """Number of steps at each reading, and the way from the start, one column a slope."""
        options: dict[str, dict[str, Any]] = {
            "adagrad": {"eps": self.eps},
            "rmsprop": {"eps": self.eps, "alpha": self.rho},
            "adam": {"eps": self.eps},
            "sgd": {},
        }
        every = max(1, steps // 50)
        steps = -(-steps // every) * every  # the last reading is the last step
        module = Jump(self.slopes, 1.0, 0, optimizer, lr=self.lr, **options[optimizer])
        history = lab.train(module, steps=steps, every_n_steps=every, name=optimizer)
        return np.array(history.steps) + 1.0, column(history, "param_rms")

    def _path(self, optimizer: str, t: FloatArray) -> FloatArray:
        """Way after ``t`` steps: the sum of the lengths that the formula gives them."""
        n = np.arange(1.0, t[-1] + 1)
        denominator = {
            "adagrad": np.sqrt(n),
            "rmsprop": np.sqrt(1 - self.rho**n),
            "adam": np.ones_like(n),
        }[optimizer]
        lengths = self.lr / (denominator + self.eps / self.slopes[1])
        way: FloatArray = np.cumsum(lengths)[t.astype(int) - 1]
        return way
