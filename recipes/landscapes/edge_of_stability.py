"""Full-batch Adam trains at the edge of stability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_adapt.dynamics import preconditioned_sharpness
from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.recipes.landscapes._checks import at_least, decay, positive
from lightning_adapt.recipes.landscapes._lab import Lab, Landscape
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study

Curves = dict[str, tuple[Sequence[float], Sequence[float]]]
#: Inputs of a network.
_INPUTS = 8


class Parabolas(Landscape):
    """``curvature · x² / 2`` each, so near to 0 that ``eps = 1`` is Adam's whole denominator: P is held.

    Flat until step ``begin``, when Adam's bias correction is over.
    """

    def __init__(self, curvatures: Sequence[float], begin: int, optimizer: str, **options: Any) -> None:
        super().__init__(optimizer, eps=1.0, **options)
        self.curvatures, self.begin = curvatures, begin
        self.x = nn.ParameterList(torch.full((1,), 1e-12 / c, dtype=torch.float64) for c in curvatures)

    def loss(self, step: int) -> Tensor:
        """Their sum."""
        terms = [c * x.square() / 2 for c, x in zip(self.curvatures, self.x, strict=True)]
        return torch.cat(terms).sum() * (step >= self.begin)


class Networks(Landscape):
    """Tanh networks side by side; each learns random numbers of its own by heart, all at every step.

    Every ``every`` steps each measures its preconditioned sharpness, which no table has: it needs the loss.
    """

    def __init__(self, seeds: int, width: int, points: int, every: int, optimizer: str, **options: Any):
        super().__init__(optimizer, **options)
        random = torch.Generator().manual_seed(0)
        self.examples = torch.randn(seeds, points, _INPUTS + 1, generator=random, dtype=torch.float64)
        shapes = ((_INPUTS, width), (width, width), (width, 1))
        self.nets = nn.ModuleList(
            nn.ParameterList(
                torch.randn(shape, generator=random, dtype=torch.float64) / math.sqrt(shape[0])
                for shape in shapes
            )
            for _ in range(seeds)
        )
        self.every = every
        self.sharpness: list[list[float]] = []

    def errors(self, seed: int) -> Tensor:
        """Mean squared error of one network."""
        first, second, last = self.nets[seed].parameters()
        inputs, targets = self.examples[seed, :, :_INPUTS], self.examples[seed, :, _INPUTS:]
        outputs: Tensor = ((inputs @ first).tanh() @ second).tanh() @ last
        return (outputs - targets).square().mean()

    def loss(self, step: int) -> Tensor:
        """The sum over networks: none has a part in the gradient of another."""
        return torch.stack([self.errors(seed) for seed in range(len(self.nets))]).sum()

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Measure after the step, where the parameters and P belong together."""
        if (batch_idx + 1) % self.every == 0:
            optimizer = self.optimizers(use_pl_optimizer=False)
            assert isinstance(optimizer, torch.optim.Optimizer)
            self.sharpness.append(
                [
                    preconditioned_sharpness(self.errors(seed), optimizer, net.parameters())
                    for seed, net in enumerate(self.nets)
                ]
            )


class EdgeOfStability(Study):
    """Full-batch Adam drives the preconditioned sharpness up to its stability threshold, and keeps it there.

    Adam with a held P is gradient descent with averaged momentum. On a parabola whose curvature, divided by
    P, is s, the slowest part of x has in each step the factor z, the larger root of
    ``z² - (1 + beta1 - lr·(1-beta1)·s)·z + beta1 = 0``. At ``s = (2 + 2·beta1) / ((1-beta1)·lr)`` it is -1:
    the threshold, ``38 / lr`` for ``beta1 = 0.9``. On a network s is the largest eigenvalue of ``P⁻¹ H``; it
    rises until it is there. Then Adam swings, v grows, and P with it. The threshold is that of late steps,
    when the bias correction of m in ``P = (1 - beta1**t)·(sqrt(v_hat) + eps)`` is over.

    Source: Cohen et al., Adaptive Gradient Methods at the Edge of Stability (2022).
    Look at: the chart ``preconditioned sharpness``, which rises to its prediction, and the loss from then on.

    Args:
        lr: Learning rate.
        beta1: Those of Adam; each has a threshold of its own.
        beta2: Of Adam; the closer to 1, the later v follows.
        steps: Of each training; in the last third the sharpness should hover.
        width: Units of each of the two hidden layers.
        points: Random examples to learn by heart.
        seeds: Networks for each ``beta1``.
    """

    name = "edge-of-stability"
    claim = "Full-batch Adam drives the largest eigenvalue of P⁻¹H to (2+2β1)/((1-β1)·lr) and keeps it there"

    def __init__(
        self,
        lr: float = 0.005,
        beta1: tuple[float, ...] = (0.9, 0.5),
        beta2: float = 0.99,
        steps: int = 800,
        width: int = 16,
        points: int = 64,
        seeds: int = 3,
    ) -> None:
        positive("the threshold is over it", lr=lr)
        for value in beta1:
            positive("without momentum the parabolas have one root", beta1=value)
            decay("beta1", value)
        decay("beta2", beta2)
        at_least("steps", steps, 100, "fewer never reach the edge")
        sizes = {"width": width, "points": points, "seeds": seeds}
        for name, size in sizes.items():
            at_least(name, size, 1, "there would be no network to train")
        self.lr, self.beta1, self.beta2, self.steps = lr, beta1, beta2, steps
        self.width, self.points, self.seeds = width, points, seeds

    def run(self, lab: Lab) -> Outcome:
        """For each beta1: a parabola on either side of the threshold, then networks that find it."""
        findings: list[Finding] = []
        sharpness: Curves = {}
        losses: Curves = {}
        what = "preconditioned sharpness"
        for beta1 in self.beta1:
            threshold = (2 + 2 * beta1) / ((1 - beta1) * self.lr)
            findings += self._parabolas(lab, beta1, threshold)
            every = self.steps // 40
            options = {"lr": self.lr, "betas": (beta1, self.beta2)}
            module = Networks(self.seeds, self.width, self.points, every, "adam", **options)
            name = f"networks-{beta1:g}"
            lab.train(module, steps=self.steps, name=name, every_n_steps=every)
            readings = np.array(module.sharpness)  # shape (readings, seeds)
            findings += self._hover(beta1, threshold, readings)
            steps, measured = range(every, self.steps + 1, every), readings[:, 0].tolist()
            predicted = [threshold] * len(steps)
            lab.draw(name, what, [step - 1 for step in steps], predicted, measured)
            sharpness[f"measured, β1 = {beta1:g}"] = (steps, measured)
            sharpness[f"predicted, β1 = {beta1:g}"] = (steps, predicted)
            losses[f"β1 = {beta1:g}"] = (range(1, self.steps + 1), module.losses)
        return Outcome(
            findings,
            [
                Figure("Up to the edge, and along it", "step", f"{what} of one network", sharpness, False),
                Figure("The loss, on the way to the edge and along it", "step", "loss", losses, False),
            ],
        )

    def _parabolas(self, lab: Lab, beta1: float, threshold: float) -> list[Finding]:
        """The factor of x in a step, measured when the part with the other root is forgotten."""
        beside = (1 - math.sqrt(beta1)) ** 2 / (20 * (1 + beta1))  # a tenth of the way to complex roots
        shares = (1 - beside, 1 + beside)
        curvatures = [threshold * share for share in shares]
        every = round(1 / (1 - beta1))
        module = Parabolas(curvatures, 20 * every, "adam", lr=self.lr, betas=(beta1, self.beta2))
        history = lab.train(module, steps=40 * every, name=f"parabolas-{beta1:g}", every_n_steps=every)
        factors = (history[-1]["update_rms"] / history[-2]["update_rms"]) ** (1 / every)
        findings = []
        for share, curvature, factor in zip(shares, curvatures, factors, strict=True):
            roots = np.roots([1, -(1 + beta1 - self.lr * (1 - beta1) * curvature), beta1])
            claim = f"β1={beta1:g}: growth of a step on a parabola, P held, {share:.6g} of the threshold"
            findings.append(Finding(claim, float(np.abs(roots).max()), float(factor), 1e-6))
        return findings

    def _hover(self, beta1: float, threshold: float, readings: FloatArray) -> list[Finding]:
        """Below the threshold at first; beside it, and not far to either side, in the last third."""
        late = readings[-len(readings) // 3 :]
        width = float(late.std()) / threshold
        means = late.mean(axis=0) / threshold
        reason = (
            f"two standard deviations of a reading, {2 * width:.1%}, as the formula holds P still and here "
            f"it moves; means of single networks: {means.min():.3f} to {means.max():.3f} of the threshold"
        )
        start = f"β1={beta1:g}: λ(P⁻¹H) at the first reading, largest of {self.seeds} networks"
        hover = f"β1={beta1:g}: λ(P⁻¹H) in the last third of training, mean of {self.seeds} networks"
        spread = f"β1={beta1:g}: its standard deviation there, as a share of the threshold"
        return [
            Finding(start, threshold, float(readings[0].max()), 0, "at most", reason="it starts above"),
            Finding(hover, threshold, float(late.mean()), 2 * width, reason=reason),
            Finding(spread, 0.1, width, 0, "at most", reason="more than 0.1 is still moving, not hovering"),
        ]
