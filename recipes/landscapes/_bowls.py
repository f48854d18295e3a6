"""Quadratic bowls, many side by side in one training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.recipes.landscapes._grouped import train_grouped
from lightning_adapt.recipes.landscapes._lab import Lab, Landscape

#: Coordinates of every bowl.
SIZE = 10


def curvatures(kappa: float) -> Tensor:
    """``SIZE`` eigenvalues, from ``1 / kappa`` to 1 in equal ratios."""
    return float(kappa) ** torch.linspace(-1, 0, SIZE, dtype=torch.float64)


def bowls(kappas: Sequence[float], seeds: int, rotated: bool) -> tuple[Tensor, Tensor]:
    """Hessians, shape ``(kappas, seeds, SIZE, SIZE)``, and normal random starts; a start for all ``kappas``.

    Args:
        kappas: Condition numbers.
        seeds: How many starts.
        rotated: Turn the axes by a random orthogonal matrix, one a seed.
    """
    hessians, starts = [], []
    for seed in range(seeds):
        random = torch.Generator().manual_seed(seed)
        starts.append(torch.randn(SIZE, generator=random, dtype=torch.float64))
        # The signs make it uniform over all orthogonal matrices (Mezzadri 2007).
        q, r = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=random, dtype=torch.float64))
        turn = q * r.diag().sign() if rotated else torch.eye(SIZE, dtype=torch.float64)
        hessians.append(torch.stack([(turn * curvatures(kappa)) @ turn.T for kappa in kappas]))
    return torch.stack(hessians, 1), torch.stack(starts).repeat(len(kappas), 1, 1)


class Bowls(Landscape):
    """The sum of ``xᵀ H x / 2`` over all bowls, each with a learning rate of its own.

    One parameter holds them all, ``x = unit · z``, and the optimizer moves z at rate 1: then x moves at rate
    ``unit²`` under gradient descent and at rate ``unit`` where the step does not depend on the gradient's
    scale (up to epsilon). ``param_rms`` over its start is the distance to the minimum over its start.

    Args:
        hessians: Shape ``(rows, …, SIZE, SIZE)``.
        starts: Shape ``(rows, …, SIZE)``.
        rates: Learning rates, broadcast to ``(rows, …)``.
        optimizer: Name of a factory.
        preconditioner: Multiplies the gradient, shape of ``hessians``.
        **options: Of the factory.
    """

    def __init__(
        self,
        hessians: Tensor,
        starts: Tensor,
        rates: Tensor | float,
        optimizer: str,
        preconditioner: Tensor | None = None,
        **options: object,
    ) -> None:
        super().__init__(optimizer, lr=1.0, **options)
        rates = torch.as_tensor(rates, dtype=torch.float64)
        self.unit = (rates.sqrt() if optimizer == "sgd" else rates)[..., None]
        self.hessians, self.preconditioner = hessians, preconditioner
        self.shape = starts.shape
        self.z = nn.Parameter((starts / self.unit).flatten())
        #: Of every bowl to its minimum, before each step: for tuning, as a table a step would take long.
        self.distances: list[Tensor] = []

    def loss(self, step: int) -> Tensor:
        """Sum over all bowls."""
        z = self.z.view(self.shape)
        self.distances.append(z.detach().norm(dim=-1))
        x = self.unit * z
        return (x * _times(self.hessians, x)).sum() / 2

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Precondition the gradient."""
        if self.preconditioner is not None and self.z.grad is not None:
            self.z.grad = _times(self.preconditioner, self.z.grad.view(self.shape)).flatten()


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[..., None])[..., 0]


def condition(hessians: Tensor, diagonal: Tensor) -> Tensor:
    """Condition numbers of ``D^(-1/2) H D^(-1/2)``, by the absolute values of eigenvalues.

    Args:
        hessians: Shape ``(…, n, n)``.
        diagonal: Of D, shape ``(…, n)``, positive.
    """
    root = diagonal.rsqrt()
    values = torch.linalg.eigvalsh(root[..., :, None] * hessians * root[..., None, :]).abs()
    ratios: Tensor = values.amax(-1) / values.amin(-1)
    return ratios


def train(
    lab: Lab, module: Bowls, *, steps: int, name: str, every_n_steps: int = 1
) -> tuple[FloatArray, FloatArray]:
    """Train with a row of the table for each of the first dimension of the starts.

    Returns:
        Steps taken, from 0, and the distance to the minimum over that of the start, ``(readings, rows)``.
    """
    count = module.shape[0]
    rows = torch.arange(count).repeat_interleave(module.z.numel() // count)
    start = module.z.detach().view(count, -1).square().mean(1).sqrt().numpy().copy()
    history = train_grouped(lab, module, {"z": rows}, steps=steps, name=name, every_n_steps=every_n_steps)
    left = np.stack([np.ones(count), *(table["param_rms"] / start for table in history)])
    return np.array([0.0, *(step + 1.0 for step in history.steps)]), left
