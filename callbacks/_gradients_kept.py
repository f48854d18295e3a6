"""Whether steps begin with gradients of the step before: somebody forgot to zero them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from heapq import nsmallest
from typing import Any

import torch
from torch import Tensor

from lightning_adapt.callbacks._guard import Guard
from lightning_adapt.dynamics.canonical import Scalar
from lightning_adapt.dynamics.step_hooks import StepHooks, has_step_hooks

LOOKED_AT = 8
"""Parameters of an optimizer that are looked at, the smallest."""


class GradientsKept:
    """Looks, before each backward pass since its last step, whether an optimizer's gradients are gone.

    Gradients that are ``None`` cost nothing to look at. Where they are zeros instead, one small number is
    computed on the device for each backward pass.

    Args:
        labelled: Torch optimizers by name.
        guard: Runs what is done inside the optimizers' steps.
    """

    def __init__(self, labelled: Iterable[tuple[str, Any]], guard: Guard) -> None:
        self._watches = [
            _Watch(label, optimizer, guard) for label, optimizer in labelled if has_step_hooks(optimizer)
        ]

    def before_backward(self) -> None:
        """A backward pass is about to begin."""
        for watch in self._watches:
            watch.look()

    def take(self) -> dict[str, Scalar]:
        """By optimizer that stepped since the last call: above 0 when its gradients were kept."""
        found = {watch.label: watch.kept for watch in self._watches if watch.kept is not None}
        for watch in self._watches:
            watch.kept = None
        return found

    def end(self) -> None:
        """Let go of the optimizers."""
        for watch in self._watches:
            watch.hooks.detach()


class _Watch:
    def __init__(self, label: str, optimizer: Any, guard: Guard) -> None:
        self.label, self.kept = label, None
        self._optimizer = optimizer
        self._gone = True  # before its first step there is nothing to keep
        self._sizes: list[Tensor] = []
        self.hooks = StepHooks(optimizer, after=partial(guard, self._stepped)).attach()

    label: str
    kept: Scalar | None

    def look(self) -> None:
        if self._gone:
            return
        kept = (p.grad for group in self._optimizer.param_groups for p in group["params"])
        gradients = nsmallest(LOOKED_AT, (g for g in kept if g is not None), key=Tensor.numel)
        if gradients:
            dense = [g.coalesce().values() if g.is_sparse else g.detach() for g in gradients]
            norms = torch._foreach_norm(dense)  # pyright: ignore[reportPrivateImportUsage]
            self._sizes.append(torch.stack([norm.float() for norm in norms]).amax())
        else:
            self._gone = True

    def _stepped(self) -> None:
        if self._gone:
            self.kept = 0.0
        elif self._sizes:  # never 0 on the way: they were kept
            self.kept = torch.stack(self._sizes).amin()
        self._gone, self._sizes = False, []
