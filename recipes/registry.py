"""The list of recipes: plain data, nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from lightning_adapt._text import unknown_name

#: Top-level module -> the extra of this package that installs it.
EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "jsonargparse": "cli",
        "matplotlib": "recipes",
        "pandas": "cli",
        "rich": "cli",
        "scipy": "gnn",
        "tensorboard": "tensorboard",
        "torch_geometric": "gnn",
        "transformers": "nlp",
    }
)


@dataclass(frozen=True)
class Recipe:
    """One thing to train: a LightningModule, a LightningDataModule and a YAML file with good values.

    Args:
        name: What the user types, ``"domain/task"``.
        summary: One line for the list of recipes.
        module: Dotted path of the LightningModule.
        data: Dotted path of the LightningDataModule.
        config: The YAML file, beside this module; ``<stem>_<preset>.yaml`` next to it are presets.
        needs: Modules that must be installed.
        metric: The logged metric that says how well it learned.
        metric_mode: Whether a small or a large ``metric`` is good.
        threads: CPU threads with which a small model of this recipe is fastest; ``None``: torch's choice.
    """

    name: str
    summary: str
    module: str
    data: str
    config: str
    needs: tuple[str, ...]
    metric: str
    metric_mode: Literal["min", "max"]
    threads: int | None = None

    @property
    def config_path(self) -> Path:
        """The YAML file with this recipe's values."""
        return Path(__file__).parent / self.config

    @property
    def presets(self) -> dict[str, Path]:
        """Variants: preset name -> YAML file laid over :attr:`config_path`."""
        stem = self.config_path.stem
        files = sorted(self.config_path.parent.glob(f"{stem}[_-]*.yaml"))
        return {file.stem[len(stem) + 1 :].replace("_", "-"): file for file in files}

    def preset(self, name: str) -> Path:
        """The YAML file of one preset.

        Raises:
            ValueError: If there is no such preset; the text lists the known ones.
        """
        presets = self.presets
        if name not in presets:
            raise ValueError(unknown_name("--preset", name, presets))
        return presets[name]

    def check_installed(self) -> None:
        """Refuse at once, and say what to install, when a library is missing.

        Raises:
            ModuleNotFoundError: If one of ``needs`` or of the command's own libraries is not installed.
        """
        for module in ("jsonargparse", "rich", *self.needs):
            if find_spec(module) is None:
                raise ModuleNotFoundError(missing_extra(module, self.name), name=module)


def missing_extra(module: str, wanted_by: str) -> str:
    """Say which extra brings ``module``.

    Example:
        >>> missing_extra("transformers", "nlp/char-lm")
        "nlp/char-lm needs transformers, which is not installed; pip install 'lightning-adapt[nlp]'"
    """
    extra = EXTRAS.get(module)
    remedy = f"pip install 'lightning-adapt[{extra}]'" if extra else f"pip install {module}"
    return f"{wanted_by} needs {module}, which is not installed; {remedy}"


_HERE = "lightning_adapt.recipes"

#: Name -> recipe.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                name="nlp/char-lm",
                summary="a small causal transformer learns English text, character by character",
                module=f"{_HERE}.nlp.char_lm.CharLM",
                data=f"{_HERE}.nlp.text_data.TextDataModule",
                config="nlp/char_lm.yaml",
                needs=("transformers",),
                metric="val/loss",
                metric_mode="min",
                threads=1,
            ),
            Recipe(
                name="nlp/text-classification",
                summary="a transformer encoder, fresh or pretrained, learns to label sentences",
                module=f"{_HERE}.nlp.text_classification.TextClassifier",
                data=f"{_HERE}.nlp.labelled_text.LabelledTextDataModule",
                config="nlp/text_classification.yaml",
                needs=("transformers",),
                metric="val/accuracy",
                metric_mode="max",
                threads=1,
            ),
            Recipe(
                name="gnn/node-classification",
                summary="GCN or GAT labels the nodes of one graph (import graph, KarateClub, Cora, …)",
                module=f"{_HERE}.gnn.node_classification.NodeClassifier",
                data=f"{_HERE}.gnn.node_data.NodeDataModule",
                config="gnn/node_classification.yaml",
                needs=("torch_geometric",),
                metric="val/accuracy",
                metric_mode="max",
                threads=1,
            ),
            Recipe(
                name="gnn/graph-classification",
                summary="GIN labels whole graphs (MUTAG, PROTEINS, …)",
                module=f"{_HERE}.gnn.graph_classification.GraphClassifier",
                data=f"{_HERE}.gnn.graph_data.GraphDataModule",
                config="gnn/graph_classification.yaml",
                needs=("torch_geometric",),
                metric="val/accuracy",
                metric_mode="max",
                threads=1,
            ),
        )
    }
)


def find(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        ValueError: If there is none; the text lists the known ones, nearest first.

    Example:
        >>> find("nlp/char-lm").metric
        'val/loss'
    """
    if name not in RECIPES:
        raise ValueError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]
