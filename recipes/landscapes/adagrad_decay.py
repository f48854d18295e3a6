"""Adagrad's effective learning rate only falls."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_adapt.recipes.landscapes._checks import at_least, positive
from lightning_adapt.recipes.landscapes._grouped import train_grouped
from lightning_adapt.recipes.landscapes._lab import Lab, Landscape
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study
from lightning_adapt.recipes.nlp.text_data import embedded_text


class ConstantGradient(Landscape):
    """``loss = sum(gradient · x)``: the same gradient at every step."""

    gradient: Tensor

    def __init__(self, gradient: Tensor, optimizer: str, **options: object) -> None:
        super().__init__(optimizer, **options)
        self.x = nn.Parameter(torch.zeros_like(gradient))
        self.register_buffer("gradient", gradient)

    def loss(self, step: int) -> Tensor:
        """``sum(gradient · x)``."""
        return (self.gradient * self.x).sum()


class AdagradDecay(Study):
    """Adagrad sums squared gradients, so a constant gradient g gives ``lr / (|g|·sqrt(t) + eps)`` at step t.

    The curve is exact at every step and falls in every coordinate, also in a real training with noise.

    Source: Duchi, Hazan & Singer, Adaptive Subgradient Methods (2011).
    Look at: ``dynamics/effective_lr_p50`` on log axes, a straight line of slope -1/2.

    Args:
        lr: Learning rate.
        gradient: The constant gradient of the middle coordinate; the others have a tenth and ten times it.
        steps: Steps of the exact part.
        noisy_steps: Steps of the training with noise, and of a small network on text.
    """

    name = "adagrad-decay"
    claim = "Adagrad's effective learning rate only falls; a constant gradient gives lr / (|g|·√t + ε)"

    def __init__(
        self, lr: float = 0.1, gradient: float = 2.0, steps: int = 200, noisy_steps: int = 200
    ) -> None:
        positive("Adagrad would have no rate to show", lr=lr, gradient=gradient)
        at_least("steps", steps, 1, "the curve needs a step")
        at_least("noisy_steps", noisy_steps, 2, "a rise is between two steps")
        self.lr, self.gradient, self.steps, self.noisy_steps = lr, gradient, steps, noisy_steps

    def run(self, lab: Lab) -> Outcome:
        """Compare the curve at every step, then count rises under noise."""
        g = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64) * self.gradient
        module = ConstantGradient(g, "adagrad", lr=self.lr, eps=1e-10)
        history = lab.train(module, steps=self.steps, name="constant")
        t = np.array(history.steps) + 1
        sizes = {"effective_lr_max": 0.1, "effective_lr_min": 10.0}
        predicted = {c: self.lr / (s * self.gradient * np.sqrt(t) + 1e-10) for c, s in sizes.items()}
        measured = {c: np.array([table["x", c] for table in history]) for c in sizes}
        worst = float(max(np.abs(measured[c] / predicted[c] - 1).max() for c in sizes))
        for column in sizes:
            lab.draw("constant", column, history.steps, predicted[column].tolist(), measured[column].tolist())
        rises, noisy = self._noisy(lab)
        return Outcome(
            [
                Finding("largest relative deviation from lr/(|g|√t+ε), every step", 0.0, worst, 1e-6),
                Finding("rises of any coordinate's rate under noisy gradients", 0.0, rises, 0.0),
                Finding(
                    "rises of the largest or smallest rate of any row of a network that learns text",
                    0.0,
                    self._network(lab),
                    0.0,
                ),
            ],
            [
                Figure(
                    "Adagrad under a constant gradient",
                    "step",
                    "effective learning rate",
                    {
                        "measured, small gradient": (t.tolist(), measured["effective_lr_max"].tolist()),
                        "predicted, small gradient": (t.tolist(), predicted["effective_lr_max"].tolist()),
                        "measured, large gradient": (t.tolist(), measured["effective_lr_min"].tolist()),
                        "predicted, large gradient": (t.tolist(), predicted["effective_lr_min"].tolist()),
                        "noisy training, median": noisy,
                    },
                )
            ],
        )

    def _network(self, lab: Lab) -> float:
        """If no coordinate's rate rises, neither does the largest nor the smallest of any row."""
        module = NextLetter(embedded_text()[:64], lr=self.lr)
        rows = {name: torch.arange(len(weight)) for name, weight in module.named_parameters()}
        history = train_grouped(lab, module, rows, steps=self.noisy_steps, name="network", every_n_steps=1)
        rates = np.array([[table["effective_lr_max"], table["effective_lr_min"]] for table in history])
        return float((np.diff(rates, axis=0) > 0).sum())

    def _noisy(self, lab: Lab) -> tuple[float, tuple[list[float], list[float]]]:
        """A small regression with noise: one row a coordinate, so that each rate is seen by itself."""
        history = lab.train(NoisyRegression(8, lr=self.lr), steps=self.noisy_steps, name="noisy")
        rates = np.array([table["effective_lr_p50"] for table in history])
        rises = float((np.diff(rates, axis=0) > 0).sum())
        return rises, ((np.array(history.steps) + 1.0).tolist(), np.median(rates, axis=1).tolist())


class NextLetter(Landscape):
    """One hidden layer that learns which letter follows which in a text, one letter a step in turn."""

    def __init__(self, text: str, **options: object) -> None:
        super().__init__("adagrad", **options)
        letters = sorted(set(text))
        self.ids = torch.tensor([letters.index(letter) for letter in text])
        random = torch.Generator().manual_seed(0)
        self.table, self.out = (
            nn.Parameter(torch.randn(len(letters), 8, generator=random, dtype=torch.float64))
            for _ in range(2)
        )

    def loss(self, step: int) -> Tensor:
        """Cross-entropy of the next letter."""
        now = step % (len(self.ids) - 1)
        scores = self.table[self.ids[now]].tanh() @ self.out.T
        return cross_entropy(scores, self.ids[now + 1])


class NoisyRegression(Landscape):
    """Linear regression on random batches, every weight a parameter of its own."""

    def __init__(self, size: int, **options: object) -> None:
        super().__init__("adagrad", **options)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(size)
        )
        self.generator = torch.Generator().manual_seed(0)

    def loss(self, step: int) -> Tensor:
        """Mean squared error on a batch of 16."""
        x = torch.randn(16, len(self.weights), generator=self.generator, dtype=torch.float64)
        noise = torch.randn(16, generator=self.generator, dtype=torch.float64)
        return (x @ torch.cat(list(self.weights)) - x.sum(1) - noise).square().mean()
