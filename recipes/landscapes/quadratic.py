"""One learning rate cannot serve an ill-conditioned quadratic; one for each parameter can, along the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.recipes.landscapes._bowls import Bowls, bowls, train
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study

Curves = dict[str, tuple[list[float], list[float]]]
WAYS = ("axis-aligned", "rotated")
#: Distance to the minimum over that of the start.
ARRIVED = 1e-6
#: Steps in which RMSProp is seen to leave the minimum again.
STAY = 600
ADAPTIVE = {"adagrad": "Adagrad", "rmsprop": "RMSProp", "adam": "Adam"}
_LOST = (
    "a diagonal preconditioner scales along the coordinate axes, and these are no longer the axes of the "
    "bowl: on the rotated problem it loses its advantage"
)
_UNEQUAL = "κ cancels only while ε is small beside √v; nan says that no rate brought all starts there"


class Quadratic(Study):
    """Gradient descent on ``f = xᵀ H x / 2`` scales an eigenvector's part by ``1 - lr·L`` at every step.

    So it diverges above ``lr = 2 / L_max``. Its best rate is ``2 / (L_max + L_min)``, with the factor
    ``(kappa - 1) / (kappa + 1)`` a step. With ``P = H⁻¹`` before the gradient all factors are 0: one step.
    Where H is diagonal, Adagrad, RMSProp and Adam cancel L by dividing by ``sqrt(v)``, and kappa plays no
    part. A random rotation mixes the coordinates and takes that away.

    Source: Nesterov, Introductory Lectures on Convex Optimization (2004), section 2.1; Duchi, Hazan & Singer,
    Adaptive Subgradient Methods (2011).
    Look at: ``param_rms`` of the rows, the distance to the minimum; a row is a bowl.

    Args:
        kappa: Condition number of the part about gradient descent.
        kappas: Condition numbers that the adaptive optimizers are tried with.
        rates: Learning rates to tune over; a start is about 1 away in every coordinate.
        steps: Most steps of an adaptive optimizer.
        rho: Decay of RMSProp's squared gradients.
        eps: Where it is not small beside the gradient, L is no longer cancelled.
        seeds: Random starts and rotations.
    """

    name = "quadratic"
    claim = (
        "One learning rate cannot serve an ill-conditioned quadratic; one for each parameter can, as long as "
        "the bowl lies along the axes"
    )

    def __init__(
        self,
        kappa: float = 50.0,
        kappas: tuple[float, ...] = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6),
        rates: tuple[float, ...] = (0.03, 0.06, 0.1, 0.18, 0.3, 0.6, 1.0, 1.8, 3.0),
        steps: int = 800,
        rho: float = 0.99,
        eps: float = 1e-16,
        seeds: int = 4,
    ) -> None:
        if seeds < 2:
            raise ValueError(f"`seeds` must be 2 or more, got {seeds}; an interval needs several")
        self.kappa, self.kappas, self.rates, self.seeds = kappa, kappas, rates, seeds
        self.steps, self.rho, self.eps = steps, rho, eps

    def run(self, lab: Lab) -> Outcome:
        """Gradient descent over a grid of rates, one preconditioned step, then adaptive optimizers."""
        descent, factors = self._descent(lab)
        adaptive, steps = self._adaptive(lab)
        return Outcome(
            [*descent, *self._one_step(lab), *adaptive],
            [
                Figure(
                    "Gradient descent: one rate for all",
                    "rate · L_max",
                    "factor per step",
                    factors,
                    False,
                    False,
                ),
                Figure("Steps to 1e-6 of the start", "condition number κ", "steps", steps),
            ],
        )

    def _descent(self, lab: Lab) -> tuple[list[Finding], Curves]:
        """The factor per step at every rate of a grid finer than 1 %, along the axes and rotated."""
        low, high = 1 / self.kappa, 1.0
        best, factor = 2 / (high + low), (self.kappa - 1) / (self.kappa + 1)
        grid = np.append(np.arange(0.6, 2.4, 0.015), best)
        slowest = np.maximum(np.abs(1 - grid * high), np.abs(1 - grid * low))
        hessians, starts = (torch.cat(both) for both in zip(*self._both((self.kappa,)), strict=True))
        rates = torch.from_numpy(grid).repeat(2)[:, None].expand(-1, self.seeds)
        each = len(grid)
        module = Bowls(hessians.repeat_interleave(each, 0), starts.repeat_interleave(each, 0), rates, "sgd")
        n = round(5 * self.kappa)  # then only the slowest part is left
        _, left = train(lab, module, steps=2 * n, name="gradient-descent", every_n_steps=n)
        findings: list[Finding] = []
        curves: Curves = {}
        for way, found in zip(WAYS, np.split((left[-1] / left[-2]) ** (1 / n), 2), strict=True):
            numbers = {
                "largest rate that converges · L_max": (2, grid[found < 1].max(), 0.01),
                "smallest rate that diverges · L_max": (2, grid[found > 1].min(), 0.01),
                "best rate of a grid · L_max": (best, grid[found[:-1].argmin()], 0.01),
                "factor per step at the best rate": (factor, found[-1], 1e-6),
            }
            findings += [
                Finding(f"gradient descent, {way}: {what}", float(predicted), float(measured), tolerance)
                for what, (predicted, measured, tolerance) in numbers.items()
            ]
            curves[f"measured, {way}"] = (grid[:-1].tolist(), found[:-1].tolist())
            lab.draw(
                f"gradient-descent-{way}",
                "factor per step, step n is rate 0.6 + 0.015 n",
                range(each),
                slowest.tolist(),
                found.tolist(),
            )
        curves["predicted, max |1 - rate·L|"] = (grid[:-1].tolist(), slowest[:-1].tolist())
        return findings, curves

    def _one_step(self, lab: Lab) -> list[Finding]:
        """With the inverse of H, and with that of its diagonal."""
        findings = []
        for way, (hessians, starts) in zip(WAYS, self._both(self.kappas), strict=True):
            diagonal = hessians.diagonal(dim1=-2, dim2=-1).reciprocal().diag_embed()
            for text, name, matrix, reason in (
                ("H⁻¹", "inverse", torch.linalg.inv(hessians), "rounding grows with κ"),
                ("1/diag(H)", "diagonal", diagonal, _LOST),
            ):
                module = Bowls(hessians, starts, 1.0, "sgd", preconditioner=matrix)
                _, left = train(lab, module, steps=1, name=f"one-step-{name}-{way}")
                claim = f"one step with P = {text}, {way}: distance left, largest over κ"
                findings.append(Finding(claim, 0.0, float(left[1].max()), 1e-6, reason=reason))
        return findings

    def _adaptive(self, lab: Lab) -> tuple[list[Finding], Curves]:
        """Steps to arrive, at tuned rates, against kappa."""
        kappas, ends = np.array(self.kappas), f"κ = {self.kappas[-1]:g} {{}} κ = {self.kappas[0]:g}"
        descent = [math.log(ARRIVED) / math.log((kappa - 1) / (kappa + 1)) for kappa in self.kappas]
        curves: Curves = {"predicted, gradient descent at its best rate": (kappas.tolist(), descent)}
        findings: list[Finding] = []
        nearest = math.inf
        for name, title in ADAPTIVE.items():
            rates, longest = self._tuned(lab, name)
            straight, _ = self._watch(lab, name, 0, rates, longest, max(1, longest // 16))
            turned, left = self._watch(lab, name, 1, rates, self.steps, max(1, self.steps // 20))
            claim = f"{title}, axis-aligned: steps to 1e-6, {ends.format('as at')}"
            first, last = float(straight[0].mean()), float(straight[-1].mean())
            findings.append(Finding(claim, first, last, 1e-6, reason=_UNEQUAL))
            if name == "rmsprop":
                findings += self._leaves(lab, rates, left)
            else:
                findings.append(self._grows(f"{title}, rotated: steps, {ends.format('over')}", turned))
            nearest = min(nearest, float(left[-1, -1].max()))
            exponents = np.log10(kappas).round().astype(int).tolist()
            constant, measured = (rows.mean(1).tolist() for rows in (straight[[0] * len(kappas)], straight))
            lab.draw(name, "steps to 1e-6, axis-aligned, by log10 of kappa", exponents, constant, measured)
            for way, steps in zip(WAYS, (straight, turned), strict=True):
                here = np.isfinite(steps).all(1)
                curves[f"{title}, {way}"] = (kappas[here].tolist(), steps[here].mean(1).tolist())
        claim = (
            f"rotated, κ = {kappas[-1]:g}: distance left by the best of the three after {self.steps} steps"
        )
        findings.append(Finding(claim, ARRIVED, nearest, 0.0, "at most", reason=_LOST))
        return findings, {key: curve for key, curve in curves.items() if curve[0]}

    def _grows(self, claim: str, steps: FloatArray) -> Finding:
        """Where a bowl was not finished its steps count as ``self.steps``, so that the ratio is a bound."""
        ratios = np.fmin(steps[-1], self.steps) / np.fmin(steps[0], self.steps)
        low = float(ratios.mean() - 3 * ratios.std(ddof=1) / math.sqrt(len(ratios)))
        return Finding(f"{claim}, mean less 3 standard errors", 1.0, low, 0.0, "at least")

    def _leaves(self, lab: Lab, rates: Tensor, rotated: FloatArray) -> list[Finding]:
        """RMSProp's steps stay about as long as its rate, so that at a constant rate it cannot stay."""
        _, straight = self._watch(lab, "rmsprop", 0, rates, STAY, STAY // 10)
        claim = "RMSProp, {}: farthest in the second half of {} steps: it does not stay there"
        return [
            Finding(claim.format(way, steps), ARRIVED, float(left.max(0).min()), 0.0, "at least")
            for way, steps, left in zip(WAYS, (STAY, self.steps), (straight, rotated), strict=True)
        ]

    def _both(self, kappas: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
        return [bowls(kappas, self.seeds, rotated) for rotated in (False, True)]

    def _make(self, name: str, hessians: Tensor, starts: Tensor, rates: Tensor) -> Bowls:
        more: dict[str, Any] = {"alpha": self.rho} if name == "rmsprop" else {}
        return Bowls(hessians, starts, rates, name, eps=self.eps, **more)

    def _tuned(self, lab: Lab, name: str) -> tuple[Tensor, int]:
        """The rate at which all seeds arrive first, or else come nearest, shape ``(2, kappas)``.

        The second number is a length of training in which all axis-aligned bowls arrive, if they do.
        """
        hessians, starts = (torch.stack(both) for both in zip(*self._both(self.kappas), strict=True))
        rates = torch.tensor(self.rates, dtype=torch.float64)
        each = len(rates)
        module = self._make(name, hessians[None], starts.repeat(each, 1, 1, 1, 1), rates[:, None, None, None])
        lab.train(module, steps=self.steps, every_n_steps=self.steps, name=f"{name}-tuning")
        left = (torch.stack(module.distances) / module.distances[0]).amax(-1)  # the last of the seeds
        arrived = left <= ARRIVED
        first = arrived.double().argmax(0).double()
        score = torch.where(arrived.any(0), first, self.steps + left[-1].nan_to_num(math.inf))
        longest = int(score.amin(0)[0].max().clamp(max=self.steps))
        return rates[score.argmin(0)], min(self.steps, longest + longest // 8 + 2)

    def _watch(
        self, lab: Lab, name: str, way: int, rates: Tensor, steps: int, every: int
    ) -> tuple[FloatArray, FloatArray]:
        """Steps to arrive, ``(kappas, seeds)``, and the distances of the second half of the readings."""
        hessians, starts = self._both(self.kappas)[way]
        each = rates[way].repeat_interleave(self.seeds)
        module = self._make(name, hessians.flatten(0, 1), starts.flatten(0, 1), each)
        label = f"{name}-{WAYS[way]}-{steps}"
        t, left = train(lab, module, steps=steps, name=label, every_n_steps=every)
        shape = (len(self.kappas), self.seeds)
        return _arrivals(t, left).reshape(shape), left[len(left) // 2 :].reshape(-1, *shape)


def _arrivals(t: FloatArray, left: FloatArray) -> FloatArray:
    """When each column of ``left`` first falls to ``ARRIVED``, on a line of its logarithm; NaN for never."""
    arrivals = np.full(left.shape[1], np.nan)
    for column in np.flatnonzero((left <= ARRIVED).any(0)):
        i = int((left[:, column] <= ARRIVED).argmax())
        above, below = np.log(left[i - 1 : i + 1, column].clip(1e-300) / ARRIVED)
        arrivals[column] = t[i - 1] + (t[i] - t[i - 1]) * above / (above - below)
    return arrivals
