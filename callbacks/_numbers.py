"""Numbers on their way from the device to the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adapt.dynamics.reading import to_host


class Numbers:
    """Numbers, some of them tensors on a device, brought to the host in one copy that nobody waits for.

    Args:
        values: Floats, and tensors of one element, on the host or on one device.

    Example:
        >>> numbers = Numbers([1.0, torch.tensor(2.0)])
        >>> numbers.ready(), numbers.read()
        (True, [1.0, 2.0])
    """

    def __init__(self, values: Sequence[Tensor | float]) -> None:
        self._values: list[float | None] = []
        on_device: list[Tensor] = []
        for value in values:
            if isinstance(value, Tensor) and value.device.type != "cpu":
                on_device.append(value.detach().reshape(()))
                self._values.append(None)
            else:
                self._values.append(float(value.detach() if isinstance(value, Tensor) else value))
        # float64 where there is one: a loss scale has more bits than a loss.
        wide = torch.float32 if any(x.device.type == "mps" for x in on_device) else torch.float64
        buffer = torch.stack([x.to(wide) for x in on_device]) if on_device else torch.zeros(0)
        self._host, self.ready, self._wait = to_host(buffer)

    def read(self) -> list[float]:
        """All of them in order, waiting for the copy if need be."""
        self._wait()
        arrived = iter(self._host.tolist())
        return [next(arrived) if value is None else value for value in self._values]
