"""Three models whose inputs are rows of a table that some examples need often and others hardly ever."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, embedding

from lightning_adapt.recipes.gnn._pyg import Data
from lightning_adapt.recipes.gnn.node_data import NodeDataModule
from lightning_adapt.recipes.landscapes._checks import own_name
from lightning_adapt.recipes.landscapes._lab import Landscape
from lightning_adapt.recipes.nlp.text_data import embedded_text

#: Columns of a table.
WIDTH = 16


class Tables(Landscape):
    """Models side by side, one a seed; ``tables`` are theirs, inputs first, and their losses are added.

    Args:
        seeds: How many.
        rows: Of each table.
        outputs: Classes; 0 for a model without a layer behind the table.
        optimizer: Name of a factory.
        **options: Of the factory.
    """

    def __init__(self, seeds: int, rows: int, outputs: int, optimizer: str, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.random = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
        self.tables, self.heads = nn.ParameterList(), nn.ParameterList()
        for random in self.random:
            self.tables.append(0.1 * torch.randn(rows, WIDTH, generator=random))
            if outputs:
                self.heads.append(torch.randn(WIDTH, outputs, generator=random) / WIDTH**0.5)

    def loss(self, step: int) -> Tensor:
        """Their sum: none has a part in the gradient of another."""
        return torch.stack([self.one_loss(seed, step) for seed in range(len(self.tables))]).sum()

    @abstractmethod
    def one_loss(self, seed: int, step: int) -> Tensor:
        """The loss of one model."""

    @abstractmethod
    def uses(self, seed: int, steps: int) -> Tensor:
        """How often each row is used in ``steps`` steps, shape ``(rows,)``, up to a common factor."""

    @abstractmethod
    def groups(self, seed: int, steps: int) -> Tensor:
        """The group of each row, shape ``(rows,)``, int64; the rarest rows first."""


class NextWord(Tables):
    """From a word of Python's language reference to the next one, if that is frequent; no other table."""

    #: Next words that are told apart; all others are class 0.
    CLASSES = 100
    BATCH = 256

    def __init__(self, seeds: int, steps: int, optimizer: str, **options: Any) -> None:
        words = re.findall(r"[a-z]+", embedded_text().lower())
        place = {word: i for i, (word, _) in enumerate(Counter(words).most_common())}
        super().__init__(seeds, len(place), self.CLASSES + 1, optimizer, **options)
        self.words = torch.tensor([place[word] for word in words])
        shape = (steps, self.BATCH)
        self.places = [torch.randint(len(words) - 1, shape, generator=random) for random in self.random]

    def one_loss(self, seed: int, step: int) -> Tensor:
        """Cross-entropy of a batch."""
        places = self.places[seed][step]
        following = self.words[places + 1]
        classes = torch.where(following < self.CLASSES, following + 1, 0)
        rows = embedding(self.words[places], self.tables[seed])
        return cross_entropy(rows @ self.heads[seed], classes)

    def uses(self, seed: int, steps: int) -> Tensor:
        """How often each word came in the first ``steps`` batches."""
        return self.words[self.places[seed][:steps].flatten()].bincount(minlength=len(self.tables[0]))

    def groups(self, seed: int, steps: int) -> Tensor:
        """Never, 1-2, 3-10, 11-100 times and more."""
        return torch.bucketize(self.uses(seed, steps), torch.tensor([0, 2, 10, 100]))


class GraphWords(Tables):
    """A graph convolutional network (Kipf & Welling 2017), no dropout; a row of its first layer is a word."""

    def __init__(self, graph: Data, seeds: int, optimizer: str, **options: Any) -> None:
        words, labels = graph.x.to_dense(), graph.y
        super().__init__(seeds, words.shape[1], int(labels.max()) + 1, optimizer, **options)
        near = adjacency(graph)[graph.train_mask]
        needed = (near > 0).any(0)  # nothing else has a part in the loss
        self.near, self.labels = near[:, needed], labels[graph.train_mask]
        self.words = adjacency(graph)[needed] @ words
        self.documents: Tensor = (words > 0).sum(0)

    def one_loss(self, seed: int, step: int) -> Tensor:
        """Cross-entropy of the training nodes."""
        hidden = (self.words @ self.tables[seed]).relu()
        return cross_entropy(self.near @ hidden @ self.heads[seed], self.labels)

    def uses(self, seed: int, steps: int) -> Tensor:
        """In how many nodes each word is."""
        return self.documents

    def groups(self, seed: int, steps: int) -> Tensor:
        """Tenths of the words."""
        rank: Tensor = self.documents.argsort(stable=True).argsort()
        return rank * 10 // len(rank)


class Links(Tables):
    """Which nodes are linked, from the product of their rows: all links, and as many random pairs, a step."""

    def __init__(self, graph: Data, seeds: int, optimizer: str, **options: Any) -> None:
        super().__init__(seeds, len(graph.y), 0, optimizer, **options)
        self.links: Tensor = graph.edge_index
        self.degree = self.links[0].bincount(minlength=len(graph.y))

    def one_loss(self, seed: int, step: int) -> Tensor:
        """Cross-entropy of links against pairs."""
        table, random = self.tables[seed], self.random[seed]
        ends = torch.cat([self.links, torch.randint(len(table), self.links.shape, generator=random)], dim=1)
        scores = (embedding(ends[0], table) * embedding(ends[1], table)).sum(1)
        return binary_cross_entropy_with_logits(scores, torch.arange(len(scores)).lt(len(scores) / 2).float())

    def uses(self, seed: int, steps: int) -> Tensor:
        """By links, each in both directions, and on average by as many random pairs."""
        used: Tensor = 2 * self.degree + 2 * self.links.shape[1] / len(self.degree)
        return used

    def groups(self, seed: int, steps: int) -> Tensor:
        """At most one link, 2-4, 5-19 and more."""
        return torch.bucketize(self.degree, torch.tensor([1, 4, 19]))


def read_graph(data_root: str | None) -> Data:
    """Cora from ``data_root``, as `NodeDataModule` reads it; without one the import graph of a package."""
    data = NodeDataModule("Cora", data_root) if data_root else NodeDataModule()
    with own_name("data.root", "data_root"):
        data.setup("fit")
    return data.train_dataloader().graph


def adjacency(graph: Data) -> Tensor:
    """``D^-1/2 (A + 1) D^-1/2``, shape ``(nodes, nodes)``."""
    matrix = torch.eye(len(graph.y))
    matrix[graph.edge_index[0], graph.edge_index[1]] = 1.0
    scale = matrix.sum(1).rsqrt()
    return scale[:, None] * matrix * scale
