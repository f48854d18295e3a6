"""Step counts: how often an optimizer has stepped each parameter, as it keeps them itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import host_number


class DeviceCount(NamedTuple):
    """A step count on a device: entry ``place`` of ``counts``, the counts of many parameters in float64."""

    counts: Tensor
    place: int


def step_counts(optimizer: torch.optim.Optimizer, fallback: int) -> dict[int, float | DeviceCount]:
    """Each parameter's own step count by ``id``, without waiting for a device.

    Counts kept on a device stay there, in one vector.
    """
    counts: dict[int, float | DeviceCount] = {}
    kept: dict[torch.device, dict[int, Tensor]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            step = optimizer.state.get(parameter, {}).get("step")
            if not isinstance(step, Tensor):
                counts[id(parameter)] = float(fallback if step is None else step)
            elif step.is_cpu:
                counts[id(parameter)] = host_number(step)
            else:
                kept.setdefault(step.device, {})[id(parameter)] = step.reshape(()) if step.dim() else step
    for steps in kept.values():
        stacked = _stacked(list(steps.values()))
        counts |= {key: DeviceCount(stacked, place) for place, key in enumerate(steps)}
    return counts


def _stacked(steps: list[Tensor]) -> Tensor:
    """One vector of numbers, in float64 where the device has it."""
    wide = torch.float32 if steps[0].device.type == "mps" else torch.float64
    alike = len({step.dtype for step in steps}) == 1
    return torch.stack(steps if alike else [step.to(wide) for step in steps]).to(wide)
