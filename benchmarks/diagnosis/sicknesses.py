"""All sicknesses.

Their variations alternate: those with an even number are there to set thresholds on, those with an odd one
are held out. Neighbours differ in more than the seed: in recipe, optimizer, size or precision.
"""

from __future__ import annotations

from diagnosis import sick_gradients, sick_settings
from diagnosis.sickness import Sickness


def sicknesses() -> list[Sickness]:
    """In the order of the table."""
    return [
        sick_settings.large_epsilon(),
        sick_settings.lost_epsilon(),
        sick_settings.stuck_moment(),
        sick_settings.wrong_state_dtype(),
        sick_settings.large_rate(),
        sick_settings.small_rate(),
        sick_settings.adagrad_stall(),
        sick_settings.epochwise_schedule(),
        sick_settings.decay_on_norms(),
        sick_settings.unseen_rows(),
        sick_gradients.detached(),
        sick_gradients.frozen(),
        sick_gradients.not_zeroed(),
        sick_gradients.exploding(),
        sick_gradients.infinite_batch(),
        sick_gradients.scale_collapse(),
        sick_gradients.two_optimizers(),
    ]
