"""Called once a step, whatever the optimizer's class does inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_adapt.dynamics.step_hooks import StepHooks


class Outer(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("cls", [torch.optim.SGD, Outer])
def test_before_and_after_are_called_once_a_step(cls: type[torch.optim.SGD]) -> None:
    optimizer = cls([nn.Parameter(torch.ones(1))], lr=0.1)
    told: list[object] = []
    hooks = StepHooks(optimizer, before=told.append, after=lambda: told.append("after")).attach()
    hooks.attach()
    optimizer.step()
    optimizer.step()
    assert told == [False, "after", False, "after"]
    assert not hooks.stepping
    hooks.detach()
    optimizer.step()
    assert len(told) == 4


@pytest.mark.parametrize("cls", [torch.optim.SGD, Outer])
def test_a_step_that_failed_is_told_at_the_next(cls: type[torch.optim.SGD]) -> None:
    optimizer = cls([nn.Parameter(torch.ones(1))], lr=0.1)
    told: list[object] = []
    hooks = StepHooks(optimizer, before=told.append, after=lambda: told.append("after")).attach()

    def closure() -> float:
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        optimizer.step(closure)
    assert hooks.stepping
    optimizer.step()
    assert told == [False, True, "after"]


@pytest.mark.filterwarnings("ignore")
def test_torch_compile_does_not_trace_the_hooks() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    told: list[object] = []
    StepHooks(optimizer, after=lambda: told.append("after")).attach()
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        parameter.grad = torch.ones(1)
        step()
    assert told == ["after"] * 3
