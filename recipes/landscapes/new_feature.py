"""A feature that is silent at first becomes important: whose learning rate is left?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_adapt.dynamics import DynamicsHistory
from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.recipes.landscapes._checks import at_least, decay, positive
from lightning_adapt.recipes.landscapes._grouped import train_grouped
from lightning_adapt.recipes.landscapes._lab import Lab, Landscape
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study
from lightning_adapt.recipes.landscapes._travel import steps_to

Curves = dict[str, tuple[list[float], list[float]]]
EPS = 1e-10
_NAMES = {"adagrad": "Adagrad", "rmsprop": "RMSProp"}
_PASTS = {"noisy": "noise before", "shared": "shared with noise, before and after"}
_DRAWN = {("adagrad", "zero"), ("adagrad", "noisy"), ("adagrad", "shared"), ("rmsprop", "noisy")}
_INTERVAL = "three standard errors over the seeds"
_TEXTBOOK = (
    "v belongs to the coordinate, and zero gradients add nothing: a silent feature keeps its full rate"
)


class Appearing(Landscape):
    """Three parameters that feel a constant pull ``signal`` from step ``silent`` on, each with another past.

    ``zero`` had no gradient before, ``noisy`` had noise, ``shared`` has noise all the time, from the features
    that it is shared with. The two last ones have one row a seed.
    """

    def __init__(
        self,
        silent: int,
        signal: float,
        noise: float,
        seeds: int,
        start: float,
        optimizer: str,
        **options: Any,
    ) -> None:
        super().__init__(optimizer, **options)
        self.silent, self.signal, self.noise = silent, signal, noise
        # Far from 0: what `param_rms` shows is then the position itself.
        self.zero, self.noisy, self.shared = (
            nn.Parameter(torch.full((rows, 1), start, dtype=torch.float64)) for rows in (1, seeds, seeds)
        )
        self.generator = torch.Generator().manual_seed(0)

    def loss(self, step: int) -> Tensor:
        """``sum(gradient · x)`` with the gradients that the class is about."""
        shape = (2, *self.noisy.shape)
        noise = self.noise * torch.randn(shape, generator=self.generator, dtype=torch.float64)
        pull, before = (0.0, noise[0]) if step < self.silent else (self.signal, 0.0)
        terms = (pull * self.zero, (pull + before) * self.noisy, (pull + noise[1]) * self.shared)
        return torch.cat(terms).sum()


class NewFeature(Study):
    """After ``silent`` steps a feature begins to pull with gradient g. What v holds by then sets its speed.

    Adagrad's v is a sum over the coordinate's own past. Zero gradients leave 0: the rate is the full
    ``lr / |g|``. Noise of size sigma leaves ``silent · sigma²``: a way D then takes about
    ``(D / lr)·(sigma / |g|)·sqrt(silent) + (D / 2lr)²`` steps. RMSProp's v forgets: about ``D / lr`` steps. A
    parameter that is shared with a noisy feature has this past and goes on collecting noise.

    Source: Duchi, Hazan & Singer, Adaptive Subgradient Methods (2011); Kingma & Ba, Adam (2015).
    Look at: ``dynamics/effective_lr`` of ``noisy``: Adagrad's does not come back, RMSProp's never left.

    Args:
        silent: Steps before the feature appears.
        distance: D, which the parameter then has to go.
        lr: Learning rate.
        signal: The pull g.
        noise: Standard deviation of the noise.
        rho: Decay of RMSProp.
        seeds: Parameters with noise of their own.
    """

    name = "new-feature"
    claim = (
        "A new feature is slow under Adagrad if its parameter had noisy gradients before, not if it had none"
    )

    def __init__(
        self,
        silent: int = 300,
        distance: float = 1.0,
        lr: float = 0.025,
        signal: float = 1.0,
        noise: float = 1.0,
        rho: float = 0.99,
        seeds: int = 8,
    ) -> None:
        at_least("silent", silent, 20, "the feature must be new")
        at_least("seeds", seeds, 2, "one has no spread")
        positive("the feature would not move its parameter", distance=distance, lr=lr, signal=signal)
        at_least("noise", noise, 0, "it is a standard deviation")
        decay("rho", rho)
        self.silent, self.distance, self.lr, self.signal = silent, distance, lr, signal
        self.noise, self.rho, self.seeds = noise, rho, seeds

    def run(self, lab: Lab) -> Outcome:
        """Look at the first step of the feature, then count the steps of its way."""
        findings = self._arrivals(lab)
        ways: Curves = {}
        rates: Curves = {}
        counts: dict[str, dict[str, tuple[float, float, float]]] = {past: {} for past in ("zero", *_PASTS)}
        for optimizer, name in _NAMES.items():
            history = self._train(lab, optimizer)
            t = np.array(history.steps) + 1.0
            n = t[t > self.silent] - self.silent
            for past, of in counts.items():
                way, expected = self._way(history, past), self._path(optimizer, past, n)
                of[name] = (steps_to(self.distance, n, expected), *_steps_of_mean(self.distance, n, way))
                mean = way.mean(axis=1).tolist()
                lab.draw(optimizer, f"way, {past}", (t[-len(n) :] - 1).tolist(), expected.tolist(), mean)
                if (optimizer, past) in _DRAWN:
                    ways[f"measured, {name}, {past}"] = (n.tolist(), mean)
                    ways[f"predicted, {name}, {past}"] = (n.tolist(), expected.tolist())
            rate = self._rows(history, "noisy", "effective_lr_max").mean(axis=1)
            rates[f"measured, {name}, noisy"] = (t.tolist(), rate.tolist())
        predicted, needed, _ = counts["zero"]["Adagrad"]
        claim = f"zero before, Adagrad: steps to go {self.distance:g}, as a feature of the start"
        findings.append(Finding(claim, predicted, needed, 1e-6))
        for past in _PASTS:
            findings += self._counted(past, counts[past])
        after, rate_title = (
            "steps since the feature appeared",
            f"With noise, pulled after {self.silent} steps",
        )
        figures = [
            Figure("The way of a new feature, by its past", after, "way", ways),
            Figure(rate_title, "step", "effective learning rate", rates),
        ]
        return Outcome(findings, figures)

    def _arrivals(self, lab: Lab) -> list[Finding]:
        """The first step of the feature that was silent, the only one that is read."""
        t, beta1, beta2 = self.silent + 1, 0.9, 0.999
        tables = {
            optimizer: self._fit(lab, optimizer, steps=t, every=t, name=f"{optimizer}-arrival")[0]
            for optimizer in ("adagrad", "rmsprop", "adam")
        }
        full, rate = self.lr / (self.signal + EPS), tables["adagrad"]["zero", "effective_lr_max"]
        first = {name: table["zero", "update_rms"] / self.lr for name, table in tables.items()}
        adam = (1 - beta1) / (1 - beta1**t) / math.sqrt((1 - beta2) / (1 - beta2**t))
        return [
            Finding("zero before: Adagrad's rate when the feature appears, lr/|g|", full, rate, 1e-6),
            Finding("the same, said to have decayed to lr/(|g|√t)", full / math.sqrt(t), rate, 0.1,
                    reason=_TEXTBOOK),
            Finding("zero before: RMSProp's first step over lr, 1/√(1-ρ)",
                    1 / math.sqrt(1 - self.rho), first["rmsprop"], 1e-6),
            Finding("zero before: Adam's first step over lr, its correction used up",
                    adam, first["adam"], 1e-6),
        ]  # fmt: skip

    def _counted(self, past: str, of: dict[str, tuple[float, float, float]]) -> list[Finding]:
        """Steps of both optimizers and their ratio, of the mean way, with their standard errors."""
        findings, errors = [], []
        for name, (predicted, needed, error) in of.items():
            errors.append(error / needed)
            claim = f"{_PASTS[past]}, {name}: steps to go {self.distance:g}"
            interval = max(1e-6, 3 * errors[-1])
            findings.append(Finding(claim, predicted, needed, interval, reason=_INTERVAL))
        slow, fast = findings
        claim = f"{_PASTS[past]}: steps of Adagrad over those of RMSProp"
        predicted, measured = slow.predicted / fast.predicted, slow.measured / fast.measured
        interval = max(1e-6, 3 * math.hypot(*errors))
        ratio = Finding(claim, predicted, measured, interval, reason=_INTERVAL)
        return [*findings, ratio]

    def _train(self, lab: Lab, optimizer: str) -> DynamicsHistory:
        """Read about 40 times or some more, and once at the end of the silence."""
        ends = np.arange(1.0, self._longest())
        longest = max(
            steps_to(self.distance, ends, self._path(optimizer, p, ends)) for p in ("zero", *_PASTS)
        )
        wish = math.ceil((self.silent + longest) / 40)
        every = max(k for k in range(1, wish + 1) if self.silent % k == 0)
        after = math.ceil((longest + 4 * math.sqrt(longest)) / every) * every
        return self._fit(lab, optimizer, steps=self.silent + after, every=every, name=optimizer)

    def _longest(self) -> float:
        ratio, noise = self.distance / self.lr, self.noise / self.signal
        return 2 * (ratio * noise * math.sqrt(self.silent) + (1 + noise**2) * (ratio + ratio**2) + 10)

    def _fit(self, lab: Lab, optimizer: str, *, steps: int, every: int, name: str) -> DynamicsHistory:
        options = {"alpha": self.rho} if optimizer == "rmsprop" else {}
        module = Appearing(self.silent, self.signal, self.noise, self.seeds, 100 * self.distance, optimizer,
                            lr=self.lr, eps=EPS, **options)  # fmt: skip
        rows = {past: torch.arange(self.seeds) for past in _PASTS}
        return train_grouped(lab, module, rows, steps=steps, every_n_steps=every, name=name)

    def _rows(self, history: DynamicsHistory, past: str, column: str) -> FloatArray:
        """Shape ``(readings, seeds)``."""
        names = [past] if past == "zero" else [f"{past}[{seed}]" for seed in range(self.seeds)]
        values: FloatArray = np.array([[table[name, column] for name in names] for table in history])
        return values

    def _way(self, history: DynamicsHistory, past: str) -> FloatArray:
        """How far each row has come since the feature appeared."""
        position = self._rows(history, past, "param_rms")
        arrival = history.steps.index(self.silent - 1)
        way: FloatArray = position[arrival] - position[arrival + 1 :]
        return way

    def _path(self, optimizer: str, past: str, n: FloatArray) -> FloatArray:
        """Expected way after ``n`` steps: the sum of ``lr · g / (sqrt(v) + eps)``.

        Noise makes v vary, and v contains the gradient that it divides. To leading order the mean of
        ``g / sqrt(v)`` is ``1 + 3/8 · Var(v) / E[v]² - Cov(g, v) / 2gE[v]`` times ``g / sqrt(E[v])``.
        """
        k = np.arange(1.0, n[-1] + 1)
        before = 0.0 if past == "zero" else self.noise**2
        noise = self.noise**2 if past == "shared" else 0.0
        square = self.signal**2 + noise
        # Variances of g² for normal noise, before and after the feature appears.
        varied, varies = 2 * before**2, 2 * noise**2 + 4 * self.signal**2 * noise
        if optimizer == "adagrad":
            weight = 1.0
            v = before * self.silent + square * k
            variance = varied * self.silent + varies * k
        else:
            weight, forgotten = 1 - self.rho, self.rho**2
            start = before * (1 - self.rho**self.silent)
            v = square + (start - square) * self.rho**k
            kept = varied * (1 - forgotten**self.silent) * forgotten**k
            variance = weight**2 / (1 - forgotten) * (kept + varies * (1 - forgotten**k))
        mean = 1 + 0.375 * variance / v**2 - weight * noise / v
        lengths = self.lr * self.signal / (np.sqrt(v) + EPS) * mean
        way: FloatArray = np.cumsum(lengths)[n.astype(int) - 1]
        return way


def _steps_of_mean(distance: float, n: FloatArray, way: FloatArray) -> tuple[float, float]:
    """Steps that the mean over seeds takes, and their standard error, from leaving out each seed once.

    Not the mean of the seeds' steps: a walk with noise is counted where it has gone too far, so late.
    """
    steps, seeds = steps_to(distance, n, way.mean(axis=1)), way.shape[1]
    if seeds == 1 or not math.isfinite(steps):
        return steps, 0.0
    others = [steps_to(distance, n, np.delete(way, seed, axis=1).mean(axis=1)) for seed in range(seeds)]
    return steps, float(np.std(others)) * math.sqrt(seeds - 1)
