"""The shape of an injection."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from lightning.pytorch import Callback
from torch import nn

from diagnosis.record import Truth

NO_GRADIENT = ("*key.bias", "*attn.c_attn.bias", "*.nn.0.bias", "*.nn.3.bias")
"""Get, in whole or in part, nothing but rounding noise: softmax and batch normalization take it out again."""


class Injection(Callback):
    """Makes a training sick, and knows what a right diagnosis says; this one changes nothing."""

    ends_with: tuple[type[Exception], ...] = ()
    """Errors that belong to the sickness."""

    def arrange(self, model: Any, data: Any) -> None:
        """Change module or data module before the Trainer gets them."""

    def truth(self, model: Any) -> Truth:
        """What is right to say, asked for after the training."""
        return Truth()


def names_of(model: nn.Module, part: nn.Module) -> frozenset[str]:
    """Names in ``model`` of the parameters of ``part``."""
    own = {id(parameter) for parameter in part.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in own)


def gets_none(name: str) -> bool:
    """Whether a parameter of this name lacks a gradient in any case, or a third of it."""
    return any(fnmatch(name, pattern) for pattern in NO_GRADIENT)
