"""Step counts: how often an optimizer has stepped each parameter, as it keeps them itself."""

from __future__ import annotations

import operator
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

    Attributes:
        each: As given.
        asked: Whether somebody has asked.
    """

    def __init__(self, each: list[Tensor]) -> None:
        self.each, self.asked = each, False

    def __len__(self) -> int:
        """How many there are."""
        return len(self.each)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.each[0].device

    @property
    def readable(self) -> bool:
        """Whether engines can read each where it is."""
        return all(step.dtype in READABLE for step in self.each)

    @cached_property
    def value(self) -> Tensor:
        """All of them in float64 where the device has it."""
        self.asked = True
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        steps = [step.reshape(()) if step.dim() else step for step in self.each]
        same = len({step.dtype for step in steps}) == 1
        return torch.stack(steps if same else [step.to(wide) for step in steps]).to(wide)


class HostSteps:
    """The step counts of parameters that are alike, kept on the host; a number once somebody asks.

    Args:
        one: The count of one of them, of one element.

    Attributes:
        asked: Whether somebody has asked: then the counts of the others have to be the same.
    """

    def __init__(self, one: Tensor) -> None:
        self._one, self.asked = one, False

    @property
    def readable(self) -> bool:
        """Whether engines can read each where it is."""
        return self._one.dtype in READABLE

    @property
    def begun(self) -> bool:
        """Whether there was a step."""
        return host_number(self._one) >= 1

    @cached_property
    def value(self) -> float:
        """The count."""
        self.asked = True
        return host_number(self._one)


Steps = DeviceSteps | HostSteps


class DeviceCount(NamedTuple):
    """A step count on a device: that of place ``place`` among ``steps``."""

    steps: DeviceSteps
    place: int


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
        """The same without looking at it, of a parameter whose count is a tensor."""
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
    """

    __slots__ = ("_counted",)
    _counted: Steps | Scalar

    @property
    def step(self) -> Scalar:
        """The count, a vector of all counts, or what it was set to."""
        return self._counted.value if isinstance(self._counted, Steps) else self._counted

    @step.setter
    def step(self, steps: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._counted = steps

    @property
    def steps(self) -> Steps | None:
        """The counts, unless ``step`` was set to something else."""
        return self._counted if isinstance(self._counted, Steps) else None


class Corrected(NamedTuple):
    """In the place of a number of a row: ``1 / (1 - beta**t)`` with the row's own count."""

    beta: float


@dataclass(frozen=True, eq=False)
class BiasCorrection:
    """``1 / (1 - beta**t)`` with the count of each parameter, computed when somebody asks for the numbers.

    Kernels that run anyway can read each count where it is: nobody has to bring counts together, torch has
    not to launch several kernels for it, and an update rule says the same at every step. Who computes with it
    computes with the numbers.

    Args:
        beta: Of the moment.
        steps: The counts.
    """

    beta: float
    steps: Steps
    __array_ufunc__ = None  # numpy leaves operators to us

    @cached_property
    def value(self) -> Scalar:
        """The number; a vector of those of all parameters where steps are counted on a device."""
        return 1 / (1 - self.beta**self.steps.value)

    def __getattr__(self, name: str) -> Any:
        """Whatever a number or a tensor has."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.value, name)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Torch's functions, and operators of its tensors."""
        given: Any = tree_map(lambda x: x.value if isinstance(x, cls) else x, (args, kwargs or {}))
        return function(*given[0], **given[1])


def _by_value(name: str) -> Callable[..., Any]:
    return lambda self, *others: getattr(operator, name)(self.value, *others)


def _by_value_reflected(name: str) -> Callable[..., Any]:
    return lambda self, other: getattr(operator, name)(other, self.value)


# Python looks for these in the class alone.
for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(BiasCorrection, f"__{_name}__", _by_value(_name))
    setattr(BiasCorrection, f"__r{_name}__", _by_value_reflected(_name))
for _name in ("neg", "abs", "lt", "le", "gt", "ge"):
    setattr(BiasCorrection, f"__{_name}__", _by_value(_name))
for _kind in (float, bool):
    setattr(BiasCorrection, f"__{_kind.__name__}__", lambda self, kind=_kind: kind(self.value))


def bias_correction(view: StepView, beta: float | Tensor) -> Scalar:
    """``1 / (1 - beta**step)`` (Kingma & Ba 2015).

    Args:
        view: From which ``step`` is taken.
        beta: Of the moment.

    Returns:
        A number, or a `BiasCorrection` in its place.
    """
    steps = view.steps if isinstance(view, CountedView) else None
    if steps is not None and steps.readable and not isinstance(beta, Tensor):
        return cast(Scalar, BiasCorrection(beta, steps))
    return 1 / (1 - beta**view.step)
