"""Step counts: how often an optimizer has stepped each parameter, as it keeps them itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_adapt.dynamics.canonical import Scalar, StepView, host_number

#: Dtypes of counts that engines can read where they are.
READABLE = (torch.float32, torch.float64)


class DeviceSteps:
    """The step counts of many parameters, kept on a device; one vector as soon as somebody asks for it.

    Args:
        each: One a parameter, of one element.
    """

    def __init__(self, each: list[Tensor]) -> None:
        self.each = each

    def __len__(self) -> int:
        """How many there are."""
        return len(self.each)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.each[0].device

    @cached_property
    def vector(self) -> Tensor:
        """All of them in float64 where the device has it."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        steps = [step.reshape(()) if step.dim() else step for step in self.each]
        same = len({step.dtype for step in steps}) == 1
        return torch.stack(steps if same else [step.to(wide) for step in steps]).to(wide)


class HostSteps(NamedTuple):
    """The step counts of parameters that are alike, kept on the host: that of one of them, still unread."""

    one: Tensor

    @property
    def number(self) -> float:
        """The count."""
        return host_number(self.one)


class DeviceCount(NamedTuple):
    """A step count on a device: that of place ``place`` among ``steps``."""

    steps: DeviceSteps
    place: int


def likeness(count: float | DeviceCount) -> object:
    """Equal for parameters that may have the same numbers, or entries of the same vectors."""
    return count.steps.device if isinstance(count, DeviceCount) else count


class StepCounts:
    """Each parameter's own step count, without waiting for a device: counts kept there stay there.

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
        if not stays_on_device(step):
            return host_number(step)
        return self._device_count(parameter)

    def unread(self, parameter: Tensor, state: Mapping[str, Any]) -> DeviceCount | HostSteps:
        """The same of a parameter whose count is a tensor, without looking at it."""
        step = state["step"]
        return self._device_count(parameter) if stays_on_device(step) else HostSteps(step)

    def _device_count(self, parameter: Tensor) -> DeviceCount:
        if not self._on_device:
            self._find()
        return self._on_device[id(parameter)]

    def _find(self) -> None:
        kept: dict[torch.device, dict[int, Tensor]] = {}
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                step = self._optimizer.state.get(parameter, {}).get("step")
                if isinstance(step, Tensor) and stays_on_device(step):
                    if step.numel() != 1:
                        raise ValueError(
                            "`step` in an optimizer's state must be one number a parameter, got a tensor of "
                            f"shape {tuple(step.shape)}; keep other counts under another name"
                        )
                    kept.setdefault(step.device, {})[id(parameter)] = step
        for steps in kept.values():
            found = DeviceSteps([*steps.values()])
            self._on_device |= {key: DeviceCount(found, place) for place, key in enumerate(steps)}


def stays_on_device(step: Tensor) -> bool:
    """Whether reading ``step`` on the host would mean to wait for a device."""
    return not step.is_cpu


class CountedView(StepView):
    """What a rule reads of all parameters that are alike, whose step counts nobody has looked at.

    Its ``step`` is found out when it is asked for: a number, or a vector where steps are counted on a device.
    A rule may set another, as in any view.

    Attributes:
        asked: Whether somebody has looked.
    """

    __slots__ = ("_counted", "asked")
    _counted: DeviceSteps | HostSteps | Scalar
    asked: bool

    @property
    def step(self) -> Scalar:
        """The count, the counts as a vector, or what they were set to."""
        self.asked = True
        if isinstance(self._counted, DeviceSteps):
            return self._counted.vector
        return self._counted.number if isinstance(self._counted, HostSteps) else self._counted

    @step.setter
    def step(self, steps: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._counted, self.asked = steps, not isinstance(steps, DeviceSteps | HostSteps)

    @property
    def steps(self) -> DeviceSteps | HostSteps | None:
        """The counts, unless ``step`` was set to something else."""
        return self._counted if isinstance(self._counted, DeviceSteps | HostSteps) else None


class Corrected(NamedTuple):
    """Stands for ``1 / (1 - beta**t)`` with the count of each row, which engines read where it is."""

    beta: float


@dataclass(frozen=True, eq=False)
class BiasCorrection:
    """``1 / (1 - beta**t)`` with the count of each parameter, computed when somebody asks for the numbers.

    Torch would launch several kernels for it, beside those that bring the counts together; a kernel that is
    launched anyway can read each count where it is. Who computes with it computes with the vector.

    Args:
        beta: Of the moment.
        steps: The counts.
    """

    beta: float
    steps: DeviceSteps

    @cached_property
    def vector(self) -> Tensor:
        """The numbers, one a parameter."""
        return 1 / (1 - self.beta**self.steps.vector)

    def __getattr__(self, name: str) -> Any:
        """Whatever a tensor has."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.vector, name)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Torch's functions, and operators of its tensors."""
        given: Any = tree_map(lambda x: x.vector if isinstance(x, cls) else x, (args, kwargs or {}))
        return function(*given[0], **given[1])


def _by_vector(name: str) -> Callable[..., Any]:
    return lambda self, *others: getattr(Tensor, name)(self.vector, *others)


_OPERATORS = "add sub mul truediv pow radd rsub rmul rtruediv rpow neg lt le gt ge"
for _name in _OPERATORS.split():  # Python looks for these in the class alone
    setattr(BiasCorrection, f"__{_name}__", _by_vector(f"__{_name}__"))


def bias_correction(view: StepView, beta: float | Tensor) -> Scalar:
    """``1 / (1 - beta**step)`` (Kingma & Ba 2015).

    Args:
        view: From which ``step`` is taken.
        beta: Of the moment.

    Returns:
        A number, `Corrected` for a `lasting` rule, or a `BiasCorrection` in the place of a vector of numbers.
    """
    steps = view.steps if isinstance(view, CountedView) else None
    if steps is None or isinstance(beta, Tensor):
        return 1 / (1 - beta**view.step)
    promise = Corrected(beta) if isinstance(steps, HostSteps) else BiasCorrection(beta, steps)
    return cast(Scalar, promise)
