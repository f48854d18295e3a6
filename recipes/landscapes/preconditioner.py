"""The best diagonal preconditioner has v in proportion to L²; what √v is that an optimizer learns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_adapt.recipes.landscapes._bowls import SIZE, Bowls, bowls, condition, curvatures
from lightning_adapt.recipes.landscapes._grouped import train_grouped
from lightning_adapt.recipes.landscapes._lab import Lab, Landscape
from lightning_adapt.recipes.landscapes._preconditioner_models import Network, NoisyRegression
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study

Curves = dict[str, tuple[list[float], list[float]]]
#: Steps at the noisy minimum.
NOISY_STEPS = 100
TITLES = {"rmsprop": "RMSProp", "adam": "Adam"}
_SPREAD = (
    "√v is L times the root of a mean of x² on the way: it cancels L, whatever it is, but the coordinates "
    "were not equally far away"
)
_LOST = (
    "on the rotated problem a diagonal preconditioner loses its advantage: no diagonal matrix can undo a "
    "rotation, and 1/diag(H) cannot either"
)
_PATH = (
    "with all examples at once v is a memory of the gradients on the way, not of the curvature: it helps one "
    "network and harms another"
)
_NOISE = "three standard errors of the mean over seeds"


class Preconditioner(Study):
    """Dividing the gradient by ``sqrt(v)`` turns H into ``D^(-1/2) H D^(-1/2)``, ``D = diag(sqrt(v))``.

    With ``H = diag(L)`` and ``sqrt(v) = L`` its condition number is 1. What is learned is another matter:
    ``sqrt(v)`` is ``L·|x|`` in the first step. At a noisy minimum the variance of the gradient is in
    proportion to H, so that ``sqrt(v) = sqrt(L)`` leaves ``sqrt(kappa)``. On rotated axes no diagonal of n
    numbers leaves less than what ``D = diag(H)`` leaves, divided by n.

    Source: van der Sluis, Condition Numbers and Equilibration of Matrices (1969); Martens, New Insights and
    Perspectives on the Natural Gradient Method (2020).
    Look at: ``second_moment_rms``; each row is a coordinate.

    Args:
        lr: Learning rate on the quadratics.
        network_lr: Learning rate of the networks.
        kappas: Condition numbers of the quadratics.
        steps: Of the quadratics and of the networks.
        rho: Decay of RMSProp's squared gradients.
        eps: Where it is not small beside the gradient, L is no longer cancelled.
        seeds: Random starts, rotations and networks.
        copies: Noisy regressions in a row of the table.
    """

    name = "preconditioner"
    claim = "The best diagonal preconditioner has v ∝ L²; what an optimizer learns is not, except in part"

    def __init__(
        self,
        lr: float = 0.03,
        network_lr: float = 0.01,
        kappas: tuple[float, ...] = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6),
        steps: int = 300,
        rho: float = 0.99,
        eps: float = 1e-20,
        seeds: int = 5,
        copies: int = 64,
    ) -> None:
        if seeds < 2:
            raise ValueError(f"`seeds` must be 2 or more, got {seeds}; an interval needs several")
        self.lr, self.network_lr, self.steps, self.rho, self.eps = lr, network_lr, steps, rho, eps
        self.kappas = kappas
        self.seeds, self.copies, self.ends = seeds, copies, (kappas[0], kappas[-1])

    def run(self, lab: Lab) -> Outcome:
        """Quadratics along the axes and rotated, a noisy minimum, and networks."""
        kappas = list(self.kappas)
        findings: list[Finding] = []
        bowl_curves: Curves = {"predicted, √v = L": (kappas, [1.0] * len(kappas))}
        network_curves: Curves = {}
        for name in TITLES:
            for part, curves in (
                (self._straight, bowl_curves),
                (self._rotated, bowl_curves),
                (self._noisy, bowl_curves),
                (self._network, network_curves),
            ):
                found, drawn = part(lab, name)
                findings += found
                curves |= drawn
        bowl_curves["predicted, √v = √L"] = (kappas, [math.sqrt(kappa) for kappa in kappas])
        return Outcome(
            findings,
            [
                Figure("What √v leaves of the condition number", "κ(H)", "what is left", bowl_curves),
                Figure("A small network on the way", "step", "left over κ(H)", network_curves, log_x=False),
            ],
        )

    def _straight(self, lab: Lab, name: str) -> tuple[list[Finding], Curves]:
        """From starts of all ones, then from random ones."""
        title, last = f"{TITLES[name]}, axis-aligned", f"κ = {self.ends[1]:g}"
        hessians, starts = bowls(self.ends, self.seeds, rotated=False)
        ones = torch.ones_like(starts[:, :1])
        equal = self._left(lab, name, "all-ones", hessians[:, :1], ones, 1, 1)
        first = self._left(lab, name, "first-step", hessians, starts, 1, 1)[0]
        left = self._left(lab, name, "axis-aligned", hessians, starts, self.steps, max(1, self.steps // 3))
        spread = starts.abs().amax(-1) / starts.abs().amin(-1)
        apart = float((left[:, 1] / left[:, 0] - 1).abs().max())
        own, end = f"{title}, first step: left is max|x|/min|x|", f"{title}, {last}: left"
        return [
            Finding(f"{title}, first step from all ones: largest left", 1.0, float(equal.max()), 1e-6),
            Finding(own, float(_mean(spread[1])), float(_mean(first[1])), 1e-6),
            Finding(
                f"{title}: difference of what is left at {last} and κ = {self.ends[0]:g}", 0.0, apart, 1e-6
            ),
            Finding(
                f"{end} after {self.steps} steps, √v = L",
                1.0,
                float(_mean(left[-1, 1])),
                0.01,
                reason=_SPREAD,
            ),
        ], {title: (list(self.ends), _mean(left[-1]).tolist())}

    def _rotated(self, lab: Lab, name: str) -> tuple[list[Finding], Curves]:
        """The same axes turned at random."""
        title = f"{TITLES[name]}, rotated"
        hessians, starts = bowls(self.kappas, self.seeds, rotated=True)
        left = self._left(lab, name, "rotated", hessians, starts, self.steps, self.steps)[-1]
        least = condition(hessians, hessians.diagonal(dim1=-2, dim2=-1)) / SIZE
        bound = float((left / least).min())
        claim, end = f"{title}: left, over the least of any diagonal", float(_mean(left[-1]))
        last = f"{title}, κ = {self.ends[1]:g}: left after {self.steps} steps"
        return [
            Finding(claim, 1.0, bound, 0.0, "at least"),
            Finding(last, 1.0, end, 0.01, reason=_LOST),
        ], {title: (list(self.kappas), _mean(left).tolist())}

    def _noisy(self, lab: Lab, name: str) -> tuple[list[Finding], Curves]:
        """At the minimum, where all that is left of a gradient is noise."""
        curvature = torch.stack([curvatures(kappa) for kappa in self.kappas])
        module = NoisyRegression(curvature, self.seeds, self.copies, name, **self._options(name))
        roots = self._roots(lab, module, f"{name}-noisy", NOISY_STEPS, NOISY_STEPS)[-1][-1]
        left = _mean(
            condition(
                curvature[:, None].diag_embed(), roots.view(*curvature.shape, self.seeds).transpose(1, 2)
            )
        )
        rho = self.rho if name == "rmsprop" else 0.999
        memory = (1 - rho**NOISY_STEPS) * (1 + rho) / ((1 - rho) * (1 + rho**NOISY_STEPS))
        # log κ is half the difference of two log v; g² = L·(product of two normal numbers)² varies by 9 - 1.
        tolerance = 3 * math.sqrt(2 / 4 * 8 / (memory * self.copies * self.seeds))
        claim = f"{TITLES[name]}, noisy minimum, κ = {{:g}}: left is √κ"
        findings = [
            Finding(claim.format(kappa), math.sqrt(kappa), float(left[i]), tolerance, reason=_NOISE)
            for i, kappa in zip((0, -1), self.ends, strict=True)
        ]
        exponents = np.log10(self.kappas).round().astype(int).tolist()
        expected = [math.sqrt(kappa) for kappa in self.kappas]
        lab.draw(f"{name}-noisy", "what is left, by log10 of kappa", exponents, expected, left.tolist())
        return findings, {f"{TITLES[name]}, noisy minimum": (list(self.kappas), left.tolist())}

    def _network(self, lab: Lab, name: str) -> tuple[list[Finding], Curves]:
        """A network with single examples, whose gradients are noisy, and with all of them at once."""
        findings: list[Finding] = []
        curves: Curves = {}
        for batch, way in ((1, "single examples"), (0, "all examples")):
            title = f"{TITLES[name]}, network, {way}"
            module = Network(self.seeds, batch, name, lr=self.network_lr, **self._options(name))
            label, every = f"{name}-network-{way.replace(' ', '-')}", max(1, self.steps // 4)
            steps, found = self._roots(lab, module, label, self.steps, every)
            roots = found.view(len(steps), -1, self.seeds).transpose(1, 2)
            places = [module.places[step] for step in steps]
            hessians = torch.stack([module.hessians(place) for place in places])
            before, left = condition(hessians, torch.ones_like(roots)), condition(hessians, roots)
            high = _mean(left[-1] / before[-1]) * math.exp(_three_errors(left[-1] / before[-1]))
            claim = f"{title}: left over κ(H), mean and 3 standard errors"
            findings.append(Finding(claim, 1.0, float(high), 0.0, "at most", reason="" if batch else _PATH))
            x = [step + 1.0 for step in steps]
            curves[f"measured, {TITLES[name]}, {way}"] = (x, _mean(left / before).tolist())
            if batch:
                squares = torch.stack([module.squares(place) for place in places])
                expected = condition(hessians, squares.sqrt())
                curves[f"predicted, {TITLES[name]}, {way}"] = (x, _mean(expected / before).tolist())
                lab.draw(label, "what is left", steps, _mean(expected).tolist(), _mean(left).tolist())
                told, seen = (float(_mean(kappa[-1])) for kappa in (expected, left))
                tolerance = _three_errors(left[-1] / expected[-1])
                claim = f"{title}: left is that of √E(g²)"
                findings.append(Finding(claim, told, seen, tolerance, reason=_NOISE))
        return findings, curves

    def _options(self, name: str) -> dict[str, Any]:
        return {"eps": self.eps, **({"alpha": self.rho} if name == "rmsprop" else {})}

    def _left(
        self, lab: Lab, name: str, way: str, hessians: Tensor, starts: Tensor, steps: int, every: int
    ) -> Tensor:
        """Condition numbers, shape ``(readings, kappas, seeds)``."""
        module = Bowls(hessians, starts, self.lr, name, **self._options(name))
        _, roots = self._roots(lab, module, f"{name}-{way}", steps, every)
        return condition(hessians, roots.view(-1, *starts.shape))

    def _roots(
        self, lab: Lab, module: Landscape, name: str, steps: int, every: int
    ) -> tuple[tuple[int, ...], Tensor]:
        """Steps, and ``sqrt(v)`` of every row of the parameter, from the tables."""
        rows = {key: torch.arange(len(value)) for key, value in module.named_parameters()}
        history = train_grouped(lab, module, rows, steps=steps, name=name, every_n_steps=every)
        roots = np.stack([table["second_moment_rms"] for table in history])
        return tuple(history.steps), torch.from_numpy(roots)


def _mean(kappa: Tensor) -> Tensor:
    """Geometric, over the last dimension."""
    return kappa.log().mean(-1).exp()


def _three_errors(ratios: Tensor) -> float:
    """Three standard errors of the mean logarithm."""
    return 3 * float(ratios.log().std()) / math.sqrt(len(ratios))
