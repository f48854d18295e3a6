"""What Adagrad accumulates is the diagonal of the Fisher information, if labels come from the model."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_adapt.recipes.landscapes._checks import at_least, positive
from lightning_adapt.recipes.landscapes._fisher_models import (
    CLASSES,
    INPUTS,
    SEEDS,
    SIZES,
    OneStep,
    Sampled,
    exact,
    logits,
)
from lightning_adapt.recipes.landscapes._grouped import train_grouped
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study

Array = npt.NDArray[np.float64]
_INTERVAL = f"three standard errors over {SEEDS} seeds, {{:.2g}}; with lr above 0, F changes under way"
_LARGEST = "the 0.27 % level of the largest of as many scores; with lr above 0, F changes under way"


class Fisher(Study):
    """With labels drawn from the model and parameters fixed, ``E[sum of g²] = T · F_kk``: Adagrad's state.

    ``F = E_x E_{y ~ p(y|x)} [g gᵀ]`` with ``g = ∇ log p(y|x)``; the mean over n sums deviates from it by
    ``sqrt((E[g⁴] / F_kk² - 1) / (n T))``, relatively. With the labels of the data (the "empirical Fisher") it
    is another matrix. And ``F⁻¹ g`` is the same step of the function in all coordinates; a diagonal is not.

    Source: Amari, Natural Gradient Works Efficiently in Learning (1998); Kunstner, Balles & Hennig,
    Limitations of the Empirical Fisher Approximation (2019).
    Look at: ``second_moment_rms``, which grows as ``sqrt(T · F_kk)``.

    Args:
        lr: Learning rate; 0 keeps the parameters fixed.
        steps: T, read 16 times on the way.
        copies: Models in a row of the table, each with examples of its own.
        step_lr: Learning rate of the one step in two coordinate systems.
        seed: Of the random numbers.
    """

    name = "fisher"
    claim = "With labels drawn from the model, Adagrad accumulates the Fisher diagonal: E[Σg²] = T·F"

    def __init__(
        self, lr: float = 0.0, steps: int = 128, copies: int = 16, step_lr: float = 0.1, seed: int = 0
    ) -> None:
        at_least("lr", lr, 0, "with 0 the parameters stay where they are")
        at_least("steps", steps, 32, "fewer show no law")
        at_least("copies", copies, 4, "sums over fewer are far from normal")
        positive("it would be no step", step_lr=step_lr)
        self.lr, self.steps, self.copies, self.step_lr, self.seed = lr, steps, copies, step_lr, seed

    def run(self, lab: Lab) -> Outcome:
        """Accumulate for two models and two kinds of labels, then step in two coordinate systems."""
        random = torch.Generator().manual_seed(self.seed)
        x = torch.randn(32, INPUTS, generator=random, dtype=torch.float64)
        labels = torch.randint(CLASSES, (32,), generator=random)
        findings: list[Finding] = []
        curves: dict[str, tuple[list[float], list[float]]] = {}
        for hidden, coordinates in SIZES.items():
            theta = torch.randn(coordinates, generator=random, dtype=torch.float64)
            name = "network" if hidden else "softmax"
            found, drawn = self._accumulate(lab, theta, x, hidden, labels, name)
            findings += found
            curves |= drawn
        theta = torch.randn(SIZES[0], generator=random, dtype=torch.float64)
        change = torch.randn(SIZES[0], SIZES[0], generator=random, dtype=torch.float64)
        findings += self._coordinates(lab, theta, x, labels, change)
        title = "Adagrad's accumulator against the Fisher diagonal"
        return Outcome(findings, [Figure(title, "step T", "mean |G/T - F| / F", curves)])

    def _accumulate(
        self, lab: Lab, theta: Tensor, x: Tensor, hidden: int, labels: Tensor, name: str
    ) -> tuple[list[Finding], dict[str, tuple[list[float], list[float]]]]:
        gradient, p = exact(theta, x, hidden)
        square = gradient.square()
        fisher, spread, skew = _moments(square, p)
        spread = spread / math.sqrt(self.copies)  # of one row after one step, relative
        t, own = self._deviations(lab, theta, x, hidden, None, fisher, name)
        means = np.abs(own).mean(1)  # shape (readings, seeds)
        measured = means.mean(1)
        predicted = math.sqrt(2 / math.pi) * spread.mean() / np.sqrt(t)  # mean of |normal|
        lab.draw(name, "mean |G/T - F| / F", (t - 1).tolist(), predicted.tolist(), measured.tolist())
        scores = own[-1] * math.sqrt(t[-1]) / spread[:, None]
        # The largest of as many normal scores is below z; sums of squares lean to the right of normal ones.
        z = NormalDist().inv_cdf(1 - 0.00135 / scores.size)
        largest = z + (z**2 - 1) / 6 * skew.max() / math.sqrt(self.copies * t[-1])
        summed = self.copies * t >= 100  # sums of fewer are not normal, and their deviations are smaller
        slopes = np.polyfit(np.log(t[summed]), np.log(means[summed]), 1)[0]
        # The labels of the data: the same at every visit of an input.
        chosen, one = square[:, torch.arange(len(x)), labels][:, :, None], torch.ones(len(x), 1)
        level, sigma, _ = _moments(chosen, one)
        t_data, other = self._deviations(lab, theta, x, hidden, labels, fisher, f"{name}-data", readings=2)
        wrong = np.abs(other).mean(1)
        noise = level / fisher * sigma / math.sqrt(self.copies * t_data[-1])
        folded = _mean_size(level / fisher - 1, noise)
        findings = [
            _mean_of(f"{name}: mean |G/T - F|/F", float(predicted[-1]), means[-1]),
            Finding(f"{name}: largest deviation in standard errors", float(largest),
                    float(np.abs(scores).max()), 0, "at most", reason=_LARGEST),
            _mean_of(f"{name}: it shrinks as T to the power", -0.5, slopes),
            _mean_of(f"{name}, labels of the data: mean |G/T - F|/F", float(folded.mean()), wrong[-1]),
        ]  # fmt: skip
        drawn = {
            f"{name}, labels of the model": (t.tolist(), measured.tolist()),
            f"predicted, {name}": (t.tolist(), predicted.tolist()),
            f"{name}, labels of the data": (t_data.tolist(), wrong.mean(1).tolist()),
        }
        return findings, drawn

    def _deviations(
        self,
        lab: Lab,
        theta: Tensor,
        x: Tensor,
        hidden: int,
        labels: Tensor | None,
        fisher: Array,
        name: str,
        readings: int = 16,
    ) -> tuple[Array, Array]:
        """T, and ``G/T/F - 1`` for each T, coordinate and seed."""
        module = Sampled(theta, x, hidden, labels, self.copies, self.seed, self.lr)
        rows = {"theta": torch.arange(len(theta) * SEEDS)}
        every = max(1, self.steps // readings)
        history = train_grouped(lab, module, rows, steps=self.steps, name=name, every_n_steps=every)
        t = np.array(history.steps) + 1.0
        sums = np.stack([table["second_moment_rms"] for table in history]) ** 2
        return t, sums.reshape(len(t), -1, SEEDS) / t[:, None, None] / fisher[:, None] - 1

    def _coordinates(
        self, lab: Lab, theta: Tensor, x: Tensor, labels: Tensor, change: Tensor
    ) -> list[Finding]:
        """One step in ``theta`` and in ``phi``; no table has logits: the module is asked for them."""
        names = {
            "natural": "natural gradient",
            "diagonal": "natural gradient, diagonal",
            "adagrad": "Adagrad",
            "sgd": "gradient descent",
        }
        findings = []
        for method, title in names.items():
            predicted, measured = [], []
            for label, matrix in (("theta", torch.eye(len(theta), dtype=torch.float64)), ("phi", change)):
                module = OneStep(theta, x, labels, matrix, method, self.step_lr)
                before = module.outputs().detach()
                (gradient,) = torch.autograd.grad(module.loss(0), module.phi)
                moved = module.phi.detach() - self.step_lr * module.direction(gradient)
                predicted.append(logits((matrix @ moved)[:, None].expand(-1, len(x)), x, 0) - before)
                lab.train(module, steps=1, name=f"{method}-{label}")
                measured.append(module.outputs().detach() - before)
            told, seen = (float((b - a).norm() / a.norm()) for a, b in (predicted, measured))
            told = 0.0 if method == "natural" else told  # F⁻¹ turns with the coordinates
            findings.append(
                Finding(f"{title}: its step of the function differs in new coordinates by", told, seen, 1e-6)
            )
        return findings


def _moments(square: Tensor, p: Tensor) -> tuple[Array, Array, Array]:
    """Of the squared gradients under ``p``, for each coordinate: mean, relative spread, and skewness."""
    mean, second, third = ((square**power * p).sum(2).mean(1).numpy() for power in (1, 2, 3))
    variance = second - mean**2
    skew = (third - 3 * mean * variance - mean**3) / variance**1.5
    return mean, np.sqrt(variance) / mean, skew


def _mean_size(mean: Array, spread: Array) -> Array:
    """Mean of |x| of a normal x: noise makes a deviation larger on average."""
    ratio = mean / (spread * math.sqrt(2))
    sizes: Array = math.sqrt(2 / math.pi) * spread * np.exp(-(ratio**2)) + mean * np.vectorize(math.erf)(
        ratio
    )
    return sizes


def _mean_of(claim: str, predicted: float, seeds: Array) -> Finding:
    """The mean over seeds, with the interval that their spread gives."""
    interval = 3 * float(seeds.std(ddof=1)) / math.sqrt(len(seeds))
    reason = _INTERVAL.format(interval)
    return Finding(claim, predicted, float(seeds.mean()), interval, absolute=True, reason=reason)
