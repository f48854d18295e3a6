"""Step counts: how often an optimizer has stepped each parameter, as it keeps them itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import host_number


class DeviceCount(NamedTuple):
    """A step count on a device: entry ``place`` of ``counts``, the counts of many parameters in float64."""

    counts: Tensor
    place: int


class StepCounts:
    """Each parameter's own step count, without waiting for a device: counts kept there stay, in one vector.

    Args:
        optimizer: After its step.
        fallback: The count where the optimizer keeps none.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, fallback: int) -> None:
        self._optimizer, self._fallback = optimizer, fallback
        self._on_device: dict[int, DeviceCount] = {}

    def of(self, parameter: Tensor, state: Mapping[str, Any]) -> float | DeviceCount:
        """The count of ``parameter``, whose entry of the optimizer's state is ``state``."""
        step = state.get("step")
        if not isinstance(step, Tensor):
            return float(self._fallback if step is None else step)
        if step.is_cpu:
            return host_number(step)
        if not self._on_device:
            self._stack()
        return self._on_device[id(parameter)]

    def _stack(self) -> None:
        kept: dict[torch.device, dict[int, Tensor]] = {}
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                step = self._optimizer.state.get(parameter, {}).get("step")
                if isinstance(step, Tensor) and not step.is_cpu:
                    kept.setdefault(step.device, {})[id(parameter)] = step.reshape(()) if step.dim() else step
        for steps in kept.values():
            stacked = _stacked(list(steps.values()))
            self._on_device |= {key: DeviceCount(stacked, place) for place, key in enumerate(steps)}


def _stacked(steps: list[Tensor]) -> Tensor:
    """One vector of numbers, in float64 where the device has it."""
    wide = torch.float32 if steps[0].device.type == "mps" else torch.float64
    alike = len({step.dtype for step in steps}) == 1
    return torch.stack(steps if alike else [step.to(wide) for step in steps]).to(wide)
