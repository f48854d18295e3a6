"""GIN: label whole graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from lightning_adapt.recipes._module import RecipeModule
from lightning_adapt.recipes.gnn._pyg import Batch, GINConv, global_add_pool


class GIN(nn.Module):
    """Sums over neighbours, each followed by a small network; a graph is the sum of its nodes at every depth.

    Args:
        features: Input features per node.
        classes: Number of classes.
        hidden: Features per node after each layer.
        layers: Layers of message passing.
        p: Probability of dropout before the classifier.

    References:
        Xu et al. 2019, How Powerful are Graph Neural Networks? (arXiv:1810.00826), GIN-0; differs from the
        paper in that one linear layer reads all depths side by side, instead of one for each depth.
    """

    def __init__(self, features: int, classes: int, hidden: int, layers: int, p: float) -> None:
        super().__init__()
        widths = [features, *[hidden] * layers]
        self.convs = nn.ModuleList(
            GINConv(
                nn.Sequential(
                    nn.Linear(width, hidden),
                    nn.BatchNorm1d(hidden),
                    nn.ReLU(),
                    nn.Linear(hidden, hidden),
                    nn.BatchNorm1d(hidden),
                    nn.ReLU(),
                )
            )
            for width in widths[:-1]
        )
        self.dropout = nn.Dropout(p)
        self.head = nn.Linear(sum(widths), classes)

    def forward(self, x: Tensor, edge_index: Tensor, graph: Tensor, graphs: int) -> Tensor:
        """Return logits, shape ``(graphs, classes)``.

        Args:
            x: Shape ``(nodes, features)``.
            edge_index: Shape ``(2, edges)``.
            graph: Shape ``(nodes,)``: which graph a node belongs to.
            graphs: How many graphs there are.
        """
        depths = [x]
        for conv in self.convs:
            depths.append(conv(depths[-1], edge_index))
        pooled = torch.cat([global_add_pool(depth, graph, graphs) for depth in depths], dim=1)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


class GraphClassifier(RecipeModule):
    """GIN on many small graphs.

    Logs ``train/loss``, ``val/loss``, ``val/accuracy``, ``test/loss`` and ``test/accuracy``.

    Args:
        hidden: Features per node after each layer.
        layers: Layers of message passing.
        dropout: Probability of dropout before the classifier.
        features: Input features per node; ``None`` takes the data module's.
        classes: Number of classes; ``None`` takes the data module's.
        optimizer: Name in the optimizer catalog.
        lr: Learning rate; ``None`` takes the preset for that optimizer.
        weight_decay: ``None`` takes the preset for that optimizer.
        schedule: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"inverse_sqrt"``.
        warmup_steps: Optimizer steps over which the learning rate rises linearly.
        optimizer_options: Further keyword arguments of the optimizer factory (``betas``, ``eps``, …).

    Raises:
        ValueError: If a number is out of range.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sgd": {"lr": 0.01, "momentum": 0.9},
        "adagrad": {"lr": 0.03},
        "rmsprop": {"lr": 0.002},
        "adam": {"lr": 0.005},
        "adamw": {"lr": 0.005},
        "nadam": {"lr": 0.005},
        "radam": {"lr": 0.005},
        "adamax": {"lr": 0.01},
        "adadelta": {"lr": 1.0},
        "adafactor": {"lr": 0.01},
    }

    def __init__(
        self,
        hidden: int = 32,
        layers: int = 4,
        dropout: float = 0.5,
        features: int | None = None,
        classes: int | None = None,
        optimizer: str = "adam",
        lr: float | None = None,
        weight_decay: float | None = None,
        schedule: str = "constant",
        warmup_steps: int = 0,
        optimizer_options: dict[str, Any] | None = None,
    ) -> None:
        for name, value in {"hidden": hidden, "layers": layers}.items():
            if value < 1:
                raise ValueError(
                    f"`model.{name}` must be 1 or more, got {value}; leave it out for the default"
                )
        if not 0 <= dropout < 1:
            raise ValueError(f"`model.dropout` must be in [0, 1), got {dropout}; 0.5 is a good start")
        super().__init__(optimizer, lr, weight_decay, schedule, warmup_steps, optimizer_options)
        self.save_hyperparameters()
        self._shape = (hidden, layers, dropout)
        self.net: GIN | None = None
        self._build(features, classes)

    def setup(self, stage: str) -> None:
        """Build the network once the data module knows its features and classes."""
        if self.net is None:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self._build(data.num_features, data.num_classes)

    def _build(self, features: int | None, classes: int | None) -> None:
        if features is None or classes is None:
            return
        # With its sizes among the hyper-parameters, a checkpoint says how to build the network again.
        self.hparams.update(features=features, classes=classes)
        self.net = GIN(features, classes, *self._shape)
        self.val_accuracy = MulticlassAccuracy(classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(classes, average="micro")

    def forward(self, batch: Batch) -> Tensor:
        """Predict the class of every graph.

        Args:
            batch: Graphs as PyG puts them side by side.

        Returns:
            Logits, shape ``(graphs, classes)``.
        """
        assert self.net is not None, "setup() has not been called"
        # Lightning casts batches that are tensors, but not graphs; matters for bf16-true and 16-true.
        logits: Tensor = self.net(batch.x.to(self.dtype), batch.edge_index, batch.batch, batch.num_graphs)
        return logits

    def _step(self, batch: Batch, part: str) -> tuple[Tensor, Tensor]:
        logits = self(batch)
        loss = cross_entropy(logits.float(), batch.y)
        self.log(f"{part}/loss", loss, prog_bar=True, batch_size=batch.num_graphs)
        return loss, logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of the batch."""
        return self._step(batch, "train")[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy of the validation graphs."""
        self.val_accuracy(self._step(batch, "val")[1], batch.y)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True, batch_size=batch.num_graphs)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy of the test graphs."""
        self.test_accuracy(self._step(batch, "test")[1], batch.y)
        self.log("test/accuracy", self.test_accuracy, batch_size=batch.num_graphs)
