"""What a sickness is."""

from __future__ import annotations

from dataclasses import dataclass

from diagnosis.diagnose import Sign
from diagnosis.trial import Trial


@dataclass(frozen=True)
class Sickness:
    """One thing that is wrong with a training.

    Args:
        trials: Its variations.
        signs: Findings that tell it; one is enough.
        also: Rules that may speak as well, because what they say follows from it.
    """

    trials: tuple[Trial, ...]
    signs: tuple[Sign, ...]
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is."""
        return self.trials[0].name
