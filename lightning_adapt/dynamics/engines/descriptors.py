"""What a single-pass kernel needs to know of a row: flat tensors, scalars, and the form of its step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep, Row, Scalar
from lightning_adapt.dynamics.step_counts import Corrected

#: Tensors of a row, in this order; one that is absent is ``None``.
SLOTS: tuple[str, ...] = (
    "parameter",
    "before",
    "gradient",
    "first_moment",
    "numerator",
    "second_moment",
    "centering",
    "effective_lr",
)

#: Those of them that a canonical step has, in the same order, behind those of the row itself.
STEPPED = SLOTS[3:]

#: Numbers of a row, in this order; see `CanonicalStep` for what they mean.
SCALARS: tuple[str, ...] = (
    "gradient_factor",  # of the row: makes the gradient unscaled
    "applied",
    "lr",
    "first_moment_factor",
    "first_moment_correction",
    "gradient_weight",  # of the gradient in the numerator, negative when maximizing
    "l2",
    "pull",  # of the parameter in the numerator, through L2
    "decay",
    "second_moment_correction",
    "eps",
    "adaptive",
)

#: Types of numbers that the host knows. Asking for these is many times faster than `isinstance(x, Tensor)`.
PLAIN = {float, int, bool}

# The form of a step, as bits.
CANONICAL = 1  # there is a canonical step at all
HAS_EPS = 2
EPS_INSIDE = 4  # sqrt(v_hat + eps)
EPS_CLAMP = 8  # max(sqrt(v_hat), eps)
IS_ROOT = 16  # the second moment is stored as sqrt(v_hat) + eps
PRECONDITIONED = 32  # the numerator is already divided by the denominator
HAS_SNR = 64  # the first moment is in gradient units
HAS_DECAY = 128  # decay or L2 is not 0


@dataclass(slots=True)
class Descriptor:
    """One row as a kernel sees it.

    Args:
        tensors: One entry for each of `SLOTS`: without gaps in memory, elements in the same order.
        scalars: One entry for each of `SCALARS`; 0-dim tensors where only the device knows the number.
        form: Bits, see above.
        numel: Elements.
    """

    tensors: tuple[Tensor | None, ...]
    scalars: tuple[Scalar, ...]
    form: int
    numel: int


def describe(row: Row) -> Descriptor:
    """Describe ``row``; copies a tensor only where it does not lie in memory like the parameter.

    Args:
        row: One parameter with its step.

    Returns:
        Its descriptor, which keeps every tensor alive that it points to.
    """
    parameter, gradient = row.parameter, row.gradient
    if row.described is not None:
        form, numbers, stepped = row.described
    else:
        step = row.canonical
        form, numbers = form_of(step), numbers_of(step, row.gradient_factor, row.applied)
        stepped = tuple([None if step is None else getattr(step, name) for name in STEPPED])
        gradient = gradient if step is None or step.gradient is None else step.gradient
    tensors = (parameter, row.before, gradient, *stepped)
    shape = parameter.shape
    for x in tensors:
        if x is not None and (x.shape != shape or not x.is_contiguous() or x.is_neg()):
            tensors = _flat(tensors, parameter)
            break
    return Descriptor(tensors, numbers, form, parameter.numel())


def _flat(tensors: Sequence[Tensor | None], parameter: Tensor) -> tuple[Tensor | None, ...]:
    """Each tensor without gaps in memory, elements of all in the same order."""
    # Largest stride first: this permutation makes a dense tensor contiguous, without a copy.
    order = sorted(range(parameter.dim()), key=parameter.stride, reverse=True)
    named = zip(SLOTS, tensors, strict=True)
    whole = [None if x is None else _expanded(name, x, parameter).resolve_neg() for name, x in named]
    # reshape may give a view with gaps, where a kernel would read what lies between.
    return tuple([None if x is None else x.detach().permute(order).reshape(-1).contiguous() for x in whole])


def _expanded(name: str, x: Tensor, parameter: Tensor) -> Tensor:
    """``x`` with an element for each of the parameter's, which a kernel takes for granted."""
    try:
        return x.expand(parameter.shape)
    except RuntimeError as error:
        raise ValueError(
            f"`{name}` of a canonical step must have the shape of its parameter, {tuple(parameter.shape)}, "
            f"or one that expands to it, got {tuple(x.shape)}; mend the update rule"
        ) from error


def form_of(step: CanonicalStep | None) -> int:
    """The form of ``step`` as bits."""
    if step is None:
        return 0
    decays = isinstance(step.decay, Tensor) or bool(step.decay) or bool(step.l2)
    return (
        CANONICAL
        | HAS_EPS * (step.eps is not None)
        | EPS_INSIDE * (step.eps_placement == "inside")
        | EPS_CLAMP * (step.eps_placement == "clamp")
        | IS_ROOT * step.second_moment_is_root
        | PRECONDITIONED * step.preconditioned
        | HAS_SNR * (step.first_moment is not None and step.first_moment_correction is not None)
        | HAS_DECAY * decays
    )


def numbers_of(step: CanonicalStep | None, gradient_factor: Scalar, applied: Scalar) -> tuple[Scalar, ...]:
    """The numbers of ``step``, one for each of `SCALARS`."""
    if step is None:
        return (gradient_factor, applied) + (0.0,) * (len(SCALARS) - 2)
    for name in ("gradient_factor", "l2"):  # which are computed with below
        if isinstance(getattr(step, name), Corrected):
            raise ValueError(
                f"`{name}` of a lasting rule must be a number, got the promise of one; take `view.step` there"
            )
    outright = step.numerator is not None
    correction = step.first_moment_correction
    return (
        gradient_factor,
        applied,
        step.lr,
        0.0 if outright else step.first_moment_factor,
        0.0 if correction is None else correction,
        0.0 if outright else step.gradient_factor * (-1.0 if step.maximize else 1.0),
        step.l2,
        0.0 if outright else step.gradient_factor * step.l2,
        step.decay,
        step.second_moment_correction,
        0.0 if step.eps is None else step.eps,
        step.adaptive,
    )
