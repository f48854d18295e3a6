"""A sickness for each cause of each health rule.

docs/make_health.py draws the pictures of docs/health.md from the same trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from helpers.sick_runs import (
    BRAIN,
    FUSED,
    HALF,
    Attention,
    Deep,
    Tables,
    adam,
    adamw,
    clipped,
    cut_off,
    group_rates,
    half,
    healthy,
    infinite_at,
    loss_of,
    of_usual,
    reloaded,
    run,
    scaled_gradient,
    swinging,
    two_over_one,
    under_scaler,
    with_loss,
)
from lightning_adapt.health import Facts


@dataclass(frozen=True)
class Sick:
    """A training in which a rule speaks.

    Args:
        rule: The rule.
        cause: Which of its causes.
        tables: Makes the tables.
        parameter: A parameter that it names; ``""`` for the run; ``None``: any.
        facts: Beside each table, by its place.
        about: Line under the picture.
    """

    rule: str
    cause: str
    tables: Callable[[], Tables]
    about: str
    parameter: str | None = None
    facts: Callable[[int], Facts] = lambda at: Facts()

    @property
    def id(self) -> str:
        return f"{self.rule}-{self.cause}" if self.cause else self.rule


CASES: tuple[Sick, ...] = (
    Sick("epsilon-floor", "small", lambda: run(make=of_usual(eps=0.1)), "eps 0.1", "hidden.weight"),
    Sick("epsilon-floor", "no-signal", lambda: run(Attention()), "attention", "attention.in_proj_bias"),
    Sick("epsilon-floor", "untouched", healthy, "words that never come", "embed.weight"),
    Sick(
        "epsilon-floor",
        "adadelta",
        lambda: run(make=lambda model: torch.optim.Adadelta(model.parameters(), lr=1.0, eps=1e-4)),
        "Adadelta",
    ),
    Sick("epsilon-lost", "infinite", lambda: half(HALF, make=adam(eps=1e-8), steps=3), "fp16, eps 1e-8"),
    Sick(
        "epsilon-lost",
        "latent",
        lambda: half(
            HALF, make=adam(eps=1e-8), steps=2, loss=lambda m, s: 300 * sum(p.sum() for p in m.parameters())
        ),
        "fp16, eps 1e-8, every gradient 300",
    ),
    Sick("state-underflow", "zero", lambda: half(HALF, make=adam(eps=1e-4)), "fp16", "hidden.weight"),
    Sick(
        "state-underflow",
        "subnormal",
        lambda: half(
            HALF, make=adam(eps=1e-4), steps=20, loss=lambda m, s: sum(p.sum() for p in m.parameters()) / 40
        ),
        "fp16, every gradient 0.025",
    ),
    Sick("second-moment-stuck", "", lambda: half(BRAIN, make=adamw()), "bf16, beta2 0.999", "hidden.weight"),
    Sick("updates-lost", "", lambda: half(BRAIN, make=of_usual(lr=1e-4)), "bf16, lr 1e-4", "norm.weight"),
    Sick("state-dtype", "narrow", lambda: reloaded(True), "fp32 weights, bf16 state", "hidden.weight"),
    Sick("state-dtype", "narrowed", lambda: reloaded(False), "state loaded into bf16", "hidden.weight"),
    Sick(
        "spike-warning",
        "alarm",
        lambda: run(scale=lambda step: 30.0 if step == 60 else 1.0),
        "one loss 30 times",
        "",
    ),
    Sick(
        "spike-warning",
        "jump",
        lambda: run(scale=lambda step: 2.6 if step == 60 else 1.0),
        "one loss 2.6 times",
        "",
    ),
    Sick(
        "spike-warning",
        "lag",
        lambda: run(make=of_usual(betas=(0.9, 0.999)), scale=lambda step: 1.04**step, steps=120),
        "a loss that grows by 4 % a step",
        "",
    ),
    Sick(
        "overshoot",
        "",
        lambda: run(make=of_usual(lr=0.03), scale=lambda step: -3.0 if step == 40 else 1.0, steps=60),
        "long steps, and one loss that turns",
        "",
    ),
    Sick(
        "spike-parameter",
        "",
        lambda: run(
            make=of_usual(betas=(0.9, 0.999)),
            before_step=lambda m, s: scaled_gradient("head.weight", 1.1**s)(m, s),
        ),
        "one gradient grows by 10 % a step",
        "head.weight",
    ),
    Sick(
        "second-moment-stale",
        "",
        lambda: run(make=of_usual(betas=(0.9, 0.999)), scale=lambda step: 1.0 if step < 30 else 1e-4),
        "gradients fall to a ten-thousandth",
        "hidden.weight",
    ),
    Sick(
        "first-moment-collapse",
        "cancels",
        lambda: run(make=of_usual(betas=(0.99, 0.999)), loss=swinging, steps=300),
        "gradients change sign at each step",
        "hidden.weight",
    ),
    Sick(
        "first-moment-collapse",
        "underflow",
        lambda: half(
            HALF, make=adam(eps=1e-4), steps=30, loss=lambda m, s: sum(p.sum() for p in m.parameters()) * 2e-7
        ),
        "fp16, every gradient 2e-7",
        "hidden.weight",
    ),
    Sick("step-too-large", "replaced", lambda: run(rate=None, make=of_usual(lr=30.0), steps=20), "lr 30", ""),
    Sick("step-too-large", "grew", lambda: run(make=of_usual(lr=3.0), steps=20), "lr 3", ""),
    Sick(
        "step-too-large",
        "loss",
        lambda: run(make=of_usual(lr=0.03), steps=20),
        "a loss that rises",
        "",
        with_loss([2.0] * 10 + [9.0] * 3),
    ),
    Sick(
        "step-too-small",
        "crawl",
        lambda: run(make=of_usual(lr=3e-7)),
        "lr 3e-7",
        "hidden.weight",
    ),
    Sick(
        "step-too-small",
        "persistent",
        lambda: run(make=of_usual(lr=2e-5), loss=lambda m, s: loss_of(m, 0)),
        "lr 2e-5, the same batch",
        "hidden.weight",
    ),
    Sick(
        "step-too-small",
        "slow",
        lambda: run(
            make=lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-5, alpha=0.9),
            loss=lambda m, s: loss_of(m, s),
        ),
        "RMSprop, lr 1e-5",
        "hidden.weight",
    ),
    Sick(
        "adagrad-decay",
        "lr-decay",
        lambda: run(make=lambda m: torch.optim.Adagrad(m.parameters(), lr=0.1, lr_decay=10.0)),
        "lr_decay 10",
        "hidden.weight",
    ),
    Sick(
        "adagrad-decay",
        "lr-decay-ahead",
        lambda: run(make=lambda m: torch.optim.Adagrad(m.parameters(), lr=0.1, lr_decay=0.2), steps=20),
        "lr_decay 0.2, 20 of 80 steps",
        "hidden.weight",
        lambda at: Facts(total_steps=80),
    ),
    Sick(
        "adagrad-decay",
        "initial",
        lambda: run(
            make=lambda m: torch.optim.Adagrad(m.parameters(), lr=0.01, initial_accumulator_value=10.0)
        ),
        "a sum that begins at 10",
        "hidden.weight",
    ),
    Sick(
        "adagrad-decay",
        "sum",
        lambda: run(
            rate=None,
            make=lambda m: torch.optim.Adagrad(m.parameters(), lr=0.03),
            scale=lambda step: 100.0 if step < 5 else 1.0,
        ),
        "large gradients in the first steps",
        "embed.weight",
    ),
    Sick(
        "learning-rate-zero",
        "all",
        lambda: run(rate=lambda step: max(0.0, 1 - step / 30)),
        "ends at step 30",
        "",
    ),
    Sick(
        "schedule-stalled", "warm-up", lambda: run(rate=lambda s: (s // 25 + 1) / 100), "warm-up by epoch", ""
    ),
    Sick(
        "schedule-stalled",
        "decay",
        lambda: run(rate=lambda s: 1 - (s // 25) / 10_000),
        "decay by epoch",
        "",
        lambda at: Facts(total_steps=80),
    ),
    Sick(
        "schedule-on-skips",
        "many",
        lambda: under_scaler(lambda step: step % 5 == 4),
        "every fifth step skipped",
        "",
    ),
    Sick("schedule-on-skips", "few", lambda: under_scaler(lambda step: step == 20), "one step skipped", ""),
    Sick("non-finite-gradient", "all", lambda: run(**infinite_at(40)), "a loss of inf"),
    Sick(
        "non-finite-gradient",
        "gradient",
        lambda: run(**infinite_at(40, "hidden.weight"), steps=41),
        "one gradient of inf",
        "hidden.weight",
    ),
    Sick("loss-not-finite", "", healthy, "a loss of inf", "", with_loss([1.0, torch.inf])),
    Sick("no-gradient", "frozen", lambda: cut_off("frozen"), "a frozen layer", "hidden.weight"),
    Sick("no-gradient", "missing", lambda: cut_off("missing"), "a detached layer", "hidden.weight"),
    Sick("no-gradient", "zero", lambda: cut_off("zero"), "a layer times 0", "hidden.weight"),
    Sick(
        "gradient-outlier",
        "others",
        lambda: run(before_step=scaled_gradient("hidden.weight", 1e6)),
        "one gradient a million times",
        "hidden.weight",
    ),
    Sick(
        "gradient-outlier",
        "jump",
        lambda: run(before_step=scaled_gradient("norm.weight", 1e5, since=40)),
        "from step 40 on a hundred thousand times",
        "norm.weight",
    ),
    Sick("gradient-depth", "vanishing", lambda: run(Deep(gain=0.3), steps=30), "eight narrow layers", ""),
    Sick(
        "gradient-depth",
        "exploding",
        lambda: run(Deep(gain=15.0), steps=30),
        "eight layers, weights 15 times",
        "",
    ),
    Sick(
        "gradients-not-zeroed",
        "seen",
        healthy,
        "told by the trainer",
        "",
        lambda at: Facts(gradients_kept=True),
    ),
    Sick(
        "gradients-not-zeroed",
        "inferred",
        lambda: run(zero_grad=False, make=of_usual(lr=1e-3)),
        "no zero_grad()",
        "",
    ),
    Sick("clipping-always", "inferred", lambda: run(before_step=clipped), "clipped to 0.001", ""),
    Sick("clipping-always", "seen", healthy, "told by the trainer", "", lambda at: Facts(clipped_frac=1.0)),
    Sick(
        "loss-scale-collapse", "fell", lambda: under_scaler(lambda step: 5 < step < 17), "inf at 11 steps", ""
    ),
    Sick(
        "loss-scale-collapse", "gone", lambda: under_scaler(lambda step: step > 5), "inf from step 6 on", ""
    ),
    Sick(
        "skipped-steps", "", lambda: under_scaler(lambda step: step % 5 == 4), "every fifth step is inf", ""
    ),
    Sick(
        "decay-on-norms", "strong", lambda: run(make=adamw(weight_decay=1.0)), "AdamW, decay 1", "norm.weight"
    ),
    Sick(
        "decay-on-norms",
        "weak",
        lambda: run(make=adamw(weight_decay=1e-4)),
        "AdamW, decay 1e-4",
        "norm.weight",
    ),
    Sick("l2-with-adaptive", "", lambda: run(make=adam(weight_decay=0.1)), "Adam, weight_decay 0.1", ""),
    Sick(
        "decay-dominates",
        "decoupled",
        lambda: run(make=adamw(weight_decay=30.0)),
        "decay 30",
        "hidden.weight",
    ),
    Sick("decay-dominates", "l2", lambda: run(make=adam(weight_decay=0.1)), "L2 0.1", "hidden.weight"),
    Sick("dead-rows", "decoupled", healthy, "words that never come", "embed.weight"),
    Sick(
        "dead-rows", "l2", lambda: run(make=adam(weight_decay=1e-3)), "words that never come", "embed.weight"
    ),
    Sick("two-optimizers", "", two_over_one, "Adam over all, SGD over the head", "head.weight"),
    Sick(
        "parameter-without-optimizer",
        "",
        healthy,
        "told by the trainer",
        "head.bias",
        lambda at: Facts(unoptimized=("head.bias",)),
    ),
    Sick(
        "fused-clipping",
        "",
        lambda: run(make=of_usual(fused=True), steps=2),
        "fused=True",
        "",
        lambda at: FUSED,
    ),
    Sick("learning-rates", "", lambda: run(make=group_rates, steps=2), "two rates", ""),
    Sick("warm-up-missing", "", lambda: run(rate=None, make=adam(), steps=2), "Adam at once", ""),
)

_MADE: dict[str, Tables] = {}


def tables_of(case: Sick) -> Tables:
    """The case's tables; made once."""
    if case.id not in _MADE:
        _MADE[case.id] = case.tables()
    return _MADE[case.id]


def causes(severity: str | Mapping[str, str], sentence: str | Mapping[str, str]) -> tuple[str, ...]:
    """The causes that a rule knows; one without a name when it has one."""
    for text in (sentence, severity):
        if not isinstance(text, str):
            return tuple(text)
    return ("",)
