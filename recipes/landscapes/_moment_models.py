"""Landscapes with one parameter for each pair of decays: noise, the worst gradients, noisy curvature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_adapt.recipes.landscapes._lab import Landscape


@dataclass(frozen=True)
class Cell:
    """A pair of Adam's decays."""

    beta1: float
    beta2: float

    @property
    def name(self) -> str:
        """Of its parameter, such as ``b0p9_b0p999``: names of parameters have no dots."""
        return f"b{self.beta1:g}_b{self.beta2:g}".replace(".", "p")

    @property
    def bounded(self) -> bool:
        """Whether no gradients at all can cause steps without bound."""
        return self.beta1 < math.sqrt(self.beta2)

    def longest(self, t: int) -> float:
        """Longest step t that any gradients can cause, in units of lr (Cauchy and Schwarz)."""
        with np.errstate(over="ignore"):  # the largest cells leave float64 after some hundred steps
            total = float(np.power(self.beta1**2 / self.beta2, np.arange(t)).sum())
        corrections = math.sqrt(1 - self.beta2**t) / (1 - self.beta1**t)
        return (1 - self.beta1) * math.sqrt(total / (1 - self.beta2)) * corrections


class Cells(Landscape):
    """One parameter a cell, shape ``(rows, 1)``, each in a parameter group with its own decays.

    The gradient does not depend on the cell, unless a subclass says so: all are compared on the same noise.
    """

    def __init__(self, cells: Sequence[Cell], rows: int, start: float, **options: Any) -> None:
        overrides = {cell.name: {"betas": (cell.beta1, cell.beta2)} for cell in cells}
        super().__init__("adam", overrides=overrides, eps=1e-16, **options)
        self.cells, self.rows = cells, rows
        for cell in cells:
            self.register_parameter(
                cell.name, nn.Parameter(torch.full((rows, 1), start, dtype=torch.float64))
            )
        self.generator = torch.Generator().manual_seed(0)

    def points(self) -> Tensor:
        """All parameters, shape ``(cells, rows)``."""
        return torch.cat([self.get_parameter(cell.name) for cell in self.cells], dim=1).T

    def normal(self) -> Tensor:
        """Standard normal numbers, shape ``(rows,)``."""
        return torch.randn(self.rows, generator=self.generator, dtype=torch.float64)


class Noise(Cells):
    """The gradient is standard normal noise."""

    def loss(self, step: int) -> Tensor:
        """``sum(noise · x)``."""
        return (self.normal() * self.points()).sum()


class NoisyCurvature(Cells):
    """Regression without intercept on one example a step: the gradient is ``a²·x``, a normal."""

    def loss(self, step: int) -> Tensor:
        """Half the squared error."""
        return 0.5 * (self.normal() * self.points()).square().sum()


class WorstGradient(Cells):
    """The gradients with the longest step ``t``: ``(beta1/beta2)**(t - k)`` at step k."""

    def __init__(self, cells: Sequence[Cell], t: int, **options: Any) -> None:
        super().__init__(cells, rows=1, start=0.0, **options)
        self.t = t

    def loss(self, step: int) -> Tensor:
        """``sum(gradient · x)``, one gradient a cell."""
        ago = self.t - 1 - step
        gradient = [(cell.beta1 / cell.beta2) ** ago for cell in self.cells]
        return (torch.tensor(gradient, dtype=torch.float64)[:, None] * self.points()).sum()
