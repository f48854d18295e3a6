"""The list of landscapes: plain data, nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from lightning_adapt._text import unknown_name

if TYPE_CHECKING:
    from lightning_adapt.recipes.landscapes._study import Study

PREFIX = "landscapes/"


@dataclass(frozen=True)
class Entry:
    """One landscape.

    Args:
        name: Without ``landscapes/``.
        class_name: Of the study, in the module ``<name with underscores>``.
        summary: One line for the list of recipes.
    """

    name: str
    class_name: str
    summary: str

    @property
    def module(self) -> str:
        """Name of the module and of the YAML file."""
        return self.name.replace("-", "_")

    @property
    def config_path(self) -> Path:
        """The YAML file with its values."""
        return Path(__file__).parent / f"{self.module}.yaml"

    def load(self) -> type[Study]:
        """The study's class."""
        study: type[Study] = getattr(import_module(f"{__package__}.{self.module}"), self.class_name)
        return study


_ENTRIES = (
    Entry("quadratic", "Quadratic", "one learning rate cannot serve an ill-conditioned bowl"),
    Entry("preconditioner", "Preconditioner", "what √v leaves of the condition number"),
    Entry("adagrad-decay", "AdagradDecay", "Adagrad's effective learning rate only falls"),
    Entry("rmsprop-memory", "RMSPropMemory", "RMSProp forgets: its memory is about 1/(1-ρ) steps"),
    Entry("flat-basin", "FlatBasin", "crossing a flat basin: Adagrad needs (D/2η)² steps, RMSProp D/η"),
    Entry("new-feature", "NewFeature", "a feature that is silent at first: whose rate is left?"),
    Entry("bias-correction", "BiasCorrection", "m and v start at zero and are biased"),
    Entry("moment-memory", "MomentMemory", "direction may be noisy, scale must be smooth: β1 < √β2"),
    Entry("epsilon-floor", "EpsilonFloor", "ε is a floor that takes over when g² underflows"),
    Entry("bf16-states", "Bf16States", "bf16 loses small changes of v and of weights, fp16 small v"),
    Entry("weight-decay", "WeightDecay", "L2 is scaled by the denominator, decoupled decay is not"),
    Entry("fisher", "Fisher", "with labels from the model, accumulated g² is the Fisher diagonal"),
    Entry("sparse-features", "SparseFeatures", "rare features keep large steps"),
    Entry("edge-of-stability", "EdgeOfStability", "full-batch Adam trains where its steps are barely stable"),
)

#: Name without prefix -> landscape, in teaching order.
LANDSCAPES: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def find(name: str) -> Entry:
    """The landscape called ``name``, with or without ``landscapes/``.

    Raises:
        ValueError: If there is none; the text lists the known ones, nearest first.

    Example:
        >>> find("landscapes/fisher").name
        'fisher'
    """
    short = name.removeprefix(PREFIX)
    if short not in LANDSCAPES:
        raise ValueError(unknown_name("landscape", short, LANDSCAPES))
    return LANDSCAPES[short]
