"""Gradients that do not come, come too often, or come broken."""

from __future__ import annotations

from typing import Any

from diagnosis.injections.base import Injection, names_of
from diagnosis.record import Truth


class Detached(Injection):
    """The output of a layer is detached: the loss does not reach its parameters.

    Args:
        layer: Path of the module.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self._without: frozenset[str] = frozenset()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Hook in."""
        pl_module.get_submodule(self.layer).register_forward_hook(lambda _, __, output: output.detach())

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """See what autograd did not reach: the layer, and what leads to nothing but it."""
        named = pl_module.named_parameters()
        self._without = frozenset(name for name, parameter in named if parameter.grad is None)

    def truth(self, model: Any) -> Truth:
        """All that the loss does not reach."""
        assert names_of(model, model.get_submodule(self.layer)) <= self._without
        return Truth(self._without)


class NotZeroed(Injection):
    """Nobody sets gradients to zero."""

    def arrange(self, model: Any, data: Any) -> None:
        """Override the hook, as users do."""
        model.optimizer_zero_grad = lambda *_: None
