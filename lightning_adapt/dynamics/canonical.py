"""The canonical step: the one form that every diagonal optimizer's update is brought to.

``update = -effective_lr * numerator - decay * before``, where

- ``numerator = first_moment_factor * first_moment + gradient_factor * (±gradient + l2 * before)``
- ``effective_lr = lr / denominator``
- ``denominator = sqrt(second_moment_hat) + eps``
- ``second_moment_hat = second_moment * second_moment_correction``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_adapt.dynamics.table import RowInfo

Scalar = float | Tensor
"""A number the host knows, or a 0-dim float64 tensor where the optimizer keeps its step on the device."""

Described = tuple[int, tuple[Scalar, ...], tuple[Tensor | None, ...]]
"""A canonical step as kernels see it: form, numbers and tensors, see `descriptors`."""

EpsPlacement = Literal["outside", "inside", "clamp"]


@dataclass(slots=True)
class StepView:
    """What an update rule reads: one parameter, or a piece of one, right after its optimizer stepped.

    Args:
        parameter: After the step.
        gradient: Unscaled, clipped, dense; ``None`` when the parameter had none.
        state: ``optimizer.state[parameter]``; complex tensors viewed as real.
        group: Its parameter group, hyper-parameters as the step used them.
        step: The parameter's own step count after the step.
        before: The parameter before the step, when it was kept.
        touched: Shape of the parameter, bool: which elements a sparse gradient named; ``None`` if dense.
        remembered: Small state entries copied before the step, see ``register_rule(remember=…)``.
    """

    parameter: Tensor
    gradient: Tensor | None
    state: Mapping[str, Any]
    group: Mapping[str, Any]
    step: Scalar
    before: Tensor | None = None
    touched: Tensor | None = None
    remembered: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def fused(self) -> bool:
        """Whether torch's fused kernel made the step (it computes half precision in fp32)."""
        return bool(self.group.get("fused"))

    def eps(self, state: Tensor) -> float:
        """``group["eps"]`` as the step really added it: rounded to the dtype of the denominator."""
        dtype = torch.float32 if self.fused and state.dtype.itemsize < 4 else state.dtype
        return rounded(float(self.group["eps"]), dtype)


@dataclass(slots=True)
class CanonicalStep:
    """Tensors and scalars of one parameter's step in canonical form (see the module's formulas).

    All tensors have the shape of the parameter; nothing here is a copy.

    Args:
        lr: Learning rate of this step with all scalar factors, ``lr · a`` without the bias correction of m.
        first_moment: What the optimizer stores as m, ``None`` without one.
        first_moment_factor: Its weight in the numerator (Adam: ``1 / (1 - beta1**t)``).
        first_moment_correction: ``m_hat = first_moment · correction``; ``None`` where m is not in gradient
            units, so that a signal-to-noise ratio makes no sense.
        gradient_factor: Weight of the gradient in the numerator.
        numerator: Given outright when it is not of that form.
        preconditioned: The numerator already contains the division by the denominator (RMSprop's momentum).
        maximize: The step goes up the gradient.
        l2: Weight decay that is added to the gradient, ``g + l2 · before``.
        decay: Decoupled weight decay as a factor on the parameter, ``lr · wd``.
        second_moment: What the optimizer stores as v, ``None`` without one (SGD).
        second_moment_correction: ``b``.
        second_moment_is_root: It stores ``sqrt(v_hat) + eps`` itself (Adamax).
        centering: Subtracted squared from v (centered RMSprop).
        eps: As really added; ``None`` without one.
        eps_placement: ``"outside"`` ``sqrt(v_hat) + eps``, ``"inside"`` ``sqrt(v_hat + eps)``, ``"clamp"``
            ``max(sqrt(v_hat), eps)``.
        adaptive: 0 when the step did not use the denominator although there is one (early RAdam).
        effective_lr: Given outright, per element, when it is not ``lr / denominator``.
        gradient: Given when ``.grad`` no longer holds the gradient after the step.
    """

    lr: Scalar
    first_moment: Tensor | None = None
    first_moment_factor: Scalar = 0.0
    first_moment_correction: Scalar | None = None
    gradient_factor: Scalar = 0.0
    numerator: Tensor | None = None
    preconditioned: bool = False
    maximize: bool = False
    l2: float = 0.0
    decay: Scalar = 0.0
    second_moment: Tensor | None = None
    second_moment_correction: Scalar = 1.0
    second_moment_is_root: bool = False
    centering: Tensor | None = None
    eps: Scalar | None = None
    eps_placement: EpsPlacement = "outside"
    adaptive: Scalar = 1.0
    effective_lr: Tensor | None = None
    gradient: Tensor | None = None


@dataclass(slots=True)
class Row:
    """What an engine measures: one parameter, its gradient and its canonical step.

    Args:
        info: Name, group, shape, dtypes.
        parameter: After the step, real.
        before: Before the step, or ``None`` to predict the update from the state.
        gradient: As the step used it, or ``None``.
        gradient_factor: Multiplies ``gradient`` (1 / loss scale after a fused step that was skipped).
        canonical: ``None`` when there is no rule or no state yet: only gradient, parameter and measured
            update are reported.
        applied: 1 if the parameter was stepped, 0 if not (skipped step, no gradient).
        continues: A further piece of the parameter that the row before is of; figures of pieces are merged.
        temporary: Bytes that were computed for this row alone, and are freed with it.
    """

    info: RowInfo
    parameter: Tensor
    before: Tensor | None
    gradient: Tensor | None
    canonical: CanonicalStep | None
    gradient_factor: Scalar = 1.0
    applied: Scalar = 1.0
    continues: bool = False
    temporary: int = 0

    @property
    def described(self) -> Described | None:
        """The step as `descriptors` has it, where that is known without the step."""
        return None


@lru_cache(maxsize=256)
def rounded(value: float, dtype: torch.dtype) -> float:
    """``value`` rounded to ``dtype``.

    Example:
        >>> rounded(1e-8, torch.float16)
        0.0
    """
    return host_number(torch.tensor(value, dtype=dtype))


def host_number(tensor: Tensor) -> float:
    """The number in a one-element tensor that lies on the host."""
    number: Any = tensor.tolist()  # a third of the time that `.item()` through torch's dispatcher takes
    while isinstance(number, list):  # torch takes a learning rate of shape (1,), too
        (number,) = number
    return float(number)


def as_real(tensor: Tensor) -> Tensor:
    """A complex tensor as its real view with a last dimension of 2; a real one unchanged."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
