"""Calls around a step of an optimizer: once a step, whatever its class does inside."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch._compile import _disable_dynamo
from typing_extensions import Self


def has_step_hooks(optimizer: object) -> bool:
    """Whether ``optimizer`` calls step hooks: one that skipped ``Optimizer.__init__`` does not."""
    return hasattr(optimizer, "register_step_post_hook") and hasattr(optimizer, "_optimizer_step_post_hooks")


class StepHooks:
    """Calls a function before and one after every ``optimizer.step``.

    torch calls its hooks once for each class whose ``step`` calls ``super().step()``; here the outermost
    counts. A step that ends in an exception is not followed by ``after``.

    Args:
        optimizer: A torch optimizer.
        before: Called with whether the step before this one ended in an exception.
        after: Called when the step is done.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        >>> hooks = StepHooks(optimizer, after=lambda: print("stepped")).attach()
        >>> optimizer.step()
        stepped
        >>> hooks.detach()
        >>> optimizer.step()
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        before: Callable[[bool], None] | None = None,
        after: Callable[[], None],
    ) -> None:
        self._optimizer, self._before, self._after = optimizer, before, after
        self._depth = 0
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self) -> Self:
        """Register the hooks; does nothing when they are there."""
        if not self._handles:
            self._depth = 0
            self._handles = [
                self._optimizer.register_step_pre_hook(self._before_step),
                self._optimizer.register_step_post_hook(self._after_step),
            ]
        return self

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @property
    def stepping(self) -> bool:
        """Whether ``optimizer.step`` is running right now."""
        return self._depth > 0

    # torch.compile(optimizer.step) must not trace what only looks on.
    @_disable_dynamo
    def _before_step(self, *_: object) -> None:
        # Returns nothing: torch takes a returned pair for new arguments of step().
        lost = self._depth > 0 and not self._nested()
        if lost:
            self._depth = 0
        self._depth += 1
        if self._depth == 1 and self._before is not None:
            self._before(lost)

    def _nested(self) -> bool:
        """Whether this hook runs inside another step of the same optimizer: super().step() of a subclass."""
        frame = sys._getframe(2)  # torch's wrapper that calls the hook
        caller = frame.f_back if frame is not None else None
        while caller is not None:
            if caller.f_locals.get("self") is self._optimizer and caller.f_code.co_name == "step":
                return True
            caller = caller.f_back
        return False

    @_disable_dynamo
    def _after_step(self, *_: object) -> None:
        self._depth = max(self._depth - 1, 0)
        if self._depth == 0:
            self._after()
