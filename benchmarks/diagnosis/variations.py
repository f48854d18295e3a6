"""Short ways to write down variations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diagnosis.trial import Trial

Settings = Mapping[str, Any]
NONE: Settings = {}

STEPS = {"char-lm": 100, "llama": 90, "text": 80, "gcn": 120, "gat": 100, "gin": 110}
"""Optimizer steps where a variation says nothing else."""


def vary(
    recipe: str,
    optimizer: str = "",
    *,
    steps: int = 0,
    model: Settings = NONE,
    data: Settings = NONE,
    trainer: Settings = NONE,
    every: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """One variation.

    Args:
        recipe: One of `recipes.RECIPES`.
        optimizer: ``""`` takes the recipe's.
        steps: Optimizer steps; 0 takes those in `STEPS`.
        model: Arguments of the module.
        data: Arguments of the data module.
        trainer: Arguments of the Trainer.
        every: The rules see every so-manyth table.
        **options: Arguments of the injection.
    """
    named = {"optimizer": optimizer} if optimizer else {}
    return {
        "recipe": recipe,
        "steps": steps or STEPS[recipe],
        "model": {**named, **model},
        "data": dict(data),
        "trainer": dict(trainer),
        "every": every,
        "options": options,
    }


def trials(name: str, injection: str, variations: Sequence[dict[str, Any]]) -> tuple[Trial, ...]:
    """Trials of one sickness; every second one is held out."""
    return tuple(Trial(name, number, injection=injection, **one) for number, one in enumerate(variations))
