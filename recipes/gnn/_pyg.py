"""The names of PyTorch Geometric that the recipes use, imported without a warning to its own authors."""

import warnings
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    # PyG declares itself untyped, and what annotations it has make every attribute of a graph optional.
    Batch: TypeAlias = Any
    Data: TypeAlias = Any
    DataLoader: TypeAlias = Any
    Dataset: TypeAlias = Any
    GATConv: Any
    GCNConv: Any
    GINConv: Any
    KarateClub: Any
    Planetoid: Any
    TUDataset: Any
    global_add_pool: Any
else:
    with warnings.catch_warnings():
        # torch 2.13 announces the end of torch.jit.script, which torch-geometric 2.8 calls on import.
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.\w+` is deprecated", category=DeprecationWarning
        )
        from torch_geometric.data import Batch, Data, Dataset
        from torch_geometric.datasets import KarateClub, Planetoid, TUDataset
        from torch_geometric.loader import DataLoader
        from torch_geometric.nn import GATConv, GCNConv, GINConv, global_add_pool

__all__ = [
    "Batch",
    "Data",
    "DataLoader",
    "Dataset",
    "GATConv",
    "GCNConv",
    "GINConv",
    "KarateClub",
    "Planetoid",
    "TUDataset",
    "global_add_pool",
]
