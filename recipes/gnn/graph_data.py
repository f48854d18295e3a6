"""Many small graphs, each with one label, in folds for cross-validation."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_adapt._text import unknown_name
from lightning_adapt.recipes.gnn._pyg import Data, DataLoader, TUDataset
from lightning_adapt.recipes.gnn._raw_files import load_dataset
from lightning_adapt.recipes.gnn.motifs import motif_graphs

TU = ("MUTAG", "PROTEINS", "ENZYMES", "NCI1")
NAMES = ("motifs", *TU)


class GraphDataModule(LightningDataModule):
    """Graphs in folds: one fold to test on, the next one to validate on, the others to train on.

    * ``motifs``: random trees with one of three motifs each
      (:func:`~lightning_adapt.recipes.gnn.motifs.motif_graphs`).
    * ``MUTAG``, ``PROTEINS``, ``ENZYMES``, ``NCI1``: molecules, from TUDataset (Morris et al. 2020).

    Args:
        name: Which graphs.
        root: Folder that holds ``MUTAG/raw/MUTAG_A.txt`` and so on; only read, unless ``download``.
        download: Whether missing files may be fetched from the internet into ``root``.
        fold: The fold to test on, from 0.
        folds: How many folds; every class is spread evenly over them.
        batch_size: Graphs per batch.
        seed: Start of the random numbers that make folds and order, and the motif graphs.

    Raises:
        ValueError: If ``name`` is not known or a number is out of range.

    Example:
        >>> data = GraphDataModule()
        >>> data.setup("fit")
        >>> data.num_classes, len(data.test_dataloader().dataset)
        (3, 60)
    """

    def __init__(
        self,
        name: str = "motifs",
        root: str | None = None,
        download: bool = False,
        fold: int = 0,
        folds: int = 10,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if name not in NAMES:
            raise ValueError(unknown_name("data.name", name, NAMES))
        if folds < 3:
            raise ValueError(
                f"`data.folds` must be 3 or more (train, validate, test), got {folds}; 10 is usual"
            )
        if not 0 <= fold < folds:
            raise ValueError(f"`data.fold` must be 0 up to {folds - 1}, got {fold}; folds are counted from 0")
        if batch_size < 1:
            raise ValueError(f"`data.batch_size` must be 1 or more, got {batch_size}; 32 is a good start")
        self._name, self.root, self.download = name, root, download
        self.fold, self.folds, self.batch_size, self.seed = fold, folds, batch_size, seed
        #: Number of input features and of classes; known after ``setup``.
        self.num_features = self.num_classes = 0
        self._parts: list[list[Data]] = []

    def setup(self, stage: str) -> None:
        """Read the graphs and spread them over the folds."""
        if self._parts:
            return
        graphs = self._read()
        labels = torch.cat([graph.y for graph in graphs])
        self.num_features, self.num_classes = int(graphs[0].x.shape[1]), int(labels.max()) + 1
        # How many folds behind the test fold a graph is: 0 tests, 1 validates.
        behind = ((stratified_folds(labels, self.folds, self.seed) - self.fold) % self.folds).tolist()
        self._parts = [
            [graph for graph, number in zip(graphs, behind, strict=True) if min(number, 2) == part]
            for part in range(3)
        ]

    def _read(self) -> list[Data]:
        if self._name == "motifs":
            return motif_graphs(seed=self.seed)
        files = [
            f"{self._name}_{part}.txt" for part in ("A", "graph_indicator", "graph_labels", "node_labels")
        ]
        dataset = load_dataset(
            lambda root: TUDataset(root, self._name), self._name, self.root, files, self.download
        )
        return list(dataset)

    def _loader(self, part: int, shuffle: bool = False) -> DataLoader:
        # A generator of its own: a DataLoader without one draws from the global random state.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(  # pyright: ignore[reportCallIssue]
            self._parts[part], self.batch_size, shuffle, generator=generator
        )

    def train_dataloader(self) -> DataLoader:
        """Return all folds but two, shuffled."""
        return self._loader(2, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Return the fold behind the test fold."""
        return self._loader(1)

    def test_dataloader(self) -> DataLoader:
        """Return the test fold."""
        return self._loader(0)


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Give each item a fold, at random but so that every class is spread evenly.

    Args:
        labels: Shape ``(items,)``, integer.
        folds: How many folds.
        seed: Start of the random numbers.

    Returns:
        Shape ``(items,)``, int64, in [0, folds).

    Example:
        >>> fold = stratified_folds(torch.tensor([0, 0, 0, 1, 1, 1]), folds=3, seed=0)
        >>> fold.reshape(2, 3).sort().values.tolist()
        [[0, 1, 2], [0, 1, 2]]
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % folds
    return fold
