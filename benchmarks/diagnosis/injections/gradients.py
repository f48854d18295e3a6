"""Gradients that do not come, come too often, or come broken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

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


class Frozen(Injection):
    """A layer is frozen, and its parameters are still in the optimizer.

    Args:
        layer: Path of the module.
        step: Batch from which on it is frozen.
    """

    def __init__(self, layer: str, step: int = 0) -> None:
        self.layer, self.step = layer, step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Freeze when it is time; the optimizer was made before."""
        if trainer.global_step == self.step:
            pl_module.get_submodule(self.layer).requires_grad_(False)

    def truth(self, model: Any) -> Truth:
        """All parameters of the layer."""
        return Truth(names_of(model, model.get_submodule(self.layer)), onset=self.step)


class NotZeroed(Injection):
    """Nobody sets gradients to zero."""

    def arrange(self, model: Any, data: Any) -> None:
        """Override the hook, as users do."""
        model.optimizer_zero_grad = lambda *_: None


class Exploding(Injection):
    """The gradients of one layer are far too large, as by a factor in its backward pass.

    Args:
        layer: Path of the module.
        factor: Of its gradients.
        step: Optimizer step from which on.
    """

    def __init__(self, layer: str, factor: float = 1e4, step: int = 0) -> None:
        self.layer, self.factor, self.step = layer, factor, step

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Hook in."""

        def larger(gradient: Tensor) -> Tensor:
            return gradient * self.factor if trainer.global_step >= self.step else gradient

        for parameter in pl_module.get_submodule(self.layer).parameters():
            parameter.register_hook(larger)

    def truth(self, model: Any) -> Truth:
        """Its weight matrices; its biases may be named."""
        layer = model.get_submodule(self.layer)
        matrices = {id(p) for p in layer.parameters() if sum(size > 1 for size in p.shape) >= 2}
        right = frozenset(name for name, p in model.named_parameters() if id(p) in matrices)
        return Truth(right, names_of(model, layer), self.step)


class InfiniteBatch(Injection):
    """One batch has a loss that is inf, or an overflow in the gradient of one parameter.

    Args:
        step: Optimizer step of the batch.
        parameter: Where the overflow is; empty: in the loss.
        value: What it is there.
    """

    def __init__(self, step: int, parameter: str = "", value: float = math.inf) -> None:
        self.step, self.parameter, self.value = step, parameter, value

    def arrange(self, model: Any, data: Any) -> None:
        """Break the loss, if that is where."""
        if not self.parameter:
            inner = model.training_step

            def training_step(batch: Any, batch_idx: int) -> Tensor:
                loss: Tensor = inner(batch, batch_idx)
                return loss * self.value if model.trainer.global_step == self.step else loss

            model.training_step = training_step

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Break the gradient, if that is where."""

        def broken(gradient: Tensor) -> Tensor:
            if trainer.global_step != self.step:
                return gradient
            gradient = gradient.clone()
            gradient[(0,) * gradient.ndim] = self.value
            return gradient

        if self.parameter:
            pl_module.get_parameter(self.parameter).register_hook(broken)

    def truth(self, model: Any) -> Truth:
        """The parameter; of a broken loss, any will do."""
        if not self.parameter:
            return Truth(onset=self.step, cause="all")
        return Truth(frozenset({self.parameter}), onset=self.step, cause="gradient")


class ScaleCollapse(Injection):
    """Gradients overflow at any loss scale, so that the scaler lowers it again and again.

    Args:
        step: Batch at which it begins.
        factor: Of the loss.
    """

    def __init__(self, step: int, factor: float = math.inf) -> None:
        self.step, self.factor = step, factor

    def arrange(self, model: Any, data: Any) -> None:
        """Make the loss overflow."""
        inner, seen = model.training_step, 0

        def training_step(batch: Any, batch_idx: int) -> Tensor:
            nonlocal seen
            seen += 1
            loss: Tensor = inner(batch, batch_idx)
            return loss * self.factor if seen > self.step else loss

        model.training_step = training_step

    def truth(self, model: Any) -> Truth:
        """When it began."""
        return Truth(onset=self.step)


class ReturningSignal(Injection):
    """Gradients are small for a while, so that the second moment forgets what they can be, and come back.

    The value of the loss stays what it is; only its gradient is made smaller.

    Args:
        factor: Of the gradient meanwhile.
        begin: Optimizer step from which on it is small.
        end: Optimizer step at which it begins to come back.
        over: Optimizer steps that it takes to come back, by the same factor each.
        layer: Path of the module whose gradients are meant; empty: all.
        batches: Train on so many batches again and again, so that no noise hides a spike; 0: on all.
    """

    def __init__(
        self, factor: float, begin: int, end: int, over: int = 1, layer: str = "", batches: int = 0
    ) -> None:
        self.factor, self.begin, self.end, self.over = factor, begin, end, over
        self.layer, self.batches = layer, batches

    def arrange(self, model: Any, data: Any) -> None:
        """Repeat batches."""
        if self.batches:
            inner = data.train_dataloader
            data.train_dataloader = lambda: Repeated(inner(), self.batches)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Hook in."""

        def smaller(gradient: Tensor) -> Tensor:
            step = trainer.global_step
            left = (
                min(max((self.end + self.over - 1 - step) / self.over, 0.0), 1.0)
                if step >= self.begin
                else 0.0
            )
            return gradient * self.factor**left if left else gradient

        for parameter in pl_module.get_submodule(self.layer).parameters():
            parameter.register_hook(smaller)

    def truth(self, model: Any) -> Truth:
        """When the gradients come back."""
        return Truth(onset=self.end)


class Repeated:
    """The first batches of a loader, again and again.

    Args:
        loader: Which.
        batches: How many.
    """

    def __init__(self, loader: Any, batches: int) -> None:
        self._length = len(loader)
        self._batches = list(islice(loader, batches))

    def __len__(self) -> int:
        """As many as the loader has."""
        return self._length

    def __iter__(self) -> Iterator[Any]:
        """Go round."""
        return islice(cycle(self._batches), self._length)


class TwoOptimizers(Injection):
    """A layer's parameters are in two optimizers, in manual optimization.

    Args:
        layer: Path of the module that both have.
        first: Class of the optimizer that has everything.
        second: Class of the one that has the layer once more.
        lr: Learning rate of both.
    """

    def __init__(self, layer: str, first: str = "AdamW", second: str = "AdamW", lr: float = 2e-3) -> None:
        self.layer, self.classes, self.lr = layer, (first, second), lr

    def arrange(self, model: Any, data: Any) -> None:
        """Let the module step both, as for a GAN whose parts share a layer."""
        inner = model.training_step
        model.automatic_optimization = False

        def training_step(batch: Any, batch_idx: int) -> Tensor:
            optimizers = model.optimizers()
            loss: Tensor = inner(batch, batch_idx)
            for optimizer in optimizers:
                optimizer.zero_grad()
            model.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()
            return loss.detach()

        def configure_optimizers() -> list[torch.optim.Optimizer]:
            parts = (model.parameters(), model.get_submodule(self.layer).parameters())
            return [
                getattr(torch.optim, name)(part, lr=self.lr)
                for name, part in zip(self.classes, parts, strict=True)
            ]

        model.training_step, model.configure_optimizers = training_step, configure_optimizers

    def truth(self, model: Any) -> Truth:
        """The layer's parameters."""
        return Truth(names_of(model, model.get_submodule(self.layer)))
