"""Optimizers that are set up wrong."""

from __future__ import annotations

from typing import Any

import torch
from diagnosis.injections.base import Injection, gets_none
from diagnosis.record import Truth


class LargeEpsilon(Injection):
    """Epsilon is larger than the gradients; what it rules is read from the optimizer's own state.

    Args:
        eps: The optimizer's.
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps
        self._optimizer: Any = None
        self._ruled: dict[str, list[float]] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Set it, whatever the factory made of it."""
        self._optimizer = trainer.optimizers[0]
        for group in self._optimizer.param_groups:
            group["eps"] = self.eps

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Count, for each parameter, the elements whose root of the second moment is below epsilon."""
        for name, parameter in pl_module.named_parameters():
            state = self._optimizer.state[parameter]
            v = state.get("exp_avg_sq", state.get("square_avg"))
            if v is None:
                continue
            group = next(g for g in self._optimizer.param_groups if any(p is parameter for p in g["params"]))
            correction = 1 - group["betas"][1] ** float(state["step"]) if "betas" in group else 1.0
            small = ((v.double() / correction).sqrt() <= self.eps) & (v > 0)
            self._ruled.setdefault(name, []).append(float(small.double().mean()))

    def truth(self, model: Any) -> Truth:
        """Most of its elements in the last quarter: to be named. A tenth at any time: may be named."""
        ruled = {name: torch.tensor(shares) for name, shares in self._ruled.items()}
        late = {name: float(shares[-len(shares) // 4 :].mean()) for name, shares in ruled.items()}
        return Truth(
            right=frozenset(name for name, share in late.items() if share >= 0.5 and not gets_none(name)),
            allowed=frozenset(name for name, shares in ruled.items() if float(shares.max()) >= 0.1),
        )
