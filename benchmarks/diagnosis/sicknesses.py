"""The sicknesses: how each is brought about, in many variations, and which findings tell it.

Variations alternate: those with an even number are there to set thresholds on, those with an odd one are held
out. Neighbours differ in more than the seed: in recipe, optimizer, size or precision.
"""

from __future__ import annotations

from dataclasses import dataclass

from diagnosis.diagnose import Sign
from diagnosis.trial import Trial
from diagnosis.variations import trials, vary


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


def sicknesses() -> list[Sickness]:
    """All of them."""
    return [large_epsilon(), large_rate(), detached(), not_zeroed()]


def large_epsilon() -> Sickness:
    """Epsilon 1e-3, above most gradients."""
    variations = [
        vary("char-lm", "adamw", eps=1e-3),
        vary("char-lm", "adam", model={"width": 48, "layers": 1}, eps=1e-3),
        vary("llama", "adamw", eps=1e-3),
        vary("char-lm", "rmsprop", eps=1e-3),
        vary("gcn", "adam", eps=1e-3),
        vary("gcn", "adamw", model={"hidden": 32}, eps=1e-3),
        vary("gat", "adam", eps=1e-3),
        vary("gat", "adamw", model={"hidden": 16}, eps=1e-3),
        vary("gcn", "rmsprop", eps=1e-3),
        vary("llama", "rmsprop", model={"layers": 1}, eps=1e-3),
        vary("char-lm", "nadam", trainer={"precision": "bf16-mixed"}, eps=1e-3),
        vary("char-lm", "radam", model={"width": 16}, data={"batch_size": 16}, eps=1e-3),
    ]
    return Sickness(trials("eps 1e-3", "large-epsilon", variations), (Sign("epsilon-floor", ("small",)),))


def large_rate() -> Sickness:
    """A hundred times the recipe's learning rate."""
    variations = [
        vary("char-lm", "adamw", model={"lr": 0.5}),
        vary("char-lm", "adam", model={"lr": 0.5, "warmup_steps": 0}),
        vary("char-lm", "rmsprop", model={"lr": 0.5}),
        vary("llama", "rmsprop", model={"lr": 0.5}, trainer={"gradient_clip_val": 1.0}),
        vary("gcn", "adam", model={"lr": 1.0}),
        vary("gcn", "adamw", model={"lr": 3.0}),
        vary("gin", "adam", model={"lr": 1.0}),
        vary("gin", "rmsprop", model={"lr": 1.0}),
        vary("gat", "adam", model={"lr": 1.0}),
        vary("gat", "rmsprop", model={"lr": 1.0}),
        vary("char-lm", "adagrad", model={"lr": 6.0}),
        vary("llama", "adamw", model={"lr": 0.5, "layers": 1}),
    ]
    also = (
        "spike-warning",
        "loss-not-finite",
        "non-finite-gradient",
        "gradient-outlier",
        "gradient-depth",
        "decay-dominates",
        "first-moment-collapse",
        "epsilon-floor",
        "no-gradient",
    )
    return Sickness(trials("rate × 100", "", variations), (Sign("step-too-large", whole=True),), also)


def detached() -> Sickness:
    """A layer's output is detached."""
    h0, h1 = "model.transformer.h.0", "model.transformer.h.1"
    variations = [
        vary("char-lm", "adamw", layer=f"{h0}.mlp"),
        vary("char-lm", "adam", layer=f"{h1}.mlp"),
        vary("llama", "adamw", layer="model.model.layers.1.mlp"),
        vary("llama", "rmsprop", layer="model.model.layers.0.mlp"),
        vary("gcn", "adam", layer="net.conv1"),
        vary("gcn", "adamw", layer="net.conv1", model={"hidden": 32}),
        vary("gin", "adam", layer="net.convs.0"),
        vary("gin", "adagrad", layer="net.convs.0"),
        vary("gat", "adam", layer="net.conv1"),
        vary("gat", "adamw", layer="net.conv1"),
        vary("char-lm", "rmsprop", layer=f"{h0}.mlp.c_fc", trainer={"precision": "bf16-mixed"}),
        vary("char-lm", "adagrad", layer=f"{h1}.mlp.c_fc"),
    ]
    return Sickness(trials("layer detached", "detached", variations), (Sign("no-gradient", ("missing",)),))


def not_zeroed() -> Sickness:
    """Gradients are never set to zero."""
    variations = [
        vary("char-lm", "adamw"),
        vary("char-lm", "adam", trainer={"gradient_clip_val": 1.0}),
        vary("llama", "adamw"),
        vary("llama", "rmsprop"),
        vary("gcn", "adam"),
        vary("gcn", "rmsprop"),
        vary("gin", "adam"),
        vary("gin", "adamw"),
        vary("gat", "adam"),
        vary("gat", "adagrad"),
        vary("char-lm", "adagrad", trainer={"precision": "bf16-mixed"}),
        vary("char-lm", "sgd", trainer={"precision": "16-mixed"}),
    ]
    also = ("spike-warning", "step-too-large", "gradient-outlier")
    return Sickness(
        trials("gradients not zeroed", "not-zeroed", variations),
        (Sign("gradients-not-zeroed", whole=True),),
        also,
    )
