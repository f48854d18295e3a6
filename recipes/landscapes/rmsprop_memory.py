"""RMSProp forgets: its memory is about 1/(1-ρ) steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lightning_adapt.dynamics import DynamicsHistory
from lightning_adapt.recipes.landscapes._checks import at_least, decay, positive
from lightning_adapt.recipes.landscapes._lab import Curves, Lab, Landscape, column
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study

_READ = "read between readings, exact while v has no other change than the jump"
_SETTLED = "v has settled after many memories only: more steps, or a smaller ρ"
_SMALL_EPS = "it ends where ε is not small beside |g|"


class Jump(Landscape):
    """A constant gradient that is ``fold`` times as large from step ``at`` on; one parameter a scale."""

    def __init__(self, scales: Sequence[float], fold: float, at: int, optimizer: str, **options: object):
        super().__init__(optimizer, **options)
        self.scales, self.fold, self.at = scales, fold, at
        self.x = nn.ParameterList(nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in scales)

    def loss(self, step: int) -> Tensor:
        """``sum(gradient · x)``."""
        terms = [scale * x.sum() for scale, x in zip(self.scales, self.x, strict=True)]
        return torch.stack(terms).sum() * (self.fold if step >= self.at else 1.0)


class RMSPropMemory(Study):
    """RMSProp averages squared gradients over a memory of about ``1/(1-rho)`` steps; the rest is forgotten.

    A constant gradient g gives a constant rate ``lr / (|g| + eps)``. When g jumps, ``v`` goes the share
    ``1 - rho**n`` of the way to its new value in n steps: ``1 - 1/e`` of it after ``-1 / ln(rho)`` steps.
    The step ``|g| / sqrt(v)`` then answers as a sense organ does (Weber's law, fold-change detection): with
    ``fold / sqrt(fold² - (fold² - 1)·rho**n)``, the same at every scale of g, and returns to 1. Adagrad
    never forgets: its rate only falls, and after the jump ``fold`` times as fast.

    Source: Tieleman & Hinton, lecture 6.5 (2012); Shoval et al., Fold-change detection (2010).
    Look at: ``dynamics/update_rms`` of three parameters a thousandfold apart: three equal curves.

    Args:
        lr: Learning rate.
        gradient: Of the middle coordinate; the others have a thousandth and a thousand times it.
        fold: Factor of the jump.
        rho: Decay of the squared gradients in the fold-change part.
        eps: Weber's law ends where this is no longer small beside the gradient.
        steps: Before the jump, and again after it.
        memories: Decays whose memory is measured.
    """

    name = "rmsprop-memory"
    claim = (
        "RMSProp forgets in about 1/(1-ρ) steps and then answers only to relative change; Adagrad does not"
    )

    def __init__(
        self,
        lr: float = 0.01,
        gradient: float = 1.0,
        fold: float = 10.0,
        rho: float = 0.9,
        eps: float = 1e-16,
        steps: int = 140,
        memories: tuple[float, ...] = (0.9, 0.99, 0.999),
    ) -> None:
        positive("nothing would move or jump", lr=lr, gradient=gradient, fold=fold)
        if fold == 1:
            raise ValueError(f"`fold` must not be 1, got {fold}; then nothing jumps")
        at_least("eps", eps, 0, "it is added to a root")
        at_least("steps", steps, 2, "Adagrad's curve is read every 4 of twice as many")
        decay("rho", rho)
        for memory in memories:
            positive("it is a memory that is measured", memories=memory)
            decay("memories", memory)
        self.lr, self.fold, self.rho, self.eps, self.steps = lr, fold, rho, eps, steps
        self.scales, self.memories = (gradient * 1e-3, gradient, gradient * 1e3), memories

    def run(self, lab: Lab) -> Outcome:
        """Measure the memory, then the answer to a jump at three scales, then Adagrad's."""
        memory, ways = self._memory(lab)
        jump = Jump(self.scales, self.fold, self.steps, "rmsprop", lr=self.lr, alpha=self.rho, eps=self.eps)
        history = lab.train(jump, steps=2 * self.steps, name="jump")
        weber, answers = self._weber(lab, history)
        adagrad, rates = self._adagrad(lab, history)
        after = "steps after the jump"
        return Outcome(
            [*memory, *weber, adagrad],
            [
                Figure("How far v has come after the jump", after, "share of the way", ways, log_y=False),
                Figure("The same answer at every scale", after, "|update| / lr", answers, log_y=False),
                Figure(
                    "RMSProp settles, Adagrad falls", "step", "effective learning rate", rates, log_x=False
                ),
            ],
        )

    def _memory(self, lab: Lab) -> tuple[list[Finding], Curves]:
        """Where the way of v to its new value passes 1-1/e, for each decay."""
        findings: list[Finding] = []
        curves: Curves = {}
        for rho in self.memories:
            tenth = max(1, round(0.1 / (1 - rho)))
            jump = Jump(self.scales, self.fold, 2 * tenth, "rmsprop", lr=self.lr, alpha=rho, eps=self.eps)
            history = lab.train(jump, steps=14 * tenth, every_n_steps=tenth, name=f"memory-{rho:g}")[1:]
            n = np.array(history.steps) + 1 - jump.at
            v, new = column(history, "second_moment_rms")[:, 1] ** 2, history[-1]["x.1", "grad_rms"] ** 2
            way = (v - v[0]) / (new - v[0])
            # On this scale the way is a straight line, so that reading between readings is exact.
            crossing = float(np.interp(1.0, -np.log1p(-way), n))
            claim = f"steps of v to 1-1/e of the way after a {self.fold:g}-fold jump, ρ = {rho:g}"
            findings.append(Finding(claim, -1 / math.log(rho), crossing, 1e-6, reason=_READ))
            steps, measured, predicted = n[1:].tolist(), way[1:].tolist(), (1 - rho ** n[1:]).tolist()
            lab.draw(f"memory-{rho:g}", "way", steps, predicted, measured)
            curves[f"measured, ρ = {rho:g}"] = (steps, measured)
            curves[f"predicted, ρ = {rho:g}"] = (steps, predicted)
        return findings, curves

    def _weber(self, lab: Lab, history: DynamicsHistory) -> tuple[list[Finding], Curves]:
        """The settled rate, and the normalised step after the jump at three scales."""
        rates = column(history, "effective_lr_p50")[self.steps - 1]
        deviation = np.abs(rates * (np.array(self.scales) + self.eps) / self.lr - 1).max()
        answer = column(history, "update_rms")[self.steps :] / self.lr
        n = np.arange(1, self.steps + 1)
        expected = self.fold / np.sqrt(self.fold**2 - (self.fold**2 - 1) * self.rho**n)
        apart = (answer.max(axis=1) / answer.min(axis=1) - 1).max()
        lab.draw("jump", "normalised step", n.tolist(), expected.tolist(), answer[:, 1].tolist())
        curves: Curves = {
            f"measured, |g| = {scale:g}": (n.tolist(), answer[:, i].tolist())
            for i, scale in enumerate(self.scales)
        }
        settled = "constant gradient: relative deviation of the settled rate from lr/(|g|+ε)"
        first = f"|update|/lr in the first step after a {self.fold:g}-fold jump"
        weber = "Weber's law: largest relative difference of that answer, |g| over six decades"
        return [
            Finding(settled, 0.0, float(deviation), 1e-6, reason=_SETTLED),
            Finding(first, float(expected[0]), float(answer[0, 1]), 1e-6, reason=f"{_SETTLED}; {_SMALL_EPS}"),
            Finding(weber, 0.0, float(apart), 1e-6, reason=_SMALL_EPS),
            Finding(
                "adaptation: |update|/lr in the end",
                1.0,
                float(answer[-1, 1]),
                1e-6,
                reason=f"{_SETTLED}; {_SMALL_EPS}",
            ),
        ], {**curves, "predicted": (n.tolist(), expected.tolist())}

    def _adagrad(self, lab: Lab, history: DynamicsHistory) -> tuple[Finding, Curves]:
        """The same jump, middle scale, beside RMSProp's table."""
        jump = Jump(self.scales[1:2], self.fold, self.steps, "adagrad", lr=self.lr, eps=self.eps)
        beside = lab.train(jump, steps=2 * self.steps, every_n_steps=4, name="adagrad")
        t = np.array(beside.steps) + 1
        measured = column(beside, "effective_lr_p50")[:, 0]
        squares = np.minimum(t, self.steps) + self.fold**2 * (t - self.steps).clip(0)
        expected = self.lr / (self.scales[1] * np.sqrt(squares) + self.eps)
        claim = "Adagrad's rate just falls faster: largest relative deviation from lr/√Σg²"
        rmsprop = column(history, "effective_lr_p50")[:, 1]
        return Finding(claim, 0.0, float(np.abs(measured / expected - 1).max()), 1e-6), {
            "measured, Adagrad": (t.tolist(), measured.tolist()),
            "predicted, Adagrad": (t.tolist(), expected.tolist()),
            "measured, RMSProp": ([step + 1.0 for step in history.steps], rmsprop.tolist()),
        }
