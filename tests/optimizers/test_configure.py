"""From names to what ``configure_optimizers`` returns, alone and inside a real Trainer."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_adapt.optimizers import catalog, configure

# Lightning 2.6 meets a renamed class of torch 2.13; a data loader without workers is meant here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Tiny(LightningModule):
    def __init__(self, **options: Any):
        super().__init__()
        self.options = options
        self.layer = nn.Linear(2, 1)
        self.rates: list[float] = []

    def training_step(self, batch):
        self.rates.append(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return configure(self, **self.options)


def fit(module: LightningModule, **trainer: Any) -> Trainer:
    made = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer,
    )
    made.fit(module, DataLoader(torch.ones(8, 2), batch_size=2))  # type: ignore[arg-type]
    return made


def parts(setup: Any) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    return setup["optimizer"], setup["lr_scheduler"]


@pytest.mark.parametrize("info", [pytest.param(info, id=name) for name, info in catalog.items()])
def test_every_optimizer_of_the_catalog_by_name(info):
    module = nn.Linear(2, 2, bias=info.name != "muon")
    optimizer, scheduler = parts(configure(module, info.name, lr=0.25))
    assert type(optimizer) is getattr(torch.optim, info.class_name)
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert set(scheduler) == {"scheduler", "interval", "frequency"}
    assert (scheduler["interval"], scheduler["frequency"]) == ("step", 1)
    assert scheduler["scheduler"].optimizer is optimizer


def test_options_reach_the_factory():
    optimizer, _ = parts(
        configure(nn.Linear(2, 2), "adam", overrides={"bias": {"lr": 0.5}}, betas=(0.8, 0.9))
    )
    assert [(g["name"], g["lr"], g["betas"]) for g in optimizer.param_groups] == [
        ("decay", 1e-3, (0.8, 0.9)),
        ("bias/no_decay", 0.5, (0.8, 0.9)),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "admw"}, r"`optimizer` must be one of adamw, .*did you mean 'adamw'"),
        ({"bets": 1}, r"`options of adamw` must be one of betas, .*got 'bets'; did you mean 'betas'"),
        ({"optimizer": "rmsprop", "fused": True}, r"`options of rmsprop` must be one of .*got 'fused'"),
        ({"params": []}, r"`options of adamw` must be one of .*got 'params'"),
        ({"schedule": "step"}, r"`schedule` must be one of"),
        ({"warmup_steps": -5}, r"`warmup_steps` must be a whole number >= 0, got -5"),
        ({"lr": -1.0}, r"`lr` must be"),
        ({"schedule": "cosine"}, r"`total_steps` must be a number .* without a trainer, got None; give it"),
        ({"optimizer": "muon"}, r"`params` must hold only hidden weight matrices for muon, got bias; take"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        configure(nn.Linear(2, 2), **arguments)


def test_an_unattached_lightning_module_is_refused_in_the_same_words():
    with pytest.raises(ValueError, match="without a trainer"):
        configure(Tiny(), schedule="linear")
    _, scheduler = parts(configure(Tiny(), schedule="inverse_sqrt", warmup_steps=4))  # needs no end
    assert scheduler["scheduler"].get_last_lr() == [1e-3 / 4] * 2


@pytest.mark.parametrize("steps", [math.inf, -1, 0])
def test_a_run_without_an_end_is_refused(steps):
    module = nn.Linear(2, 2)
    module.trainer = SimpleNamespace(estimated_stepping_batches=steps)  # type: ignore[assignment]
    kind = "that trains nothing" if steps == 0 else "without an end"
    with pytest.raises(ValueError, match=rf"run {kind}, got {steps} steps .*set max_steps"):
        configure(module, schedule="cosine")


def test_a_real_trainer_steps_the_schedule_to_its_end():
    module = Tiny(optimizer="sgd", lr=1e-3, schedule="linear", warmup_steps=2)
    trainer = fit(module, max_epochs=2)
    assert trainer.global_step == 8
    expected = [0.5, 1.0, *((8 - step) / 6 for step in range(2, 8))]
    assert module.rates == pytest.approx([1e-3 * factor for factor in expected])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.0


def test_accumulation_counts_optimizer_steps():
    module = Tiny(optimizer="adamw", schedule="linear")
    trainer = fit(module, max_epochs=1, accumulate_grad_batches=2)
    assert trainer.global_step == 2
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.0


def test_a_real_trainer_without_an_end_is_refused():
    with pytest.raises(ValueError, match="run without an end, got inf steps"):
        fit(Tiny(schedule="cosine"), max_epochs=-1)


def test_precision_is_asked_of_a_real_trainer():
    with pytest.warns(UserWarning, match=r"adamw: in bfloat16 state the second moment cannot decay"):
        fit(Tiny(), max_steps=1, precision="bf16-true")
