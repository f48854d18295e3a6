"""The canonical step: numbers of many parameters at once."""

from __future__ import annotations

import pytest
import torch
from helpers.operations import Operations

from lightning_adapt.dynamics.canonical import DeviceSteps, StepView
from lightning_adapt.dynamics.rows import Circumstances, build_rows, members

BETAS = (0.9, 0.999, torch.tensor(0.99))


def _view(step: float | torch.Tensor, together: tuple[DeviceSteps, int] | None = None) -> StepView:
    return StepView(torch.zeros(1), None, {}, {}, step, together=together)


@pytest.mark.parametrize("beta", BETAS)
def test_corrections_of_many_steps_are_those_of_each(beta: float) -> None:
    counts = [1.0, 7.0, 1000.0]
    steps = DeviceSteps([torch.tensor(count) for count in counts])
    for index, count in enumerate(counts):
        found = _view(steps.each[index], (steps, index)).bias_correction(beta)
        alone = _view(torch.tensor(count, dtype=torch.float64)).bias_correction(beta)
        torch.testing.assert_close(found, alone, rtol=1e-15, atol=0)
        torch.testing.assert_close(float(found), 1 / (1 - float(beta) ** count), rtol=1e-7, atol=0)


def _operations(parameters: int) -> int:
    """Of torch for the rows of a fused Adam, whose steps lie on its device."""
    model = [torch.zeros(3, device="meta", requires_grad=True) for _ in range(parameters)]
    optimizer = torch.optim.Adam(model, lr=0.1)
    for p in model:
        p.grad = torch.zeros_like(p)
        optimizer.state[p] = {
            "step": torch.ones((), device="meta"),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
    with Operations() as operations:
        rows = list(build_rows(optimizer, members(optimizer, {}), Circumstances()))
    assert len(rows) == parameters
    return len(operations.computed)


def test_steps_on_a_device_do_not_cost_operations_for_each_parameter() -> None:
    assert _operations(40) == _operations(4)
