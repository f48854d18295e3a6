"""Small real trainings, healthy and sick, read by a probe: a sickness for each cause of each health rule.

docs/health.py draws the pictures of docs/health.md from the same trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adapt.dynamics import DynamicsProbe, DynamicsTable
from lightning_adapt.health import Facts

Tables = list[DynamicsTable]
VOCABULARY, USED, CLASSES = 40, 30, 8


class Net(nn.Module):
    """Words and numbers to classes: an embedding some of whose rows never come, a norm, two layers."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.hidden(self.embed(words).mean(1)))))


class Attention(nn.Module):
    """One attention head: softmax takes its key bias out again."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Deep(nn.Module):
    """Many layers without norm or residual connection; ``gain`` scales their weights."""

    def __init__(self, gain: float, layers: int = 8, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, CLASSES)
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(gain)  # type: ignore[operator]

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words).mean(1)
        for layer in self.layers:
            x = torch.sin(layer(x))
        return self.head(x)


def batch(step: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Words, and the class that most of them stand for."""
    generator = torch.Generator().manual_seed(1000 + step)
    words = torch.randint(0, USED, (size, 5), generator=generator)
    return words, words.remainder(CLASSES).mode(1).values


def loss_of(model: nn.Module, step: int) -> Tensor:
    words, classes = batch(step)
    return nn.functional.cross_entropy(model(words).float(), classes)


def usual(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """AdamW as it should be: no decay of norms and biases, a second moment that follows."""
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": decay, "name": "decay", "weight_decay": 0.01},
        {"params": rest, "name": "no_decay", "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **{"lr": 3e-3, "betas": (0.9, 0.99), **options})


@dataclass
class Run:
    """One training, a step at a time; what is sick about it is an argument or a hook."""

    model: nn.Module = field(default_factory=Net)
    make: Callable[[nn.Module], torch.optim.Optimizer] = usual
    steps: int = 80
    rate: Callable[[int], float] | None = lambda step: min(1.0, (step + 1) / 10)
    scale: Callable[[int], float] = lambda step: 1.0
    before_step: Callable[[nn.Module, int], None] = lambda model, step: None
    zero_grad: bool = True
    loss: Callable[[nn.Module, int], Tensor] = loss_of

    def tables(self) -> Tables:
        found: Tables = []
        optimizer = self.make(self.model)
        schedule = None if self.rate is None else torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        with DynamicsProbe(optimizer, self.model, strict=True) as probe:
            for step in range(self.steps):
                if self.zero_grad:
                    optimizer.zero_grad()
                (self.loss(self.model, step) * self.scale(step)).backward()
                self.before_step(self.model, step)
                optimizer.step()
                assert probe.table is not None
                found.append(replace(probe.table, step=step))
                if schedule is not None:
                    schedule.step()
        return found


def run(model: nn.Module | None = None, *, seed: int = 0, **options: Any) -> Tables:
    """The tables of one training."""
    torch.manual_seed(seed)
    return Run(model if model is not None else Net(), **options).tables()


def under_scaler(inf_at: Callable[[int], bool], steps: int = 60) -> Tables:
    """fp16's gradient scaler, with a loss that is inf at some steps; the schedule goes on in any case."""
    torch.manual_seed(0)
    model, found = Net(), []
    optimizer = usual(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 1000)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)  # type: ignore[attr-defined]
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        probe.on_step = None
        for step in range(steps):
            optimizer.zero_grad()
            loss = loss_of(model, step) * (torch.inf if inf_at(step) else 1.0)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            probe.arm(loss_scale=scaler.get_scale(), step=step)
            taken = probe.steps
            scaler.step(optimizer)
            if probe.steps == taken:
                probe.note_skipped()
            scaler.update()
            schedule.step()
            assert probe.table is not None
            found.append(probe.table)
    return found


def healthy() -> Tables:
    return run()


def well() -> Tables:
    """A healthy training in which every word comes."""
    torch.manual_seed(0)
    model = Net()
    model.embed = nn.Embedding(USED, 24)
    return run(model)


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


def adam(**options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.Adam(model.parameters(), **{"lr": 3e-3, **options})


def adamw(**options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.AdamW(model.parameters(), **{"lr": 3e-3, **options})


def of_usual(**options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: usual(model, **options)


def half(dtype: torch.dtype, **options: Any) -> Tables:
    torch.manual_seed(0)
    return run(Net().to(dtype), **options)


def scaled_gradient(name: str, factor: float, since: int = 0) -> Callable[[nn.Module, int], None]:
    """A hook that makes one parameter's gradient larger."""

    def hook(model: nn.Module, step: int) -> None:
        gradient = model.get_parameter(name).grad
        if step >= since and gradient is not None:
            gradient.mul_(factor)

    return hook


def clipped(model: nn.Module, step: int) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)


def infinite_at(at: int, name: str | None = None) -> dict[str, Any]:
    """A loss, or a single gradient, that is inf at one step."""
    if name is None:
        return {"scale": lambda step: torch.inf if step == at else 1.0}

    def hook(model: nn.Module, step: int) -> None:
        gradient = model.get_parameter(name).grad
        if step == at and gradient is not None:
            gradient[0] = torch.inf

    return {"before_step": hook}


def cut_off(how: str) -> Tables:
    """A layer that is frozen, detached, or multiplied by 0."""
    torch.manual_seed(0)
    model = Net()
    if how == "frozen":
        model.hidden.requires_grad_(False)
        return run(model)

    def loss(model: nn.Module, step: int) -> Tensor:
        assert isinstance(model, Net)
        words, classes = batch(step)
        hidden = model.hidden(model.embed(words).mean(1))
        hidden = hidden.detach() if how == "missing" else hidden * 0.0
        return nn.functional.cross_entropy(model.head(torch.tanh(model.norm(hidden))), classes)

    return run(model, loss=loss)


def swinging(model: nn.Module, step: int) -> Tensor:
    """Gradients that change sign at every step."""
    return sum((p.sum() for p in model.parameters()), torch.zeros(())) * (-1.0) ** step


def reloaded(narrow: bool) -> Tables:
    """State in another dtype than before: all of it, or only the state."""
    torch.manual_seed(0)
    model = Net()
    optimizer: torch.optim.Optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    found = []
    for step in range(8):
        if step == 4:
            if narrow:
                for state in optimizer.state.values():
                    state["square_avg"] = state["square_avg"].bfloat16()
            else:
                saved, model = optimizer.state_dict(), model.bfloat16()
                optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
                optimizer.load_state_dict(saved)
        with DynamicsProbe(optimizer, model, strict=True) as probe:
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        assert probe.table is not None
        if step >= 4 or not narrow:
            found.append(replace(probe.table, step=step))
    return found


def two_over_one() -> Tables:
    torch.manual_seed(0)
    model, found = Net(), []
    body, head = adam()(model), torch.optim.SGD(model.head.parameters(), lr=0.1)
    probes = [DynamicsProbe(one, model, strict=True).attach() for one in (body, head)]
    for step in range(5):
        for probe in probes:
            probe.optimizer.zero_grad()
            loss_of(model, step).backward()
            probe.optimizer.step()
            assert probe.table is not None
            found.append(replace(probe.table, step=step))
    return found


def with_loss(losses: Sequence[float]) -> Callable[[int], Facts]:
    return lambda at: Facts(loss=losses[min(at, len(losses) - 1)])


FUSED = Facts(precision="16-mixed", gradient_clip_val=1.0)


def group_rates(model: nn.Module) -> torch.optim.Optimizer:
    assert isinstance(model, Net)
    body = [p for name, p in model.named_parameters() if not name.startswith("head")]
    groups = [
        {"params": body, "name": "body", "lr": 3e-7},
        {"params": model.head.parameters(), "name": "head"},
    ]
    return torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0)


HALF, BRAIN = torch.float16, torch.bfloat16

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
