"""What is trained for `weight_decay`, and what Adam's formula says about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.recipes.gnn._pyg import Data
from lightning_adapt.recipes.gnn.node_classification import NodeClassifier
from lightning_adapt.recipes.landscapes._lab import Landscape

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
ADAM: dict[str, Any] = {"betas": (BETA1, BETA2), "eps": EPS}
#: The first layer's weight in the table, one row a word.
WORDS = "net.conv1.lin.weight"


class Alternating(Landscape):
    """Weights of 1 whose gradient is +g, -g, +g, …: it has a size, but leads nowhere."""

    def __init__(self, scales: Sequence[float], optimizer: str, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.scales = scales
        self.x = nn.ParameterList(nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in scales)

    def loss(self, step: int) -> Tensor:
        """``sum(±g · x)``."""
        terms = [scale * x.sum() for scale, x in zip(self.scales, self.x, strict=True)]
        return torch.stack(terms).sum() * (-1.0 if step % 2 else 1.0)


class Repeated:
    """A loader that yields ``graph`` ``times`` times."""

    def __init__(self, graph: Data, times: int) -> None:
        self.graph, self.times = graph, times

    def __len__(self) -> int:
        """Batches."""
        return self.times

    def __iter__(self) -> Iterator[Data]:
        """Yield the same graph again and again."""
        return repeat(self.graph, self.times)


class WordRows(nn.Module):
    """A linear layer whose weight has one row an input: `RowGroups` groups rows."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(features, hidden)))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight``, shape ``(nodes, hidden)``."""
        return x @ self.weight


class Words(NodeClassifier):
    """The recipe's GCN with `WordRows` as its first layer, in float64.

    Args:
        features: Words.
        classes: Of the nodes.
        **options: Of `NodeClassifier`.
    """

    def __init__(self, features: int, classes: int, **options: Any) -> None:
        super().__init__(features=features, classes=classes, **options)
        net: Any = self.net
        net.conv1.lin = WordRows(features, net.conv1.out_channels)
        net.conv1.cached = net.conv2.cached = True  # there is only one graph to normalise
        self.double()

    def rows(self, words: Tensor) -> FloatArray:
        """The first layer's weights of ``words``, a mask, flat."""
        weight: Tensor = self.get_parameter(WORDS).detach()
        return weight[words].flatten().numpy().copy()

    @torch.no_grad()
    def accuracy(self, graph: Data) -> float:
        """Share of the test nodes whose class is found."""
        self.eval()
        right = self(graph.x, graph.edge_index).argmax(1) == graph.y
        return float(right[graph.test_mask].double().mean())


def unreached(graph: Data) -> Tensor:
    """Words that no training node has, nor any node two edges away: two layers never see them.

    Args:
        graph: With ``x`` of shape ``(nodes, words)``, ``edge_index`` and ``train_mask``.

    Returns:
        Shape ``(words,)``, bool.
    """
    seen, (source, target) = graph.train_mask.clone(), graph.edge_index
    for _ in range(2):
        seen[target[seen[source]]] = True
    missing: Tensor = graph.x.to_dense()[seen].sum(0) == 0
    return missing


def adam_with_l2(
    start: FloatArray, data: FloatArray, lr: float, weight_decay: float
) -> tuple[FloatArray, FloatArray]:
    """Adam's formula in float64 for weights whose data gradients are known.

    Args:
        start: Weights, shape ``(n,)``.
        data: Data gradient of each step, shape ``(steps, n)``.
        lr: Learning rate.
        weight_decay: L2: ``weight_decay · θ`` joins the gradient.

    Returns:
        The weights after each step, and L2's part of the step, ``lr · weight_decay · θ / (sqrt(v_hat) +
        eps)``; each of shape ``(steps, n)``.
    """
    theta, m, v = start, np.zeros_like(start), np.zeros_like(start)
    weights, decays = [], []
    for t, gradient in enumerate(data, start=1):
        total = gradient + weight_decay * theta
        m, v = BETA1 * m + (1 - BETA1) * total, BETA2 * v + (1 - BETA2) * total**2
        rate = lr / (np.sqrt(v / (1 - BETA2**t)) + EPS)
        decays.append(rate * weight_decay * theta)
        theta = theta - rate * m / (1 - BETA1**t)
        weights.append(theta)
    return np.stack(weights), np.stack(decays)
