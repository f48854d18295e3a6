"""What only the one who trains knows, and a table does not say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Facts beside a table; what is ``None`` is not known, and rules that need it stay silent.

    Args:
        loss: Training loss of the step.
        clipped_frac: Share of the steps since the last table in which clipping shortened the gradient.
        gradients_kept: Whether a step began with gradients of the step before, which nobody asked for.
        schedule_steps: How often the learning-rate schedule was advanced so far.
        total_steps: Optimizer steps that the whole run will have.
        precision: Lightning's precision, such as ``"16-mixed"``.
    """

    loss: float | None = None
    clipped_frac: float | None = None
    gradients_kept: bool | None = None
    schedule_steps: int | None = None
    total_steps: int | None = None
    precision: str | None = None
