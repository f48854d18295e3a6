"""The models of the Fisher study, whose Fisher information is known exactly as labels can be listed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from lightning_adapt.recipes.landscapes._lab import Landscape

INPUTS, CLASSES = 4, 3
#: Trainings side by side, each a row of the table for every coordinate.
SEEDS = 16
#: Hidden units -> coordinates. 0 is softmax regression; the last class has logit 0, so that F has an inverse.
SIZES = {0: (CLASSES - 1) * INPUTS, 3: 3 * (INPUTS + CLASSES - 1)}


def logits(theta: Tensor, x: Tensor, hidden: int) -> Tensor:
    """Logits, shape ``(n, CLASSES)``, of n models ``theta``, shape ``(coordinates, n)``, an input each."""
    if hidden:
        first, theta = theta[: hidden * INPUTS], theta[hidden * INPUTS :]
        x = torch.einsum("hin,ni->nh", first.reshape(hidden, INPUTS, -1), x).tanh()
    return pad(torch.einsum("cin,ni->nc", theta.reshape(CLASSES - 1, -1, theta.shape[-1]), x), (0, 1))


def exact(theta: Tensor, x: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """Gradients of log p(y|x), shape ``(coordinates, inputs, classes)``, and p(y|x), by enumeration."""
    pairs = x.repeat_interleave(CLASSES, 0)
    copies = theta[:, None].repeat(1, len(pairs)).requires_grad_()
    output = logits(copies, pairs, hidden)
    loss = cross_entropy(output, torch.arange(CLASSES).repeat(len(x)), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, copies)
    return gradient.reshape(len(theta), len(x), CLASSES), output.detach()[::CLASSES].softmax(1)


class Sampled(Landscape):
    """Many copies of one model; at every step each takes the gradient of one example of its own."""

    def __init__(
        self, theta: Tensor, x: Tensor, hidden: int, labels: Tensor | None, copies: int, seed: int, lr: float
    ) -> None:
        super().__init__("adagrad", lr=lr, eps=1e-10)
        # A row is a coordinate of one seed: the table's mean over a row is one over ``copies`` models.
        self.theta = nn.Parameter(theta.repeat_interleave(SEEDS)[:, None].repeat(1, copies))
        self.x, self.hidden, self.labels = x, hidden, labels
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, step: int) -> Tensor:
        """Sum of the models' losses, so that each gets the gradient of its own example."""
        count = SEEDS * self.theta.shape[1]
        chosen = torch.randint(len(self.x), (count,), generator=self.generator)
        output = logits(self.theta.reshape(-1, count), self.x[chosen], self.hidden)
        if self.labels is None:
            y = output.detach().softmax(1).multinomial(1, generator=self.generator).squeeze(1)
        else:
            y = self.labels[chosen]
        return cross_entropy(output, y, reduction="sum")


class OneStep(Landscape):
    """Softmax regression in the coordinates ``theta = change @ phi``; one step on all examples."""

    def __init__(
        self, theta: Tensor, x: Tensor, labels: Tensor, change: Tensor, method: str, lr: float
    ) -> None:
        if method == "adagrad":
            super().__init__("adagrad", lr=lr, eps=1e-10)
        else:
            super().__init__("sgd", lr=lr)  # on a gradient that is preconditioned first
        self.phi = nn.Parameter(torch.linalg.solve(change, theta))
        self.x, self.labels, self.change, self.method = x, labels, change, method

    def outputs(self) -> Tensor:
        """Logits of all examples, shape ``(examples, CLASSES)``."""
        return logits((self.change @ self.phi)[:, None].expand(-1, len(self.x)), self.x, 0)

    def loss(self, step: int) -> Tensor:
        """Mean cross-entropy."""
        return cross_entropy(self.outputs(), self.labels)

    def fisher(self) -> Tensor:
        """``F = changeᵀ E[g gᵀ] change``, by enumeration."""
        gradient, p = exact((self.change @ self.phi).detach(), self.x, 0)
        return self.change.T @ torch.einsum("anc,bnc,nc->ab", gradient, gradient, p / len(p)) @ self.change

    def direction(self, gradient: Tensor) -> Tensor:
        """What ``phi`` moves against."""
        if self.method == "natural":
            solved: Tensor = torch.linalg.solve(self.fisher(), gradient)
            return solved
        if self.method == "diagonal":
            return gradient / self.fisher().diag()
        return gradient.sign() if self.method == "adagrad" else gradient

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Precondition the gradient; Adagrad does so by itself."""
        assert self.phi.grad is not None
        if self.method != "adagrad":
            self.phi.grad = self.direction(self.phi.grad)
