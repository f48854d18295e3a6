"""Trainings whose loss spikes: was there a warning before?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diagnosis.diagnose import Diagnosis
from diagnosis.trial import Trial
from diagnosis.variations import NONE, Settings, trials, vary

RULES = ("spike-warning", "overshoot", "step-too-large")
FAR = 20
"""Steps by which a warning may come before the spike that it is said to be of."""

PROVOKED = "gradient comes back"
ORGANIC = "long steps"


@dataclass(frozen=True)
class Spike:
    """One spike of the loss.

    Args:
        trial: Of the training.
        step: Where the loss leaves its running mean.
        lead: Steps since the warning; ``None`` without one.
    """

    trial: Trial
    step: int
    lead: int | None


def spiking() -> tuple[Trial, ...]:
    """Trainings whose loss is made to spike; every second one is held out."""
    return (*_provoked(), *_organic())


def _provoked() -> tuple[Trial, ...]:
    """The gradient is small for a while; the second moment forgets; the first steps after are too long."""
    variations = [
        _back("char-lm", "adam", 0.999),
        _back("char-lm", "adamw", 0.999, lr=0.008, end=70),
        _back("llama", "adam", 0.999),
        _back("llama", "adamw", 0.9999, end=50),
        _back("gin", "adam", 0.999, lr=0.01),
        _back("gin", "adamw", 0.9999, lr=0.02, end=40),
        _back("char-lm", "adam", 0.99),
        _back("char-lm", "adam", 0.99, model={"layers": 1}, factor=0.01),
        _back("char-lm", "nadam", 0.999, batches=2),
        _back("llama", "nadam", 0.999, end=70, over=8),
        _back("char-lm", "adam", 0.999, layer="model.transformer.h.0"),
        _back("llama", "adam", 0.999, layer="model.model.layers.1", lr=0.008),
        _back("gin", "adam", 0.999, lr=0.01, model={"hidden": 32}, factor=0.01),
        _back("gin", "adam", 0.99, lr=0.01, model={"layers": 2}),
        _back("llama", "adamw", 0.999, over=5, lr=0.008),
        _back("char-lm", "adamw", 0.9999, model={"width": 48}, factor=0.01),
        _back("char-lm", "adam", 0.999, factor=0.03, lr=0.008),
        _back("llama", "adam", 0.99, factor=0.02, model={"layers": 1}),
        _back("char-lm", "adamw", 0.999, model={"layers": 3}, end=50, over=10),
        _back("char-lm", "adam", 0.999, trainer={"precision": "bf16-mixed"}, end=50),
        _back("gin", "nadam", 0.999, lr=0.01, end=40),
        _back("gin", "adamw", 0.999, lr=0.02, factor=0.03),
        _back("llama", "adam", 0.999, model={"width": 48}, factor=0.001),
        _back("llama", "adamw", 0.999, end=80, factor=0.001, over=5),
    ]
    return trials(PROVOKED, "returning-signal", variations)


def _back(
    recipe: str,
    optimizer: str,
    beta2: float,
    *,
    lr: float = 0.005,
    end: int = 60,
    factor: float = 0.003,
    batches: int = 1,
    model: Settings = NONE,
    trainer: Settings = NONE,
    layer: str = "",
    over: int = 1,
) -> dict[str, Any]:
    given = {"lr": lr, "optimizer_options": {"betas": (0.9, beta2)}, "schedule": "constant", **model}
    options = {"factor": factor, "begin": 0, "end": end, "layer": layer, "over": over}
    if recipe == "gin":  # all graphs are one batch
        return vary("gin", optimizer, steps=end + 25, model=given, data={"batch_size": 480}, **options)
    given["warmup_steps"] = 10
    trainer = {"gradient_clip_val": None, **trainer}
    return vary(recipe, optimizer, steps=end + 25, model=given, trainer=trainer, batches=batches, **options)


def _organic() -> tuple[Trial, ...]:
    """Nothing is done to them, but the rate is six times too high, and nothing is clipped."""
    rates = ((0.03, 0.99), (0.03, 0.999), (0.02, 0.999), (0.04, 0.99))
    variations = [
        _back(recipe, optimizer, beta2, lr=lr, end=end, factor=1.0)
        for recipe, optimizer, end in (
            ("char-lm", "adam", 115),
            ("llama", "adam", 115),
            ("llama", "adamw", 95),
            ("char-lm", "adamw", 95),
            ("llama", "nadam", 95),
        )
        for lr, beta2 in rates
    ]
    return tuple(
        replace(trial, options={**trial.options, "end": 0})
        for trial in trials(ORGANIC, "returning-signal", variations)
    )


def spikes_of(trial: Trial, diagnosis: Diagnosis) -> list[Spike]:
    """The spikes of a training, and the warnings before them."""
    warned, found = warnings_of(diagnosis), []
    for step in diagnosis.spikes:
        leads = [step - at for at in warned if step - FAR <= at < step]
        found.append(Spike(trial, step, max(leads, default=None)))
    return found


def warnings_of(diagnosis: Diagnosis) -> list[int]:
    """Steps at which a spike was warned of, from the beginning on."""
    said = {f.first_step for f in diagnosis.findings if f.rule in RULES and f.severity != "info"}
    return sorted(step for step in said if step >= diagnosis.onset)


def in_vain(diagnosis: Diagnosis) -> int:
    """Warnings after which no spike came within `FAR` steps, nor was one going on."""
    return sum(all(abs(spike - at) > FAR for spike in diagnosis.spikes) for at in warnings_of(diagnosis))


def watched(trial: Trial, diagnosis: Diagnosis) -> tuple[int, int]:
    """Steps that a spike could have come at with a warning before it, and all steps from the beginning on."""
    warned, steps = warnings_of(diagnosis), range(diagnosis.onset, trial.steps)
    return sum(any(step - FAR <= at < step for at in warned) for step in steps), len(steps)
