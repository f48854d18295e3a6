"""GCN and GAT: label the nodes of a graph from their features and their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, elu, relu
from torchmetrics.classification import MulticlassAccuracy

from lightning_adapt._text import unknown_name
from lightning_adapt.recipes._module import RecipeModule
from lightning_adapt.recipes.gnn._pyg import Data, GATConv, GCNConv

Architecture = Literal["gcn", "gat"]


def drop_features(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout for sparse features: only what is not 0 is drawn for, which leaves the same distribution.

    Args:
        x: Shape ``(nodes, features)``, floating, dense or coalesced sparse COO.
        p: Probability of dropping a feature, in [0, 1).
        training: Whether to drop anything.

    Returns:
        Shape, dtype and layout of ``x``.

    Example:
        >>> x = torch.eye(2).to_sparse()
        >>> set(drop_features(x, 0.5, training=True).to_dense().flatten().tolist()) <= {0.0, 2.0}
        True
    """
    if not x.is_sparse:
        return dropout(x, p, training)
    values = dropout(x.values(), p, training)
    # The places are those of a valid tensor; checking them again would wait for the device.
    return torch.sparse_coo_tensor(x.indices(), values, x.shape, is_coalesced=True, check_invariants=False)


class GraphNet(nn.Module):
    """Two layers of message passing with dropout before each.

    Args:
        architecture: ``"gcn"`` (Kipf & Welling 2017) or ``"gat"`` (Velickovic et al. 2018).
        features: Input features per node.
        classes: Number of classes.
        hidden: Features after the first layer; for GAT, per head.
        heads: Attention heads of GAT's first layer.
        p: Probability of dropout, of features and of GAT's attention.
    """

    def __init__(
        self, architecture: Architecture, features: int, classes: int, hidden: int, heads: int, p: float
    ) -> None:
        super().__init__()
        self.p = p
        self.activation = relu if architecture == "gcn" else elu
        if architecture == "gcn":
            self.conv1: nn.Module = GCNConv(features, hidden)
            self.conv2: nn.Module = GCNConv(hidden, classes)
        else:
            self.conv1 = GATConv(features, hidden, heads=heads, dropout=p)
            self.conv2 = GATConv(hidden * heads, classes, heads=1, dropout=p)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return logits, shape ``(nodes, classes)``, of ``x``, shape ``(nodes, features)``."""
        x = self.activation(self.conv1(drop_features(x, self.p, self.training), edge_index))
        logits: Tensor = self.conv2(dropout(x, self.p, self.training), edge_index)
        return logits


class NodeClassifier(RecipeModule):
    """GCN or GAT on one graph, full batch.

    Logs ``train/loss``, ``val/loss``, ``val/accuracy``, ``test/loss`` and ``test/accuracy``.

    Weight decay acts on GCN's first layer alone, as in the paper, and on all of GAT; biases have none. With
    ``adam`` it is the L2 penalty of the papers: it goes through the second moment and so pulls words that get
    no gradient to 0 at the full rate, which ``adamw`` does not.

    Args:
        architecture: ``"gcn"`` or ``"gat"``.
        hidden: Features after the first layer (GAT: per head); ``None``: 16 for GCN, 8 for GAT.
        heads: Attention heads of GAT's first layer.
        dropout: Probability of dropout; ``None``: 0.5 for GCN, 0.6 for GAT.
        features: Input features per node; ``None`` takes the data module's.
        classes: Number of classes; ``None`` takes the data module's.
        optimizer: Name in the optimizer catalog.
        lr: Learning rate; ``None`` takes the preset for that optimizer.
        weight_decay: ``None`` takes the preset for that optimizer.
        schedule: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"inverse_sqrt"``.
        warmup_steps: Optimizer steps over which the learning rate rises linearly.
        optimizer_options: Further keyword arguments of the optimizer factory (``betas``, ``eps``, …).

    Raises:
        ValueError: If a name is not known or a number is out of range.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sgd": {"lr": 0.3, "momentum": 0.9, "weight_decay": 5e-4},
        "adagrad": {"lr": 0.3, "weight_decay": 5e-4},
        "rmsprop": {"lr": 0.01, "weight_decay": 5e-4},
        "adam": {"lr": 0.01, "weight_decay": 5e-4},
        "adamw": {"lr": 0.03, "weight_decay": 5e-4},
        "nadam": {"lr": 0.01, "weight_decay": 5e-4},
        "radam": {"lr": 0.01, "weight_decay": 5e-4},
        "adamax": {"lr": 0.03, "weight_decay": 5e-4},
        "adadelta": {"lr": 1.0, "weight_decay": 5e-4},
        "adafactor": {"lr": 0.03},
    }

    def __init__(
        self,
        architecture: Architecture = "gcn",
        hidden: int | None = None,
        heads: int = 8,
        dropout: float | None = None,
        features: int | None = None,
        classes: int | None = None,
        optimizer: str = "adam",
        lr: float | None = None,
        weight_decay: float | None = None,
        schedule: str = "constant",
        warmup_steps: int = 0,
        optimizer_options: dict[str, Any] | None = None,
    ) -> None:
        if architecture not in get_args(Architecture):
            raise ValueError(unknown_name("model.architecture", architecture, get_args(Architecture)))
        gcn = architecture == "gcn"
        hidden = (16 if gcn else 8) if hidden is None else hidden
        dropout = (0.5 if gcn else 0.6) if dropout is None else dropout
        for name, value in {"hidden": hidden, "heads": heads}.items():
            if value < 1:
                raise ValueError(
                    f"`model.{name}` must be 1 or more, got {value}; leave it out for the default"
                )
        if not 0 <= dropout < 1:
            raise ValueError(f"`model.dropout` must be in [0, 1), got {dropout}; 0.5 is a good start")
        options = {"overrides": {"net.conv2.*": {"weight_decay": 0.0}}} if gcn else {}
        super().__init__(
            optimizer, lr, weight_decay, schedule, warmup_steps, options | (optimizer_options or {})
        )
        self.save_hyperparameters()
        self._shape = (architecture, hidden, heads, dropout)
        self.net: GraphNet | None = None
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
        architecture, hidden, heads, dropout = self._shape
        self.net = GraphNet(architecture, features, classes, hidden, heads, dropout)
        self.val_accuracy = MulticlassAccuracy(classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(classes, average="micro")

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Predict the class of every node.

        Args:
            x: Shape ``(nodes, features)``, floating, dense or sparse.
            edge_index: Shape ``(2, edges)``, int64.

        Returns:
            Logits, shape ``(nodes, classes)``.
        """
        assert self.net is not None, "setup() has not been called"
        # Lightning casts batches that are tensors, but not graphs; matters for bf16-true and 16-true.
        logits: Tensor = self.net(x.to(self.dtype), edge_index)
        return logits

    def _step(self, graph: Data, part: str) -> tuple[Tensor, Tensor, Tensor]:
        mask = graph[f"{part}_mask"]
        logits, labels = self(graph.x, graph.edge_index)[mask], graph.y[mask]
        loss = cross_entropy(logits.float(), labels)
        self.log(f"{part}/loss", loss, prog_bar=True, batch_size=1)
        return loss, logits, labels

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        """Return the mean loss of the training nodes."""
        return self._step(batch, "train")[0]

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        """Log loss and accuracy of the validation nodes."""
        _, logits, labels = self._step(batch, "val")
        self.val_accuracy(logits, labels)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True, batch_size=1)

    def test_step(self, batch: Data, batch_idx: int) -> None:
        """Log loss and accuracy of the test nodes."""
        _, logits, labels = self._step(batch, "test")
        self.test_accuracy(logits, labels)
        self.log("test/accuracy", self.test_accuracy, batch_size=1)
