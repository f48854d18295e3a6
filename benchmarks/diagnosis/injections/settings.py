"""Optimizers that are set up wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diagnosis.injections.base import Injection, gets_none
from diagnosis.record import Truth


class Epsilon(Injection):
    """Another epsilon than the factory allows; what it rules is read from the optimizer's own state.

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

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
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


class LostEpsilon(Epsilon):
    """An epsilon that is 0 in the dtype of the state."""

    def truth(self, model: Any) -> Truth:
        """All parameters whose dtype has no number for it."""
        lost = {
            name for name, p in model.named_parameters() if torch.tensor(self.eps).to(p.dtype).item() == 0
        }
        return Truth(frozenset(lost))


class StuckMoment(Injection):
    """The second moment cannot decay: seen by multiplying the state as the optimizer does."""

    def __init__(self) -> None:
        self._stuck: dict[str, float] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        """Count the elements that stay the same."""
        optimizer = trainer.optimizers[0]
        for group in optimizer.param_groups:
            beta = group["betas"][1] if "betas" in group else group["alpha"]
            for parameter in group["params"]:
                v = optimizer.state[parameter].get("exp_avg_sq", optimizer.state[parameter].get("square_avg"))
                if v is not None:
                    known = v > 0
                    stuck = (v.mul(beta) == v) & known
                    self._stuck[_name(pl_module, parameter)] = float(stuck.sum() / known.sum().clamp(min=1))

    def truth(self, model: Any) -> Truth:
        """More than half of the elements at the end: to be named."""
        right = frozenset(name for name, share in self._stuck.items() if share >= 0.6)
        return Truth(right, frozenset(name for name, share in self._stuck.items() if share >= 0.3))


class Stalling(Injection):
    """The learning rate is, or becomes, so small that the weights stand still: measured on the weights.

    Args:
        within: Relative length of a step that counts as standing still.
        allowed: Relative length of a step that may be called so.
    """

    def __init__(self, within: float, allowed: float) -> None:
        self.within, self.allowed = within, allowed
        self._before: dict[str, Tensor] = {}
        self._ratios: dict[str, list[float]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the weight matrices."""
        self._before = {
            name: parameter.detach().clone()
            for name, parameter in pl_module.named_parameters()
            if sum(size > 1 for size in parameter.shape) >= 2
        }

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        """Compare."""
        for name, parameter in pl_module.named_parameters():
            if name in self._before:
                before = self._before[name]
                ratio = float((parameter.detach() - before).norm() / before.norm().clamp(min=1e-30))
                self._ratios.setdefault(name, []).append(ratio)

    def truth(self, model: Any) -> Truth:
        """Weight matrices whose steps in the last quarter are that short."""
        late = {name: torch.tensor(r[-len(r) // 4 :]).mean().item() for name, r in self._ratios.items()}
        return Truth(
            frozenset(name for name, ratio in late.items() if ratio < self.within),
            frozenset(name for name, ratio in late.items() if ratio < self.allowed),
        )


class DecayOnAll(Injection):
    """Weight decay on everything, biases and norms too.

    Args:
        weight_decay: Of all groups.
    """

    def __init__(self, weight_decay: float) -> None:
        self.weight_decay = weight_decay

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Set it."""
        for group in trainer.optimizers[0].param_groups:
            group["weight_decay"] = self.weight_decay

    def truth(self, model: Any) -> Truth:
        """All vectors."""
        return Truth(frozenset(name for name, parameter in model.named_parameters() if parameter.ndim < 2))


class UnseenRows(Injection):
    """Rows that never get a gradient move all the same: both are seen on the tensors themselves."""

    def __init__(self) -> None:
        self._start: dict[str, Tensor] = {}
        self._seen: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Keep the tables as they are."""
        for name, parameter in pl_module.named_parameters():
            if parameter.ndim >= 2:
                self._start[name] = parameter.detach().clone()
                self._seen[name] = torch.zeros_like(parameter, dtype=torch.bool)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """See which elements get a gradient; L2 is added to it later, inside the optimizer."""
        for name, parameter in pl_module.named_parameters():
            if name in self._seen and parameter.grad is not None:
                self._seen[name] |= parameter.grad != 0

    def truth(self, model: Any) -> Truth:
        """A tenth of the elements moved without one: to be named. Any: may be named."""
        share = {
            name: float((~self._seen[name] & (parameter != self._start[name])).double().mean())
            for name, parameter in model.named_parameters()
            if name in self._seen
        }
        return Truth(
            frozenset(name for name, moved in share.items() if moved >= 0.1),
            frozenset(name for name, moved in share.items() if moved > 0),
        )


class WrongStateDtype(Injection):
    """At some step the state comes back in a narrower dtype, as from a checkpoint of another precision.

    Args:
        step: Optimizer step.
        dtype: Name in torch.
        parameters: Parameters take that dtype, too: a run in bf16-true that goes on from one in 32-true.
    """

    def __init__(self, step: int, dtype: str = "bfloat16", parameters: bool = False) -> None:
        self.step, self.dtype, self.parameters = step, getattr(torch, dtype), parameters

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Load it, when it is time."""
        if trainer.global_step != self.step:
            return
        optimizer = trainer.optimizers[0]
        if self.parameters:
            for parameter in pl_module.parameters():
                parameter.grad, parameter.data = None, parameter.data.to(self.dtype)
            optimizer.load_state_dict(optimizer.state_dict())  # casts the state to the parameters' dtype
            return
        for state in optimizer.state.values():
            # torch refuses a narrower first moment, but not a narrower second one.
            for key in ("exp_avg_sq", "square_avg", "acc_delta", "sum", "momentum_buffer"):
                if key in state:
                    state[key] = state[key].to(self.dtype)

    def truth(self, model: Any) -> Truth:
        """All parameters."""
        return Truth(frozenset(name for name, _ in model.named_parameters()), onset=self.step)


class EpochwiseSchedule(Injection):
    """A schedule made for steps is stepped once an epoch: Lightning's default interval.

    Args:
        cause: What stands still, ``"warm-up"`` or ``"decay"``.
    """

    def __init__(self, cause: str) -> None:
        self.cause = cause

    def arrange(self, model: Any, data: Any) -> None:
        """Forget the interval."""
        inner = model.configure_optimizers

        def configure_optimizers() -> Any:
            setup = inner()
            del setup["lr_scheduler"]["interval"]
            return setup

        model.configure_optimizers = configure_optimizers

    def truth(self, model: Any) -> Truth:
        """The part of the schedule that does not go on."""
        return Truth(cause=self.cause)


def _name(model: Any, wanted: Tensor) -> str:
    return next(name for name, parameter in model.named_parameters() if parameter is wanted)
