"""Graphs whose nodes are to be labelled: some nodes to train on, others to validate and test on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from lightning_adapt._text import unknown_name
from lightning_adapt.recipes.gnn._pyg import Data, KarateClub, Planetoid
from lightning_adapt.recipes.gnn._raw_files import load_dataset
from lightning_adapt.recipes.gnn.import_graph import ImportGraph, read_import_graph

PLANETOID = ("Cora", "CiteSeer", "PubMed")
NAMES = ("import-graph", "KarateClub", *PLANETOID)
#: Words in fewer modules than this say nothing about other modules.
_MIN_MODULES = 3
_PLANETOID_FILES = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")


class WholeGraph:
    """A loader of one batch, the graph: nothing to shuffle, to collate or to draw random numbers for."""

    def __init__(self, graph: Data) -> None:
        self.graph = graph

    def __len__(self) -> int:
        """One batch."""
        return 1

    def __iter__(self) -> Iterator[Data]:
        """Yield the graph."""
        yield self.graph


class NodeDataModule(LightningDataModule):
    """One graph; its training, validation and test nodes are masks, and one batch is the whole graph.

    * ``import-graph``: the modules of an installed package, to be sorted into its subpackages
      (:func:`~lightning_adapt.recipes.gnn.import_graph.read_import_graph`); features are the words in them.
    * ``KarateClub``: 34 members, 4 groups, one labelled member each (Zachary 1977); the only feature is who
      one is.
    * ``Cora``, ``CiteSeer``, ``PubMed``: papers that cite each other; the public split (Yang et al. 2016).

    Features are divided by their sum, node by node, as in Kipf & Welling 2017, and stored as a sparse tensor:
    nearly all are 0, and dropping out only the others is six times faster and means the same.

    Args:
        name: Which graph.
        root: Folder that holds ``Cora/raw/ind.cora.x`` and so on; only read, unless ``download``.
        download: Whether missing files may be fetched from the internet into ``root``.
        package: The package whose import graph to read.
        classes: How many of its subpackages, the largest, to keep.
        train_per_class: Training nodes of each class of the import graph.
        val_nodes: Validation nodes of the import graph; the rest are for testing.
        seed: Start of the random numbers that split the import graph and KarateClub.

    Raises:
        ValueError: If ``name`` is not known or a number is out of range.

    Example:
        >>> data = NodeDataModule("KarateClub")
        >>> data.setup("fit")
        >>> data.num_features, data.num_classes, len(data.train_dataloader())
        (34, 4, 1)
    """

    def __init__(
        self,
        name: str = "import-graph",
        root: str | None = None,
        download: bool = False,
        package: str = "torch_geometric",
        classes: int = 5,
        train_per_class: int = 10,
        val_nodes: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if name not in NAMES:
            raise ValueError(unknown_name("data.name", name, NAMES))
        for argument, value in {"train_per_class": train_per_class, "val_nodes": val_nodes}.items():
            if value < 1:
                raise ValueError(
                    f"`data.{argument}` must be 1 or more, got {value}; leave it out for the default"
                )
        self._name, self.root, self.download = name, root, download
        self.package, self.classes = package, classes
        self.train_per_class, self.val_nodes, self.seed = train_per_class, val_nodes, seed
        #: Number of input features and of classes; known after ``setup``.
        self.num_features = self.num_classes = 0
        self._graph: Data | None = None

    def setup(self, stage: str) -> None:
        """Read the graph and split its nodes."""
        if self._graph is not None:
            return
        graph = self._read()
        self.num_features, self.num_classes = int(graph.x.shape[1]), int(graph.y.max()) + 1
        graph.x = normalize(graph.x, p=1).to_sparse()
        self._graph = graph

    def _read(self) -> Data:
        if self._name == "import-graph":
            graph = as_data(read_import_graph(self.package, self.classes))
            return self._split(graph)
        if self._name == "KarateClub":
            graph = KarateClub()[0]
            rest = _shuffled(~graph.train_mask, self.seed)
            graph.val_mask, graph.test_mask = _mask(rest[:10], graph.y), _mask(rest[10:], graph.y)
            return graph
        files = [f"ind.{self._name.lower()}.{part}" for part in _PLANETOID_FILES]
        dataset = load_dataset(
            lambda root: Planetoid(root, self._name), self._name, self.root, files, self.download
        )
        return dataset[0]

    def _split(self, graph: Data) -> Data:
        order = _shuffled(torch.ones_like(graph.y, dtype=torch.bool), self.seed)
        # How many nodes of the same class come earlier in the random order.
        earlier = (one_hot(graph.y[order]).cumsum(0) - 1).gather(1, graph.y[order, None]).squeeze(1)
        chosen = earlier < self.train_per_class
        train, rest = order[chosen], order[~chosen]
        if len(rest) <= self.val_nodes:
            raise ValueError(
                f"`data.val_nodes` must leave nodes to test on, got {self.val_nodes} with {len(train)} "
                f"training nodes of {len(order)}; make it or `data.train_per_class` smaller"
            )
        graph.train_mask = _mask(train, graph.y)
        graph.val_mask = _mask(rest[: self.val_nodes], graph.y)
        graph.test_mask = _mask(rest[self.val_nodes :], graph.y)
        return graph

    def train_dataloader(self) -> WholeGraph:
        """Return the graph: full-batch training, one step per epoch."""
        assert self._graph is not None, "setup() has not been called"
        return WholeGraph(self._graph)

    def val_dataloader(self) -> WholeGraph:
        """Return the graph."""
        return self.train_dataloader()

    def test_dataloader(self) -> WholeGraph:
        """Return the graph."""
        return self.train_dataloader()


def as_data(graph: ImportGraph) -> Data:
    """Turn an import graph into tensors.

    Args:
        graph: The import graph.

    Returns:
        ``x``: shape ``(modules, words)``, float32, 1 where a module has a word, for words in three modules or
        more; ``edge_index``: shape ``(2, 2 * edges)``, int64, both directions; ``y``: shape ``(modules,)``,
        int64.
    """
    counts = Counter(word for words in graph.words for word in words)
    column = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n >= _MIN_MODULES))}
    x = torch.zeros(len(graph.modules), len(column))
    for row, words in enumerate(graph.words):
        x[row, [column[word] for word in words if word in column]] = 1.0
    edges = torch.tensor(graph.edges, dtype=torch.long).reshape(-1, 2).t()
    both = torch.cat([edges, edges.flip(0)], dim=1)
    return Data(x=x, edge_index=both, y=torch.tensor(graph.labels))  # pyright: ignore[reportCallIssue]


def _shuffled(mask: Tensor, seed: int) -> Tensor:
    places = mask.nonzero().flatten()
    return places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))]


def _mask(places: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros_like(like, dtype=torch.bool)
    mask[places] = True
    return mask
