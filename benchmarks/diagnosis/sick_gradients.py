"""Sicknesses of gradients and of what is done with them."""

from __future__ import annotations

from math import nan

from diagnosis.diagnose import Sign
from diagnosis.sickness import Sickness
from diagnosis.variations import trials, vary

H0, H1 = "model.transformer.h.0", "model.transformer.h.1"
L0, L1 = "model.model.layers.0", "model.model.layers.1"
NOT_CLIPPED = {"gradient_clip_val": None}


def detached() -> Sickness:
    """A layer's output is detached."""
    variations = [
        vary("char-lm", "adamw", layer=f"{H0}.mlp"),
        vary("char-lm", "adam", layer=f"{H1}.mlp"),
        vary("llama", "adamw", layer=f"{L1}.mlp"),
        vary("llama", "rmsprop", layer=f"{L0}.mlp"),
        vary("gcn", "adam", layer="net.conv1"),
        vary("gcn", "adamw", layer="net.conv1", model={"hidden": 32}),
        vary("gin", "adam", layer="net.convs.0"),
        vary("gin", "adagrad", layer="net.convs.0"),
        vary("gat", "adam", layer="net.conv1"),
        vary("gat", "adamw", layer="net.conv1"),
        vary("char-lm", "rmsprop", layer=f"{H0}.mlp.c_fc", trainer={"precision": "bf16-mixed"}),
        vary("char-lm", "adagrad", layer=f"{H1}.mlp.c_fc"),
    ]
    return Sickness(trials("layer detached", "detached", variations), (Sign("no-gradient", ("missing",)),))


def frozen() -> Sickness:
    """A layer is frozen, and still in the optimizer."""
    variations = [
        vary("char-lm", "adamw", steps=60, layer=f"{H0}.attn"),
        vary("char-lm", "adam", steps=80, layer=f"{H1}.mlp", step=20),
        vary("llama", "adamw", steps=60, layer=L0),
        vary("llama", "rmsprop", steps=80, layer=f"{L1}.self_attn", step=30),
        vary("gcn", "adam", steps=80, layer="net.conv1", step=20),
        vary("gcn", "adamw", steps=60, layer="net.conv2"),
        vary("gin", "adam", steps=60, layer="net.convs.1"),
        vary("gin", "adagrad", steps=80, layer="net.convs.0", step=20),
        vary("gat", "adam", steps=60, layer="net.conv1"),
        vary("gat", "adamw", steps=80, layer="net.conv2", step=40),
    ]
    return Sickness(trials("layer frozen", "frozen", variations), (Sign("no-gradient", ("frozen",)),))


def not_zeroed() -> Sickness:
    """Gradients are never set to zero."""
    variations = [
        vary("char-lm", "adamw"),
        vary("char-lm", "adam", trainer=NOT_CLIPPED),
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
    also = ("spike-warning", "overshoot", "step-too-large", "gradient-outlier")
    return Sickness(
        trials("gradients not zeroed", "not-zeroed", variations),
        (Sign("gradients-not-zeroed", whole=True),),
        also,
    )


def exploding() -> Sickness:
    """The gradients of one layer are 10,000 times too large, or more."""
    variations = [
        vary("char-lm", "adamw", layer=f"{H0}.mlp"),
        vary("char-lm", "adam", layer=f"{H1}.attn", step=40),
        vary("llama", "adamw", layer=f"{L1}.mlp", factor=3e4),
        vary("llama", "rmsprop", layer=f"{L0}.self_attn", trainer=NOT_CLIPPED, step=40),
        vary("gcn", "adam", layer="net.conv1"),
        vary("gcn", "rmsprop", layer="net.conv2", step=50),
        vary("gin", "adam", layer="net.convs.1"),
        vary("gin", "adamw", layer="net.convs.2", step=40, factor=3e4),
        vary("gat", "adam", layer="net.conv1", step=40),
        vary("gat", "adamw", layer="net.conv2", factor=3e4),
        vary("char-lm", "rmsprop", layer=f"{H1}.mlp", trainer=NOT_CLIPPED, step=40, factor=1e5),
        vary("char-lm", "adagrad", layer=f"{H0}.attn"),
    ]
    return Sickness(
        trials("exploding layer", "exploding", variations),
        (Sign("gradient-outlier"),),
        # Clipped together with it, all other gradients become next to nothing.
        ("spike-warning", "overshoot", "gradient-depth", "step-too-large", "epsilon-floor"),
    )


def infinite_batch() -> Sickness:
    """One batch is inf, and no gradient scaler skips it."""
    variations = [
        vary("char-lm", "adamw", steps=50, step=30),
        vary("char-lm", "adam", steps=50, step=20, value=nan, trainer={"precision": "bf16-mixed"}),
        vary("llama", "adamw", steps=50, step=30, parameter=f"{L0}.mlp.up_proj.weight"),
        vary("llama", "rmsprop", steps=50, step=20, parameter=f"{L1}.self_attn.q_proj.weight"),
        vary("gcn", "adam", steps=50, step=30),
        vary("gcn", "adamw", steps=50, step=20, parameter="net.conv1.lin.weight"),
        vary("gin", "adam", steps=50, step=30, parameter="net.convs.1.nn.0.weight", value=nan),
        vary("gin", "rmsprop", steps=50, step=20),
        vary("gat", "adagrad", steps=50, step=30, parameter="net.conv1.lin.weight"),
        vary("gat", "adam", steps=50, step=20),
        vary("char-lm", "rmsprop", steps=50, step=30, trainer=NOT_CLIPPED),
        vary("char-lm", "nadam", steps=50, step=10, parameter=f"{H0}.mlp.c_fc.weight", trainer=NOT_CLIPPED),
    ]
    return Sickness(
        trials("inf batch", "infinite-batch", variations),
        (Sign("non-finite-gradient", whole=True),),
        ("loss-not-finite", "spike-warning"),
    )


def scale_collapse() -> Sickness:
    """Gradients overflow at any loss scale."""
    fp16 = {"precision": "16-mixed"}
    variations = [
        vary("char-lm", "adamw", steps=60, trainer=fp16, step=30),
        vary("char-lm", "adam", steps=60, trainer={**fp16, "init_scale": 2.0**16}, step=20),
        vary("gcn", "adam", steps=60, trainer=fp16, step=30),
        vary("gcn", "rmsprop", steps=60, trainer=fp16, step=10, factor=1e30),
        vary("gin", "adam", steps=70, trainer=fp16, step=30, factor=1e30),
        vary("gin", "adamw", steps=70, trainer={**fp16, "init_scale": 2.0**13}, step=30),
        vary("llama", "adamw", steps=60, model={"layers": 1}, trainer=fp16, step=30, factor=nan),
        vary("char-lm", "rmsprop", steps=60, model={"layers": 1}, trainer=fp16, step=40),
        vary("gat", "adam", steps=60, trainer=fp16, step=20),
        vary("gcn", "adamw", steps=60, model={"hidden": 32}, trainer=fp16, step=30, factor=nan),
    ]
    return Sickness(
        trials("loss scale collapses", "scale-collapse", variations),
        (Sign("loss-scale-collapse", whole=True),),
        ("skipped-steps", "loss-not-finite", "schedule-on-skips"),
    )


def two_optimizers() -> Sickness:
    """A layer is in two optimizers."""
    variations = [
        vary("char-lm", steps=30, trainer=NOT_CLIPPED, layer="model.transformer.wte"),
        vary("char-lm", steps=30, trainer=NOT_CLIPPED, layer=H1, second="Adam"),
        vary("llama", steps=30, trainer=NOT_CLIPPED, layer=f"{L0}.mlp"),
        vary("llama", steps=30, trainer=NOT_CLIPPED, layer=L1, first="RMSprop"),
        vary("gcn", steps=30, layer="net.conv1"),
        vary("gcn", steps=30, layer="net.conv2", first="Adam", second="SGD"),
        vary("gin", steps=30, layer="net.convs.0", second="Adagrad"),
        vary("gin", steps=30, layer="net.head", first="Adam", second="Adam"),
        vary("gat", steps=30, layer="net.conv1"),
        vary("gat", steps=30, layer="net.conv2", first="Adagrad", second="RMSprop"),
    ]
    # torch's AdamW decays whatever it is given.
    also = ("decay-on-norms",)
    return Sickness(trials("two optimizers", "two-optimizers", variations), (Sign("two-optimizers"),), also)
