"""The recipes in small: a second or two for a hundred steps on one core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class SmallRecipe:
    """A recipe with sizes that make it fast.

    Args:
        module: Path of its LightningModule.
        data_module: Path of its data module.
        model: Arguments of the module.
        data: Arguments of the data module.
        trainer: Arguments of the Trainer.
    """

    module: str
    data_module: str
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def build(self, model: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[Any, Any]:
        """Module and data module, with further arguments for both."""
        return _found(self.module)(**{**self.model, **model}), _found(self.data_module)(
            **{**self.data, **data}
        )


def _found(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    found: Callable[..., Any] = getattr(import_module(f"lightning_adapt.recipes.{module}"), name)
    return found


_NODES = ("gnn.node_classification.NodeClassifier", "gnn.node_data.NodeDataModule")
_CLIPPED = {"gradient_clip_val": 1.0}
_DECODER = {"layers": 2, "heads": 2, "width": 32, "context": 32, "warmup_steps": 20}

RECIPES: dict[str, SmallRecipe] = {
    "char-lm": SmallRecipe(
        "nlp.char_lm.CharLM",
        "nlp.text_data.TextDataModule",
        _DECODER,
        {"context": 32, "batch_size": 8},
        _CLIPPED,
    ),
    "llama": SmallRecipe(
        "nlp.char_lm.CharLM",
        "nlp.text_data.TextDataModule",
        {**_DECODER, "architecture": "llama"},
        {"context": 32, "batch_size": 8},
        _CLIPPED,
    ),
    "text": SmallRecipe(
        "nlp.text_classification.TextClassifier",
        "nlp.labelled_text.LabelledTextDataModule",
        {"layers": 2, "heads": 2, "width": 32, "vocabulary_size": 1000, "max_length": 32},
        {"batch_size": 16},
        _CLIPPED,
    ),
    "gcn": SmallRecipe(*_NODES),
    "gat": SmallRecipe(*_NODES, {"architecture": "gat", "heads": 4}),
    "gin": SmallRecipe(
        "gnn.graph_classification.GraphClassifier",
        "gnn.graph_data.GraphDataModule",
        {"layers": 3, "hidden": 16},
        {"batch_size": 16},
    ),
}
