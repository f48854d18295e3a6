"""Healthy trainings: whatever is a warning here is a false alarm."""

from __future__ import annotations

from diagnosis.trial import Trial
from diagnosis.variations import trials, vary


def healthy() -> tuple[Trial, ...]:
    """All of them; every second one is held out."""
    variations = [
        vary("char-lm", "adamw"),
        vary("char-lm", "adam"),
        vary("char-lm", "rmsprop"),
        vary("char-lm", "adagrad"),
        vary("gcn", "adam"),
        vary("gcn", "adamw"),
    ]
    return trials("healthy", "", variations)
