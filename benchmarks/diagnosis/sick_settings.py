"""Sicknesses of the set-up: epsilon, dtypes, learning rates, schedules, weight decay."""

# Variations are put together from mappings of keywords.
# pyright: reportArgumentType=false

from __future__ import annotations

from diagnosis.diagnose import Sign
from diagnosis.sickness import Sickness
from diagnosis.variations import trials, vary

DIVERGED = (
    "spike-warning",
    "overshoot",
    "loss-not-finite",
    "non-finite-gradient",
    "gradient-outlier",
    "step-too-large",
)
"""What speaks as well in a training that falls apart."""

BF16, FP16 = {"precision": "bf16-true"}, {"precision": "16-true"}


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
        vary("char-lm", "nadam", model={"width": 16}, data={"batch_size": 16}, eps=1e-3),
    ]
    return Sickness(trials("eps 1e-3", "epsilon", variations), (Sign("epsilon-floor", ("small",)),))


def lost_epsilon() -> Sickness:
    """Epsilon 1e-8, which is 0 in fp16 states."""
    variations = [
        vary("char-lm", "adamw", steps=40, model={"layers": 1}, trainer=FP16, eps=1e-8),
        vary("char-lm", "rmsprop", steps=40, model={"layers": 1}, trainer=FP16, eps=1e-8),
        vary("gcn", "adam", steps=60, trainer=FP16, eps=1e-8),
        vary("gcn", "adamw", steps=60, model={"hidden": 32}, trainer=FP16, eps=1e-8),
        vary("gin", "adam", steps=60, trainer=FP16, eps=1e-8),
        vary("gin", "rmsprop", steps=60, trainer=FP16, eps=1e-8),
        vary("gat", "adam", steps=50, trainer=FP16, eps=1e-8),
        vary("gat", "adamw", steps=50, trainer=FP16, eps=1e-8),
        vary("llama", "adam", steps=40, model={"layers": 1}, trainer=FP16, eps=1e-8),
        vary("char-lm", "nadam", steps=40, model={"layers": 1}, trainer=FP16, eps=1e-8),
    ]
    also = (*DIVERGED, "state-underflow", "second-moment-stuck", "updates-lost", "first-moment-collapse")
    return Sickness(trials("eps 1e-8 in fp16", "lost-epsilon", variations), (Sign("epsilon-lost"),), also)


def stuck_moment() -> Sickness:
    """A second moment in bf16 with beta2 0.999."""
    slow, alpha = {"optimizer_options": {"betas": (0.9, 0.999)}}, {"optimizer_options": {"alpha": 0.999}}
    variations = [
        vary("char-lm", "adamw", model={**slow, "layers": 1}, trainer=BF16),
        vary("char-lm", "adam", model=slow, trainer=BF16),
        vary("gcn", "adam", model=slow, trainer=BF16),
        vary("gcn", "adamw", model={**slow, "hidden": 32}, trainer=BF16),
        vary("gin", "adam", model=slow, trainer=BF16),
        vary("gin", "rmsprop", model=alpha, trainer=BF16),
        vary("gat", "adamw", model=slow, trainer=BF16),
        vary("gat", "rmsprop", model=alpha, trainer=BF16),
        vary("llama", "adamw", model={**slow, "layers": 1}, trainer=BF16),
        vary("char-lm", "nadam", model={**slow, "layers": 1, "width": 16}, trainer=BF16),
    ]
    also = ("updates-lost",)
    return Sickness(
        trials("beta2 0.999 in bf16", "stuck-moment", variations), (Sign("second-moment-stuck"),), also
    )


def large_rate() -> Sickness:
    """A hundred times the recipe's learning rate."""
    variations = [
        vary("char-lm", "adamw", model={"lr": 0.5}),
        vary("char-lm", "adam", model={"lr": 0.5, "warmup_steps": 0}),
        vary("char-lm", "rmsprop", model={"lr": 0.5}),
        vary("llama", "rmsprop", model={"lr": 0.5}),
        vary("gcn", "adam", model={"lr": 1.0}),
        vary("gcn", "adamw", model={"lr": 3.0}),
        vary("gin", "adam", model={"lr": 1.0}),
        vary("gin", "rmsprop", model={"lr": 1.0}),
        vary("gat", "adam", model={"lr": 1.0}),
        vary("gat", "rmsprop", model={"lr": 1.0}),
        vary("char-lm", "adagrad", model={"lr": 6.0}),
        vary("llama", "adamw", model={"lr": 0.5, "layers": 1}),
    ]
    also = (*DIVERGED, "gradient-depth", "decay-dominates", "first-moment-collapse", "epsilon-floor")
    # Weights that have exploded are too large for any step that comes after.
    also = (*also, "step-too-small")
    return Sickness(
        trials("rate × 100", "", variations), (Sign("step-too-large", whole=True),), (*also, "no-gradient")
    )


def small_rate() -> Sickness:
    """A thousandth of the recipe's learning rate."""
    limits = {"within": 1e-4, "allowed": 1e-3}
    variations = [
        vary("char-lm", "adamw", model={"lr": 5e-6}, **limits),
        vary("char-lm", "adam", model={"lr": 5e-6, "warmup_steps": 0}, **limits),
        vary("char-lm", "rmsprop", model={"lr": 5e-6}, **limits),
        vary("llama", "rmsprop", model={"lr": 5e-6}, **limits),
        vary("gcn", "adam", model={"lr": 1e-5}, **limits),
        vary("gcn", "adamw", model={"lr": 3e-5}, **limits),
        vary("gin", "adam", model={"lr": 1e-5}, **limits),
        vary("gin", "adam", model={"lr": 1e-5, "hidden": 32, "layers": 2}, **limits),
        vary("gat", "adam", model={"lr": 1e-5}, **limits),
        vary("gat", "rmsprop", model={"lr": 1e-5}, **limits),
        vary("char-lm", "adagrad", model={"lr": 6e-5}, **limits),
        vary("llama", "adamw", model={"lr": 5e-6, "layers": 1}, **limits),
    ]
    return Sickness(trials("rate ÷ 1000", "stalling", variations), (Sign("step-too-small"),))


def adagrad_stall() -> Sickness:
    """Adagrad whose rate has fallen until nothing moves."""
    limits = {"within": 3e-4, "allowed": 2e-3}
    full = {"schedule": "constant"}
    variations = [
        vary("char-lm", "adagrad", model={**full, "optimizer_options": {"lr_decay": 10.0}}, **limits),
        vary(
            "llama", "adagrad", model={**full, "optimizer_options": {"lr_decay": 20.0}, "layers": 1}, **limits
        ),
        vary("gcn", "adagrad", model={"optimizer_options": {"initial_accumulator_value": 1e3}}, **limits),
        vary("gat", "adagrad", model={"optimizer_options": {"initial_accumulator_value": 1e3}}, **limits),
        vary("gin", "adagrad", model={**full, "optimizer_options": {"lr_decay": 1.0}}, **limits),
        vary("gcn", "adagrad", steps=160, model={"optimizer_options": {"lr_decay": 5.0}}, **limits),
        vary(
            "char-lm",
            "adagrad",
            model={**full, "optimizer_options": {"initial_accumulator_value": 1e4}},
            **limits,
        ),
        vary(
            "llama",
            "adagrad",
            model={**full, "optimizer_options": {"initial_accumulator_value": 1e4}},
            **limits,
        ),
        vary("gat", "adagrad", steps=160, model={"optimizer_options": {"lr_decay": 5.0}}, **limits),
        vary(
            "char-lm",
            "adagrad",
            model={**full, "optimizer_options": {"lr_decay": 20.0}, "width": 16},
            **limits,
        ),
    ]
    # What lr_decay will do is said of all weights, also of those that still move.
    signs = (Sign("adagrad-decay", ("sum", "lr-decay", "initial")),)
    return Sickness(trials("Adagrad stalls", "stalling", variations), signs)


def epochwise_schedule() -> Sickness:
    """A schedule made for steps that is stepped once an epoch."""
    warm, fall = {"cause": "warm-up"}, {"cause": "decay"}
    epochs = {"limit_train_batches": 25}
    variations = [
        vary("char-lm", "adamw", model={"warmup_steps": 50}, trainer=epochs, **warm),
        vary("char-lm", "adam", model={"warmup_steps": 20}, trainer={"limit_train_batches": 30}, **warm),
        vary("gin", "adam", model={"warmup_steps": 30, "schedule": "linear"}, **warm),
        vary("gin", "rmsprop", model={"warmup_steps": 50, "schedule": "constant"}, **warm),
        vary("gin", "adam", model={"schedule": "cosine"}, **fall),
        vary("gin", "adamw", model={"schedule": "linear"}, **fall),
        vary("llama", "adamw", model={"warmup_steps": 0}, trainer=epochs, **fall),
        vary("char-lm", "rmsprop", model={"warmup_steps": 0, "schedule": "linear"}, trainer=epochs, **fall),
        vary(
            "text", "adamw", steps=90, model={"warmup_steps": 40}, trainer={"limit_train_batches": 30}, **warm
        ),
        vary("llama", "adamw", model={"warmup_steps": 30}, trainer={}, **warm),
    ]
    return Sickness(
        trials("schedule by epoch", "epochwise-schedule", variations),
        (Sign("schedule-stalled", whole=True),),
        ("step-too-small",),
    )


def decay_on_norms() -> Sickness:
    """Weight decay on biases and norms."""
    variations = [
        vary("char-lm", "adamw", weight_decay=0.1),
        vary("char-lm", "adam", weight_decay=0.05),
        vary("llama", "adamw", weight_decay=0.1),
        vary("llama", "rmsprop", weight_decay=0.02),
        vary("gin", "adamw", weight_decay=0.1),
        vary("gin", "adam", weight_decay=0.05),
        vary("text", "adamw", steps=60, weight_decay=0.1),
        vary("gcn", "adamw", steps=60, weight_decay=0.05),
        vary("char-lm", "adamw", model={"layers": 1}, trainer={"precision": "bf16-mixed"}, weight_decay=0.3),
        vary("gat", "adamw", steps=60, weight_decay=0.01),
    ]
    also = ("l2-with-adaptive", "decay-dominates")
    return Sickness(trials("decay on norms", "decay-on-all", variations), (Sign("decay-on-norms"),), also)


def unseen_rows() -> Sickness:
    """Words, nodes' features and positions that never come, and move all the same."""
    long, few = {"context": 64}, {"package": "torchmetrics", "train_per_class": 1, "val_nodes": 20}
    variations = [
        vary("text", "adamw"),
        vary("text", "adam", model={"weight_decay": 1e-3, "layers": 1}),
        vary("gcn", "adam", data=few),
        vary("gcn", "adamw", model={"weight_decay": 0.05}, data=few),
        vary("gat", "adam", data=few),
        vary("gat", "adamw", model={"weight_decay": 0.05}, data=few),
        vary("char-lm", "adamw", model=long),
        vary("char-lm", "adam", model={**long, "weight_decay": 1e-3}),
        vary("gcn", "rmsprop", model={"hidden": 32}, data={"train_per_class": 2}),
        vary("gcn", "nadam", data={**few, "train_per_class": 2}),
    ]
    return Sickness(trials("unseen rows move", "unseen-rows", variations), (Sign("dead-rows"),))


def wrong_state_dtype() -> Sickness:
    """A state that is narrower than it was."""
    variations = [
        vary("char-lm", "rmsprop", steps=60, step=30),
        vary("char-lm", "adamw", steps=60, step=20),
        vary("gcn", "adam", steps=60, step=30),
        vary("gcn", "rmsprop", steps=60, step=30, dtype="float16"),
        vary("llama", "adamw", steps=60, step=30, parameters=True),
        vary("char-lm", "adam", steps=60, step=40, parameters=True),
        vary("gin", "adagrad", steps=60, step=30),
        vary("gin", "adam", steps=60, step=15),
        vary("gat", "adadelta", steps=60, step=30),
        vary("gat", "rmsprop", steps=60, step=20),
    ]
    # Where v becomes 0 in fp16, and eps with it, the next step divides by 0.
    follow = ("non-finite-gradient", "loss-not-finite")
    also = ("second-moment-stuck", "state-underflow", "updates-lost", "epsilon-lost", *follow)
    return Sickness(
        trials("state in a wrong dtype", "wrong-state-dtype", variations), (Sign("state-dtype"),), also
    )
