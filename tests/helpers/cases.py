"""Tables that tests walk: every optimizer with its options, small models, one way to train them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.rows import Circumstances, build_rows, members
from lightning_adapt.dynamics.update_rules import rule_for
from lightning_adapt.optimizers import catalog


@dataclass(frozen=True)
class Case:
    """An optimizer class with options; ``two_d`` if it takes matrices only."""

    cls: type[torch.optim.Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    two_d: bool = False

    @property
    def id(self) -> str:
        return "-".join([self.cls.__name__, *(f"{k}={v}" for k, v in self.options.items())])


def _from_catalog() -> list[Case]:
    cases = []
    for info in catalog.values():
        cls = getattr(torch.optim, info.class_name, None)
        if cls is not None:
            two_d = info.name == "muon"
            cases += [Case(cls, {"weight_decay": wd}, two_d) for wd in (0.0, 0.1)]
    return cases


ADAM_LIKE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam)

OPTIMIZERS: list[Case] = [
    *_from_catalog(),
    *(Case(cls, {"maximize": True, "weight_decay": 0.1}) for cls in ADAM_LIKE),
    *(Case(cls, {"decoupled_weight_decay": True, "weight_decay": 0.1}) for cls in ADAM_LIKE[2:]),
    *(Case(cls, {"foreach": foreach, "weight_decay": 0.1}) for cls in ADAM_LIKE for foreach in (True, False)),
    *(Case(cls, {"amsgrad": True, "weight_decay": 0.1}) for cls in ADAM_LIKE[:2]),
    *(Case(cls, {"fused": True, "weight_decay": 0.1}) for cls in (torch.optim.Adam, torch.optim.AdamW)),
    Case(torch.optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.01}),
    Case(torch.optim.Adagrad, {"fused": True}),
    Case(torch.optim.Adagrad, {"maximize": True, "foreach": True, "weight_decay": 0.1}),
    Case(torch.optim.RMSprop, {"centered": True}),
    Case(torch.optim.RMSprop, {"momentum": 0.9, "weight_decay": 0.1}),
    Case(torch.optim.RMSprop, {"momentum": 0.9, "centered": True, "maximize": True, "foreach": True}),
    Case(torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    Case(torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
    *(Case(torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "foreach": f}) for f in (True, False)),
    Case(torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "foreach": True, "weight_decay": 0.1}),
    Case(torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "foreach": True, "maximize": True}),
    Case(torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}),
    Case(torch.optim.Adamax, {"foreach": True, "maximize": True, "weight_decay": 0.1}),
    Case(torch.optim.Adadelta, {"foreach": True, "maximize": True, "weight_decay": 0.1, "lr": 0.5}),
    *([Case(torch.optim.Adafactor, {"maximize": True, "foreach": True})] if "adafactor" in catalog else []),
    Case(torch.optim.ASGD, {"weight_decay": 0.1}),
    Case(torch.optim.ASGD, {"lambd": 0.1, "foreach": True, "maximize": True}),
    Case(torch.optim.Rprop),
    Case(torch.optim.Rprop, {"maximize": True, "foreach": True}),
    *(
        [
            Case(torch.optim.Muon, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}, two_d=True),
            Case(torch.optim.Muon, {"adjust_lr_fn": "original", "weight_decay": 0.1}, two_d=True),
        ]
        if hasattr(torch.optim, "Muon")
        else []
    ),
]

all_optimizers = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.id)


class Small(nn.Module):
    """Two layers, a bias that gets no gradient, a 0-dim and an empty parameter."""

    def __init__(self, two_d: bool = False, empty: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7, bias=not two_d)
        self.second = nn.Linear(7, 3, bias=not two_d)
        if not two_d:
            self.scale = nn.Parameter(torch.tensor(1.5))
            self.empty = nn.Parameter(torch.zeros(0 if empty else 1, 4))
            self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.tanh(self.first(x)))
        return y * self.scale + self.empty.sum() if hasattr(self, "scale") else y


def train_rows(
    case: Case,
    dtype: torch.dtype,
    *,
    steps: int = 12,
    snapshot: bool = True,
    schedule: Callable[[int], float] = lambda step: 1.0 / (1 + 0.1 * step),
) -> Iterator[tuple[list[Row], dict[str, Tensor]]]:
    """Train `Small` and yield, after each step, its rows and the real update of each parameter by name."""
    torch.manual_seed(0)
    # torch's own Adafactor divides by the number of elements.
    model = Small(case.two_d, empty=case.cls.__name__ != "Adafactor").to(dtype)
    optimizer = case.cls(model.parameters(), **{"lr": 0.01, **case.options})
    names = {id(p): name for name, p in model.named_parameters()}
    rule = rule_for(optimizer)
    assert rule is not None
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * schedule(step) / (schedule(step - 1) if step else 1.0)
        optimizer.zero_grad()
        # Bounded, so that maximizing it does not explode.
        model(torch.randn(6, 5, dtype=dtype)).tanh().square().sum().backward()
        before = {id(p): p.detach().clone() for p in model.parameters()}
        remembered = {
            id(p): {
                k: optimizer.state[p][k].clone() for k in rule.remember if k in optimizer.state.get(p, {})
            }
            for p in model.parameters()
        }
        optimizer.step()
        now = Circumstances(before if snapshot else None, remembered, step + 1)
        rows = list(build_rows(optimizer, members(optimizer, names), now))
        real = {name: p.detach() - before[id(p)] for name, p in model.named_parameters()}
        yield rows, real
