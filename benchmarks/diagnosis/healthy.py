"""Healthy trainings: whatever is a warning here is a false alarm.

They are the recipes as they are meant to be used: rates, decay, clipping and schedules of their YAML, with an
eighth to a fifth of the run as warm-up where they have one. Parameters with rows that never get a gradient
are among them (positions beyond the context, rare words): no sickness, unless a rule says more than info.
"""

from __future__ import annotations

from diagnosis.trial import Trial
from diagnosis.variations import trials, vary

BF16, FP16 = {"precision": "bf16-mixed"}, {"precision": "16-mixed"}


def healthy() -> tuple[Trial, ...]:
    """All of them; every second one is held out."""
    variations = [*_decoders(), *_classifiers(), *_nodes(), *_graphs()]
    return trials("healthy", "", variations)


def _decoders() -> list[dict[str, object]]:
    """Character models, GPT-2 and Llama."""
    wide, long = {"width": 48, "layers": 1}, {"context": 64}
    return [
        vary("char-lm", "adamw"),
        vary("char-lm", "adamw", model=wide),
        vary("char-lm", "adam"),
        vary("char-lm", "adam", model={"schedule": "linear"}, data={"batch_size": 16}),
        vary("char-lm", "rmsprop"),
        vary("char-lm", "rmsprop", model=wide),
        vary("char-lm", "adagrad"),
        vary("char-lm", "adagrad", model=wide, trainer=BF16),
        vary("char-lm", "adamw", trainer=BF16),
        vary("char-lm", "adam", trainer=FP16),
        vary("char-lm", "adamw", trainer=FP16, model={"layers": 1}),
        vary("char-lm", "rmsprop", trainer=FP16, model={"layers": 1}),
        vary("char-lm", "nadam"),
        vary("char-lm", "radam"),
        vary("char-lm", "adamax"),
        vary("char-lm", "adadelta"),
        vary("char-lm", "adafactor"),
        vary("char-lm", "adafactor", model=wide),
        vary("llama", "adamw"),
        vary("llama", "adamw", model={"layers": 3, "lr": 3e-3}),
        vary("llama", "adam"),
        vary("llama", "rmsprop"),
        vary("llama", "adagrad"),
        vary("llama", "adamw", trainer=BF16),
        vary("char-lm", "adamw", steps=200, model={"warmup_steps": 40}),
        vary("llama", "adamw", steps=200, model={"warmup_steps": 40}),
        vary("char-lm", "adamw", model={"optimizer_options": {"betas": (0.9, 0.999)}}),
        vary("llama", "adam", model={"optimizer_options": {"betas": (0.9, 0.95)}}),
        vary("char-lm", "adamw", model={**long, "dropout": 0.1}),
        vary("llama", "adamw", model={"schedule": "constant", "lr": 2e-3}),
        vary("char-lm", "adam", model={"lr": 1e-3, "schedule": "inverse_sqrt"}),
        vary("char-lm", "adamw", trainer={"accumulate_grad_batches": 2}, steps=80),
    ]


def _classifiers() -> list[dict[str, object]]:
    """Sentences."""
    return [
        vary("text", "adamw"),
        vary("text", "adam"),
        vary("text", "rmsprop"),
        vary("text", "adamw", model={"warmup_steps": 15, "layers": 1}),
        vary("text", "adagrad", model={"layers": 1}),
        vary("text", "adamw", trainer=BF16, model={"layers": 1}),
    ]


def _nodes() -> list[dict[str, object]]:
    """Nodes of a graph."""
    return [
        vary("gcn", "adam"),
        vary("gcn", "adam", data={"train_per_class": 20}),
        vary("gcn", "adamw"),
        vary("gcn", "adamw", model={"hidden": 32}),
        vary("gcn", "rmsprop"),
        vary("gcn", "adagrad"),
        vary("gcn", "adam", trainer=BF16),
        vary("gcn", "adam", trainer=FP16),
        vary("gcn", "nadam"),
        vary("gcn", "radam"),
        vary("gcn", "adamax"),
        vary("gcn", "adadelta"),
        vary("gcn", "adam", model={"schedule": "cosine", "warmup_steps": 10}),
        vary("gcn", "adam", data={"name": "KarateClub"}),
        vary("gat", "adam"),
        vary("gat", "adamw"),
        vary("gat", "rmsprop"),
        vary("gat", "adagrad"),
        vary("gcn", "adafactor"),
        vary("gcn", "adam", steps=200),
    ]


def _graphs() -> list[dict[str, object]]:
    """Whole graphs."""
    return [
        vary("gin", "adam"),
        vary("gin", "adam", model={"schedule": "cosine"}),
        vary("gin", "adamw"),
        vary("gin", "adamw", model={"hidden": 32, "schedule": "cosine"}),
        vary("gin", "rmsprop", model={"schedule": "cosine"}),
        vary("gin", "adagrad"),
        vary("gin", "adam", trainer=BF16),
        vary("gin", "adam", trainer=FP16),
        vary("gin", "adam", model={"layers": 4, "warmup_steps": 15}),
        vary("gin", "adam", data={"batch_size": 32}),
    ]
