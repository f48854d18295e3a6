"""Small real trainings, healthy and sick, read by a probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
