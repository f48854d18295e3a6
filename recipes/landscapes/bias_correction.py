"""Adam's moments start at zero and are biased; correction makes the first steps as long as the others."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch

from lightning_adapt.dynamics import CanonicalStep, DynamicsHistory, StepView, register_rule
from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.recipes.landscapes._lab import Lab, column
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study
from lightning_adapt.recipes.landscapes.rmsprop_memory import Jump


class UncorrectedAdam(torch.optim.Optimizer):
    """Adam without bias correction, ``parameter -= lr · m / (sqrt(v) + eps)``: an own optimizer."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
                state["m"].lerp_(parameter.grad, 1 - beta1)
                state["v"].lerp_(parameter.grad.square(), 1 - beta2)
                denominator = state["v"].sqrt() + group["eps"]
                parameter.addcdiv_(state["m"], denominator, value=-group["lr"])
        return loss


@register_rule(UncorrectedAdam)
def uncorrected_adam(view: StepView) -> CanonicalStep:
    """With these lines the monitor can read an optimizer that it has never seen."""
    m, v = view.state["m"], view.state["v"]
    return CanonicalStep(
        lr=view.group["lr"],
        first_moment=m,
        first_moment_factor=1.0,
        first_moment_correction=1.0,
        second_moment=v,
        eps=view.eps(v),
    )


class Uncorrected(Jump):
    """The same landscape for `UncorrectedAdam`."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Our own optimizer, which no factory makes."""
        return UncorrectedAdam(self.parameters(), **self.options)


class BiasCorrection(Study):
    """Under a constant gradient g, ``m = (1 - beta1**t)·g`` and ``v = (1 - beta2**t)·g²``: both too small.

    Divided by these factors, as Adam does, every step is ``lr·g / (|g| + eps)``. Without correction step t is
    ``(1 - beta1**t) / sqrt(1 - beta2**t)`` times as long: 3.16 times at first for the defaults, and then it
    still grows, because m fills faster than v.

    Source: Kingma & Ba, Adam, section 3 (2015).
    Look at: ``dynamics/update_rms``, a flat line with correction and a hill without.

    Args:
        lr: Learning rate.
        beta1: Decay of m.
        beta2: Decay of v.
        gradient: Of the middle coordinate; the others have a thousandth and a thousand times it.
        eps: Added to the root of v.
        steps: Steps of the long curve, which is read every ``steps / 25`` steps.
        first_steps: All of these are read.
    """

    name = "bias-correction"
    claim = "m and v start at zero: uncorrected, Adam's first steps are too long, the first not most"

    def __init__(
        self,
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        gradient: float = 1.0,
        eps: float = 1e-8,
        steps: int = 600,
        first_steps: int = 40,
    ) -> None:
        self.scales = [gradient * 1e-3, gradient, gradient * 1e3]
        self.beta1, self.beta2, self.steps, self.first_steps = beta1, beta2, steps, first_steps
        self.options: dict[str, Any] = {"lr": lr, "betas": (float(beta1), float(beta2)), "eps": eps}

    def run(self, lab: Lab) -> Outcome:
        """Compare each step's length, in units of lr, with both formulas."""
        t, m, corrected = self._train(lab, Jump(self.scales, 1.0, 0, "adam", **self.options), "corrected")
        _, _, raw = self._train(lab, Uncorrected(self.scales, 1.0, 0, "", **self.options), "uncorrected")
        g, eps = np.array(self.scales), self.options["eps"]
        share_m, share_v = 1 - self.beta1**t, 1 - self.beta2**t
        expected = share_m[:, None] * g / (np.sqrt(share_v)[:, None] * g + eps)
        ratio, theory = raw[:, 1] / corrected[:, 1], share_m / np.sqrt(share_v)
        lab.draw("uncorrected", "step over lr", t.tolist(), expected[:, 1].tolist(), raw[:, 1].tolist())
        first = (1 - self.beta1) / math.sqrt(1 - self.beta2)
        rows = [
            ("with correction: relative deviation of any step from lr·g/(|g|+ε)",
             0.0, _apart(corrected, g / (g + eps))),
            ("stored m: relative deviation from (1-β1^t)·g", 0.0, _apart(m[:, 1], share_m * g[1])),
            ("without: first step, times that with correction", first, ratio[0]),
            ("without: relative deviation of any step from the formula",
             0.0, _apart(raw, expected)),
            ("without: the longest step, times that with correction", theory.max(), ratio.max()),
            ("without: number of the longest step", _peak(t, theory), _peak(t, ratio)),
        ]  # fmt: skip
        curves = {
            "measured, without correction": (t.tolist(), raw[:, 1].tolist()),
            "predicted, without correction": (t.tolist(), theory.tolist()),
            "measured, with correction": (t.tolist(), corrected[:, 1].tolist()),
            "predicted, with correction": (t.tolist(), [1.0] * len(t)),
        }
        return Outcome(
            [Finding(claim, float(wanted), float(found), 1e-6) for claim, wanted, found in rows],
            [Figure("A constant gradient through Adam", "step", "|update| / lr", curves)],
        )

    def _train(self, lab: Lab, module: Jump, name: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Step numbers from 1, m, and |update| / lr; the two last one column a coordinate."""
        every = max(1, self.steps // 25)
        start = lab.train(copy.deepcopy(module), steps=self.first_steps, name=f"{name}-start")
        rest = lab.train(module, steps=self.steps, every_n_steps=every, name=name)
        tables = [*start, *(table for table in rest if table.step >= self.first_steps)]
        t = np.array([table.step + 1.0 for table in tables])
        history = DynamicsHistory(tables)
        return t, column(history, "first_moment_rms"), column(history, "update_rms") / self.options["lr"]


def _apart(measured: FloatArray, predicted: FloatArray) -> float:
    return float(np.abs(measured / predicted - 1).max())


def _peak(t: FloatArray, ratio: FloatArray) -> float:
    # Equal betas give a curve that only nears its maximum: the first step within a millionth of it counts.
    return float(t[np.argmax(ratio >= ratio.max() * (1 - 1e-6))])
