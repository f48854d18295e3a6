"""What only the one who trains knows, and a table does not say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Facts beside a table; what is ``None`` is not known, and rules that need it stay silent.

    Args:
        loss: Training loss of the step. Rules: ``loss-not-finite``, ``step-too-large``.
        clipped_frac: Share of the steps since the last table in which clipping shortened the gradient. Rule:
            ``clipping-always``, which else sees it in the norms.
        gradients_kept: Whether the step began with gradients of the step before, which were not set to zero
            or to None. Rule: ``gradients-not-zeroed``, which else can only guess.
        schedule_steps: How often the learning-rate schedule was advanced so far. Rule: ``schedule-on-skips``.
        total_steps: Steps that the whole run will have. Rules: ``adagrad-decay``, ``schedule-stalled``.
        warmup_steps: Steps over which the learning rate rises; 0 for none. Rule: ``warm-up-missing``.
        precision: Lightning's precision, such as ``"16-mixed"``. Rule: ``fused-clipping``.
        gradient_clip_val: The trainer's; ``None`` where it does not clip. Rule: ``fused-clipping``.
        unoptimized: Trainable parameters that no optimizer has. Rule: ``parameter-without-optimizer``.
    """

    loss: float | None = None
    clipped_frac: float | None = None
    gradients_kept: bool | None = None
    schedule_steps: int | None = None
    total_steps: int | None = None
    warmup_steps: int | None = None
    precision: str | None = None
    gradient_clip_val: float | None = None
    unoptimized: tuple[str, ...] = ()
