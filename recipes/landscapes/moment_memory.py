"""Direction is noisy and may be remembered briefly; scale must be smooth and needs a longer memory."""

from __future__ import annotations

import math

import numpy as np
import torch

from lightning_adapt.dynamics import DynamicsTable
from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.recipes.landscapes._checks import at_least, decay, positive
from lightning_adapt.recipes.landscapes._grouped import train_grouped
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._moment_models import (
    Cell,
    Cells,
    Noise,
    NoisyCurvature,
    WorstGradient,
)
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study

Curves = dict[str, tuple[list[float], list[float]]]
_PERMITTED = "β1 > √β2 permits long steps, it does not enforce them"
_SAMPLED = "three standard errors over the copies, and the next order in (1-β)/(1+β)"
_STILL_LONG = "a bounded step is still too long where lr is large beside the way; 0 of n is at most 3/n"
_RULE_OF_THREE = "of n trainings without an event, 3/n is the upper end of the 95 % interval of the share"


class MomentMemory(Study):
    """A memory ``1/(1-beta)`` averages ``nu = (1+beta)/(1-beta)`` gradients: the rest of their noise is left.

    Under noise of size sigma, ``Var(m) = sigma²/nu`` and, to leading order, ``Var(sqrt(v)) = sigma²/2nu``:
    the effective learning rate has the relative variance ``1/2nu``. (After t steps, m has ``1 - beta**2t`` of
    this, and the corrected v ``(1+beta**t)/(1-beta**t)`` times it.)

    The two memories also limit each other. The longest step that any gradients can cause is, corrections
    aside, ``(1-beta1)·sqrt(sum of (beta1²/beta2)**j) / sqrt(1-beta2)`` times lr. The sum is finite for
    ``beta1 < sqrt(beta2)`` only. Beyond, m outlives v: old gradients are divided by a scale that has
    forgotten them.

    Source: Kingma & Ba, Adam (2015); Zhang et al., Adam Can Converge Without Any Modification (2022).
    Look at: ``update_absmax`` of the trainings: a few lr where beta1 is below ``sqrt(beta2)``, many beyond.

    Args:
        lr: Learning rate of the trainings.
        memories: Decays whose noise is measured.
        copies: Coordinates with noise of their own, the same for all decays.
        noise_steps: Steps under noise.
        beta1s: Of the grid.
        beta2s: Of the grid.
        worst_steps: Steps that the worst gradients are given.
        seeds: Trainings in each cell of the grid.
        steps: Of each training.
    """

    name = "moment-memory"
    claim = "Direction may be noisy, scale must be smooth: m must not outlive v, β1 < √β2"

    def __init__(
        self,
        lr: float = 0.1,
        memories: tuple[float, ...] = (0.9, 0.99, 0.999),
        copies: int = 500,
        noise_steps: int = 2000,
        beta1s: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99),
        beta2s: tuple[float, ...] = (0.1, 0.5, 0.9, 0.99, 0.999),
        worst_steps: int = 40,
        seeds: int = 32,
        steps: int = 200,
    ) -> None:
        positive("nothing would move", lr=lr)
        for name, values in {"memories": memories, "beta1s": beta1s, "beta2s": beta2s}.items():
            for value in values:
                decay(name, value)
        at_least("copies", copies, 128, "the variance of fewer is too uncertain to tell a formula by it")
        at_least("seeds", seeds, 7, "with fewer, no event at all still permits a share of one half")
        for name, count in {"noise_steps": noise_steps, "worst_steps": worst_steps}.items():
            at_least(name, count, 1, "a memory needs a step")
        at_least("steps", steps, 5, "the tables of the trainings are read every 5")
        self.lr, self.memories, self.copies, self.noise_steps = lr, memories, copies, noise_steps
        self.beta1s, self.worst_steps, self.seeds, self.steps = beta1s, worst_steps, seeds, steps
        self.grid = [Cell(beta1, beta2) for beta1 in beta1s for beta2 in beta2s]

    def run(self, lab: Lab) -> Outcome:
        """Pure noise, then the worst gradients, then trainings."""
        noise, spread = self._noise(lab)
        worst, lengths = self._worst(lab)
        bound = self._bound(lab)
        trained, shares = self._trained(lab)
        ends = "Trainings that end farther from the minimum than they began"
        figures = [
            Figure("What a memory leaves of the noise", "memory 1/(1-β)", "relative variance", spread),
            Figure(f"Step {self.worst_steps} of the worst gradients", "1-β2", "|update| / lr", lengths),
            Figure(ends, "β1/√β2", "share", shares, log_x=False, log_y=False),
        ]
        return Outcome([*noise, worst, bound, *trained], figures)

    def _noise(self, lab: Lab) -> tuple[list[Finding], Curves]:
        """Variances over the copies, each a row of the one table that is read."""
        module = Noise([Cell(beta, beta) for beta in self.memories], self.copies, start=0.0)
        table = _last_rows(lab, module, self.noise_steps, "noise")
        findings: list[Finding] = []
        memory = [1 / (1 - beta) for beta in self.memories]
        predicted: dict[str, list[float]] = {"m": [], "√v": [], "effective lr": []}
        measured: dict[str, list[float]] = {what: [] for what in predicted}
        for cell in module.cells:
            told, seen = self._told(cell.beta2), _seen(table, cell, self.copies)
            for what in predicted:
                predicted[what].append(told[what])
                measured[what].append(seen[what])
                # Only m is linear in the gradient: for the others the formula is a leading order.
                interval = 3 * math.sqrt(2 / self.copies) + (0.0 if what == "m" else 4 * told[what])
                claim = f"pure noise, β = {cell.beta2:g}: relative variance of {what}"
                findings.append(Finding(claim, told[what], seen[what], interval, reason=_SAMPLED))
        curves: Curves = {}
        for what in predicted:
            curves[f"measured, {what}"] = (memory, measured[what])
            curves[f"predicted, {what}"] = (memory, predicted[what])
            steps = [round(length) for length in memory]
            lab.draw("noise", f"variance of {what}, step is 1/(1-β)", steps, predicted[what], measured[what])
        return findings, curves

    def _told(self, beta: float) -> dict[str, float]:
        t, share = self.noise_steps, (1 - beta) / (1 + beta)
        root = share / 2 * (1 + beta**t) / (1 - beta**t)
        return {"m": share * (1 - beta ** (2 * t)), "√v": root, "effective lr": root}

    def _worst(self, lab: Lab) -> tuple[Finding, Curves]:
        """The gradients that make the inequality of Cauchy and Schwarz an equality."""
        t = self.worst_steps
        table = lab.train(WorstGradient(self.grid, t, lr=self.lr), steps=t, every_n_steps=t, name="worst")[-1]
        measured = np.array([table[cell.name, "update_absmax"] for cell in self.grid]) / self.lr
        predicted = np.array([cell.longest(t) for cell in self.grid])
        lab.draw("worst", "longest step, step is the cell", range(len(self.grid)), predicted.tolist(),
                 measured.tolist())  # fmt: skip
        curves: Curves = {}
        for beta1 in self.beta1s:
            here = [i for i, cell in enumerate(self.grid) if cell.beta1 == beta1]
            x = [1 - self.grid[i].beta2 for i in here]
            curves[f"measured, β1 = {beta1:g}"] = (x, measured[here].tolist())
            curves[f"predicted, β1 = {beta1:g}"] = (x, predicted[here].tolist())
        claim = f"step {t} of the worst gradients: largest relative deviation from the formula, whole grid"
        return Finding(claim, 0.0, float(np.abs(measured / predicted - 1).max()), 1e-6), curves

    def _bound(self, lab: Lab) -> Finding:
        """A training stays below what the worst gradients can do."""
        module = NoisyCurvature(self.grid, self.seeds, start=1.0, lr=self.lr)
        history = lab.train(module, steps=self.steps, every_n_steps=5, name="trainings")
        share = max(
            table[cell.name, "update_absmax"] / (self.lr * cell.longest(table.step + 1))
            for table in history
            for cell in self.grid
        )
        return Finding("training: longest step over the longest possible one", 1.0, share, 1e-9, "at most")

    def _trained(self, lab: Lab) -> tuple[list[Finding], Curves]:
        """The same trainings again, now with one row for each of them at the end."""
        module = NoisyCurvature(self.grid, self.seeds, start=1.0, lr=self.lr)
        table = _last_rows(lab, module, self.steps, "endings")
        shares = {cell: float((_rows(table, cell, self.seeds, "param_rms") > 1).mean()) for cell in self.grid}
        inside = [share for cell, share in shares.items() if cell.bounded]
        beyond = [share for cell, share in shares.items() if not cell.bounded]
        three = [3 / (self.seeds * max(1, len(part))) for part in (inside, beyond)]
        findings = [
            Finding("β1 < √β2: share of trainings that end farther than they began", 0.0, _mean(inside),
                    three[0], reason=_STILL_LONG),
            Finding("β1 ≥ √β2: the same share is beyond chance", three[1], _mean(beyond), 0.0, "at least",
                    reason=_RULE_OF_THREE),
            Finding("β1 ≥ √β2: share of cells with such trainings, said to be all", 1.0,
                    _mean([float(share > 0) for share in beyond]), 0.0, reason=_PERMITTED),
        ]  # fmt: skip
        curves: Curves = {"predicted limit": ([1.0, 1.0], [0.0, 1.0])}
        for beta1 in self.beta1s:
            here = sorted((c.beta1 / math.sqrt(c.beta2), s) for c, s in shares.items() if c.beta1 == beta1)
            curves[f"β1 = {beta1:g}"] = ([x for x, _ in here], [share for _, share in here])
        return findings, curves


def _last_rows(lab: Lab, module: Cells, steps: int, name: str) -> DynamicsTable:
    """The table of the last step, one row for each row of each parameter."""
    rows = {cell.name: torch.arange(module.rows) for cell in module.cells}
    return train_grouped(lab, module, rows, steps=steps, every_n_steps=steps, name=name)[-1]


def _rows(table: DynamicsTable, cell: Cell, count: int, column: str) -> FloatArray:
    values: FloatArray = np.array([table[f"{cell.name}[{i}]", column] for i in range(count)])
    return values


def _seen(table: DynamicsTable, cell: Cell, copies: int) -> dict[str, float]:
    """Variances over the copies, relative to the noise, to the mean square, and to the squared mean."""
    m, root, rate = (
        _rows(table, cell, copies, column)
        for column in ("first_moment_rms", "second_moment_rms", "effective_lr_max")
    )
    return {
        "m": float(np.square(m).mean()),  # its mean is 0, and the noise has the variance 1
        "√v": float(root.var() / np.square(root).mean()),
        "effective lr": float(rate.var() / rate.mean() ** 2),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
