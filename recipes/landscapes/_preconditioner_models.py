"""Models of the preconditioner study: a noisy regression at its minimum, and a network with its Hessian."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_adapt.dynamics import exact_hessian
from lightning_adapt.recipes.landscapes._fisher_models import INPUTS, SIZES, exact, logits
from lightning_adapt.recipes.landscapes._lab import Landscape

HIDDEN = 3


class NoisyRegression(Landscape):
    """Linear regression at its minimum, an example a step for each copy: H is the inputs' variance, ``L``.

    Args:
        variances: Of the inputs, shape ``(kappas, n)``.
        seeds: Rows of the table for every coordinate.
        copies: Of a row.
        optimizer: Name of a factory.
        **options: Of the factory.
    """

    def __init__(self, variances: Tensor, seeds: int, copies: int, optimizer: str, **options: Any) -> None:
        super().__init__(optimizer, lr=0.0, **options)
        self.scale, self.shape = variances.sqrt()[..., None, None], (*variances.shape, seeds, copies)
        self.z = nn.Parameter(torch.zeros(self.shape, dtype=torch.float64).reshape(-1, copies))
        self.generator = torch.Generator().manual_seed(0)

    def loss(self, step: int) -> Tensor:
        """Half the squared error, of targets that are noise of variance 1."""
        inputs = self.scale * torch.randn(self.shape, generator=self.generator, dtype=torch.float64)
        noise = torch.randn(inputs[:, 0].shape, generator=self.generator, dtype=torch.float64)
        return ((inputs * self.z.view(self.shape)).sum(1) - noise).square().sum() / 2


class Network(Landscape):
    """Small tanh networks, one a seed, that learn a teacher's probabilities; the parameter is flat.

    Args:
        seeds: How many.
        batch: Examples a step with labels drawn from the teacher; 0 takes all inputs and probabilities.
        optimizer: Name of a factory.
        **options: Of the factory.
    """

    def __init__(self, seeds: int, batch: int, optimizer: str, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.generator = torch.Generator().manual_seed(0)
        self.x = self._normal(64, INPUTS) * torch.tensor([3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
        self.seeds, self.batch = seeds, batch
        self.targets = self._logits(self._normal(SIZES[HIDDEN], seeds), self.x).softmax(-1)
        self.theta = nn.Parameter(self._normal(SIZES[HIDDEN] * seeds))
        #: The parameter before each step, where its gradient was taken.
        self.places: list[Tensor] = []

    def loss(self, step: int) -> Tensor:
        """Sum over the networks of the mean cross-entropy."""
        self.places.append(self.theta.detach().clone())
        if not self.batch:
            return self.whole_loss(self.theta)
        chosen = torch.randint(len(self.x), (self.batch,), generator=self.generator)
        output = self._logits(self.theta.view(-1, self.seeds), self.x[chosen])
        chances = self.targets[:, chosen].flatten(0, 1)
        labels = chances.multinomial(1, generator=self.generator).squeeze(1)
        return cross_entropy(output.flatten(0, 1), labels, reduction="sum") / self.batch

    def whole_loss(self, theta: Tensor) -> Tensor:
        """On all inputs, with the teacher's probabilities as targets."""
        output = self._logits(theta.view(-1, self.seeds), self.x)
        return cross_entropy(output.flatten(0, 1), self.targets.flatten(0, 1), reduction="sum") / len(self.x)

    def hessians(self, place: Tensor) -> Tensor:
        """Of each network, shape ``(seeds, n, n)``."""
        theta = place.clone().requires_grad_()
        size = len(theta) // self.seeds
        blocks = exact_hessian(lambda: self.whole_loss(theta), [theta])
        return blocks.view(size, self.seeds, size, self.seeds).diagonal(dim1=1, dim2=3).permute(2, 0, 1)

    def squares(self, place: Tensor) -> Tensor:
        """``E[g²]`` over single examples and the teacher's labels, by enumeration: ``(seeds, n)``."""
        found = []
        for theta, targets in zip(place.view(-1, self.seeds).T, self.targets, strict=True):
            gradient, _ = exact(theta, self.x, HIDDEN)
            found.append((gradient.square() * targets).sum(2).mean(1))
        return torch.stack(found)

    def _logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Shape ``(seeds, inputs, classes)``, for ``theta`` of shape ``(n, seeds)``."""
        output = logits(theta.repeat_interleave(len(x), 1), x.repeat(self.seeds, 1), HIDDEN)
        return output.view(self.seeds, len(x), -1)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)
