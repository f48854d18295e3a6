"""A recipe small enough to be run by many tests: a line that learns to lie in a plane."""

import io
from typing import ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from lightning_adapt.recipes import Recipe
from lightning_adapt.recipes._module import RecipeModule


class Toy(RecipeModule):
    """A line through points."""

    presets: ClassVar = {"adamw": {"lr": 0.1}, "sgd": {"lr": 0.1}, "adam": {"lr": 1e30, "eps": 1e-8}}

    def __init__(
        self, width: int = 1, fail: str = "", optimizer: str = "adamw", lr: float | None = None
    ) -> None:
        super().__init__(optimizer=optimizer, lr=lr)
        self.save_hyperparameters()
        self.fail = fail
        self.line = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 1))

    def _loss(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.line(x), y)

    def training_step(self, batch, batch_idx):
        if self.fail == "error":
            raise RuntimeError("the toy is broken")
        if self.fail == "ctrl-c" and batch_idx == 1:
            raise KeyboardInterrupt
        if self.fail == "exit":
            raise SystemExit(4)
        if self.fail == self._optimizer:
            raise RuntimeError(f"the toy does not like [{self.fail}]")
        loss = self._loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))


class ToyWithTest(Toy):
    """A line that also has a test step."""

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self._loss(batch))


class ToyData(LightningDataModule):
    """Points near a plane."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"`data.size` must be 1 or more, got {size}; 64 is a good start")
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(size, 4, generator=generator)
        self.points = TensorDataset(x, x.sum(1, keepdim=True))

    def train_dataloader(self):
        return DataLoader(self.points, batch_size=8)

    val_dataloader = train_dataloader


class ToyDataWithTest(ToyData):
    """Points with a part to test on."""

    test_dataloader = ToyData.train_dataloader


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Makes the toy recipe, with trainer values of choice."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def make(*, tested=False, threads=1, **trainer):
        values = {
            "seed_everything": 3,
            "trainer": {
                "max_steps": 12,
                "log_every_n_steps": 4,
                "accelerator": "cpu",
                "precision": "32-true",
                "enable_progress_bar": False,
                "enable_model_summary": False,
                **trainer,
            },
        }
        config = tmp_path / "toy.yaml"
        config.write_text(yaml.safe_dump(values))
        (tmp_path / "toy_wide.yaml").write_text(yaml.safe_dump({"model": {"width": 5}}))
        return Recipe(
            name="toy/line",
            summary="a line learns to lie in a plane",
            module=f"{__name__}.{'ToyWithTest' if tested else 'Toy'}",
            data=f"{__name__}.{'ToyDataWithTest' if tested else 'ToyData'}",
            config=str(config),
            needs=(),
            metric="val_loss",
            metric_mode="min",
            threads=threads,
        )

    return make


@pytest.fixture
def console():
    return Console(record=True, width=160, file=io.StringIO(), force_terminal=True)


@pytest.fixture
def known(toy, monkeypatch, tmp_path):
    """The toy as a recipe that the command knows."""
    recipe = toy()
    monkeypatch.setattr("lightning_adapt.recipes.registry.RECIPES", {recipe.name: recipe})
    monkeypatch.chdir(tmp_path)
    return recipe
