"""What is trained for `bf16_states`: known gradients, known weights, and a small language model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_adapt.dynamics import CanonicalStep, StepView, register_rule
from lightning_adapt.recipes.landscapes._lab import Landscape
from lightning_adapt.recipes.landscapes.epsilon_floor import TorchOptimizer

#: Bits behind the point of a number between 1 and 2.
MANTISSA = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}


def half_ulp(x: Tensor) -> Tensor:
    """Half the distance from each element to the next larger one of its dtype, in float64.

    Example:
        >>> half_ulp(torch.tensor([1.0, 1.5, 2.0], dtype=torch.bfloat16)).tolist()
        [0.00390625, 0.00390625, 0.0078125]
    """
    limits = torch.finfo(x.dtype)
    size = x.double().abs().clamp_min(limits.smallest_normal)
    return torch.exp2(size.log2().floor()) * limits.eps / 2


class ReducedAdam(torch.optim.Optimizer):
    """Adam whose moments are stored in ``dtype``, whatever dtype the parameters have.

    torch's Adam stores them in that of the parameter. Here they are averaged in the parameter's dtype and
    rounded to ``dtype``, and the step is made of what is stored.
    """

    def __init__(self, params: Any, dtype: torch.dtype, lr: float, betas: tuple[float, float], eps: float):
        super().__init__(params, {"dtype": dtype, "lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros(())
                    state |= {name: torch.zeros_like(p, dtype=group["dtype"]) for name in ("m", "v")}
                state["step"] += 1
                t = float(state["step"])
                state["m"].copy_(state["m"].to(p.dtype).lerp_(p.grad, 1 - beta1))
                state["v"].copy_(state["v"].to(p.dtype).lerp_(p.grad.square(), 1 - beta2))
                m, v = (state[name].to(p.dtype) for name in ("m", "v"))
                denominator = (v / (1 - beta2**t)).sqrt_().add_(group["eps"])
                p.addcdiv_(m, denominator, value=-group["lr"] / (1 - beta1**t))
        return loss


@register_rule(ReducedAdam)
def reduced_adam(view: StepView) -> CanonicalStep:
    """As Adam's; epsilon is added in the parameter's dtype."""
    (beta1, beta2), t = view.group["betas"], view.step
    return CanonicalStep(
        lr=view.group["lr"],
        first_moment=view.state["m"],
        first_moment_factor=1 / (1 - beta1**t),
        first_moment_correction=1 / (1 - beta1**t),
        second_moment=view.state["v"],
        second_moment_correction=1 / (1 - beta2**t),
        eps=view.eps(view.parameter),
    )


class Fading(Landscape):
    """Constant gradients ``g``, one for each element, that vanish at step ``at``."""

    def __init__(self, g: Tensor, at: int, **options: Any) -> None:
        super().__init__("adam", **options)
        self.g, self.at = g, at
        self.x = nn.Parameter(torch.zeros_like(g))

    def loss(self, step: int) -> Tensor:
        """``sum(g · x)``, then 0."""
        return (self.g * self.x).sum() * float(step < self.at)


class Normal(TorchOptimizer):
    """Normally distributed weights, one tensor for each dtype and learning rate; gradients of 1 or -1."""

    def __init__(self, weights: int, rates: Sequence[float], seed: int, **options: Any) -> None:
        super().__init__("Adam", **options)
        random = torch.Generator().manual_seed(seed)
        w = torch.randn(weights, generator=random)
        self.sign = torch.randn(weights, generator=random).sign()
        self.cells = [(dtype, lr) for dtype in MANTISSA for lr in rates]
        self.x = nn.ParameterList(w.to(dtype) for dtype, _ in self.cells)

    def groups(self) -> list[dict[str, object]]:
        """One group for each tensor, with its learning rate."""
        return [{"params": [x], "lr": lr} for (_, lr), x in zip(self.cells, self.x, strict=True)]

    def loss(self, step: int) -> Tensor:
        """``sum(±x)``."""
        return torch.stack([(x * self.sign.to(x.dtype)).float().sum() for x in self.x]).sum()


class Letters(Landscape):
    """A language model: eight characters, embedded, one hidden layer, the next character.

    Args:
        ids: The text as numbers, shape ``(characters,)``.
        size: Number of different characters.
        seed: Of weights and batches.
        last: The step at which ``unchanged`` is taken.
        **options: Of `ReducedAdam`.
    """

    context, batch = 8, 64

    def __init__(self, ids: Tensor, size: int, seed: int, last: int, **options: Any) -> None:
        super().__init__("", **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Embedding(size, 16),
                nn.Flatten(),
                nn.Linear(16 * self.context, 64),
                nn.Tanh(),
                nn.Linear(64, size),
            )
        self.ids, self.seed, self.last = ids.long(), seed, last
        #: Share of v that a step leaves as it was: as half an ulp predicts it, and as it is.
        self.unchanged = (math.nan, math.nan)

    def loss(self, step: int) -> Tensor:
        """Mean loss of a batch that only ``seed`` and ``step`` decide."""
        random = torch.Generator().manual_seed(10_000 * self.seed + step)
        start = torch.randint(len(self.ids) - self.context, (self.batch, 1), generator=random)
        window = self.ids[start + torch.arange(self.context + 1)]
        return cross_entropy(self.net(window[:, :-1]), window[:, -1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with states in ``dtype``."""
        return ReducedAdam(self.parameters(), **self.options)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Compare v before and after the last step: no column of the table remembers the step before."""
        watched = batch_idx == self.last
        before = [optimizer.state[p]["v"].clone() for p in self.parameters()] if watched else []
        super().optimizer_step(epoch, batch_idx, optimizer, *args, **kwargs)
        if not watched:
            return
        after = torch.cat([optimizer.state[p]["v"].flatten() for p in self.parameters()])
        v = torch.cat([old.flatten() for old in before])
        square = torch.cat([p.grad.flatten().double() ** 2 for p in self.parameters() if p.grad is not None])
        used = (v > 0) | (square > 0)  # a character that never came says nothing
        change = (1 - self.options["betas"][1]) * (square - v.double()).abs()
        told, seen = (change <= half_ulp(v))[used], (after == v)[used]
        self.unchanged = float(told.double().mean()), float(seen.double().mean())
