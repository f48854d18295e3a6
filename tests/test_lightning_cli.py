"""The factories work from a stock LightningCLI, by YAML and command line, and keep names and types."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader

from lightning_adapt.optimizers import catalog

# Lightning 2.6 meets a renamed class of torch 2.13.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class TinyModule(LightningModule):
    """An embedding, two numbered layers, a norm and a head: one parameter of each kind."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.embed = nn.Embedding(5, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def training_step(self, batch):
        hidden = self.embed(batch)
        for layer in self.layers:
            hidden = hidden + layer(hidden).tanh()
        return nn.functional.cross_entropy(self.head(self.norm(hidden)), batch)

    def train_dataloader(self):
        return DataLoader(torch.arange(5).repeat(2), batch_size=5)  # type: ignore[arg-type]


class MatrixModule(LightningModule):
    """One matrix: what every optimizer of the catalog takes, Muon included."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)

    def training_step(self, batch):
        return self.layer(batch).square().mean()

    def train_dataloader(self):
        return DataLoader(torch.ones(4, 2), batch_size=2)  # type: ignore[arg-type]


TRAINER = {
    "accelerator": "cpu",
    "max_steps": 2,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture
def run(monkeypatch):
    """Run the stock command line with the words a user would type."""

    def start(module: type[LightningModule], *words: str) -> LightningCLI:
        monkeypatch.setattr("sys.argv", ["main.py", "fit", *words])
        monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning calls an older name
        return LightningCLI(
            module, trainer_defaults=TRAINER, save_config_callback=None, seed_everything_default=1
        )

    return start


def table(cli: LightningCLI) -> dict[str, tuple[float, float, list[str]]]:
    optimizer = cli.trainer.optimizers[0]
    assert all(int(state["step"]) == 2 for state in optimizer.state.values())
    return {g["name"]: (g["lr"], g["weight_decay"], g["parameter_names"]) for g in optimizer.param_groups}


def test_yaml_with_layer_decay_and_overrides(run, tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(
        """
optimizer:
  class_path: lightning_adapt.optimizers.adamw
  init_args:
    lr: 1e-2
    weight_decay: 0.1
    layer_decay: 0.5
    betas: [0.9, 0.95]
    no_decay: [norm, bias, embedding]
    overrides:
      head.*: {lr: 0.25}
""",
        encoding="utf-8",
    )
    cli = run(TinyModule, f"--config={config}")
    assert type(cli.trainer.optimizers[0]) is torch.optim.AdamW
    assert cli.trainer.optimizers[0].param_groups[0]["betas"] == (0.9, 0.95)
    assert table(cli) == {
        "no_decay/embeddings": (1e-2 / 8, 0.0, ["embed.weight"]),
        "decay/layer_0": (1e-2 / 4, 0.1, ["layers.0.weight"]),
        "no_decay/layer_0": (1e-2 / 4, 0.0, ["layers.0.bias"]),
        "decay/layer_1": (1e-2 / 2, 0.1, ["layers.1.weight"]),
        "no_decay/layer_1": (1e-2 / 2, 0.0, ["layers.1.bias"]),
        "no_decay/head": (1e-2, 0.0, ["norm.weight", "norm.bias"]),
        "head.*/decay": (0.25, 0.1, ["head.weight"]),
        "head.*/no_decay": (0.25, 0.0, ["head.bias"]),
    }


def test_command_line_with_a_schedule(run):
    cli = run(
        TinyModule,
        "--optimizer=lightning_adapt.optimizers.adam",
        "--optimizer.lr=1e-3",
        "--optimizer.weight_decay=5e-4",
        "--lr_scheduler=lightning_adapt.optimizers.schedule",
        "--lr_scheduler.name=linear",
        "--lr_scheduler.total_steps=10",
    )
    assert type(cli.trainer.optimizers[0]) is torch.optim.Adam
    # The command line steps a scheduler once per epoch; two steps are one epoch of this data.
    assert cli.trainer.lr_scheduler_configs[0].interval == "epoch"
    groups = table(cli)
    assert {name: decay for name, (_, decay, _) in groups.items()} == {"decay": 5e-4, "no_decay": 0.0}
    assert groups["decay"][2] == ["embed.weight", "layers.0.weight", "layers.1.weight", "head.weight"]
    assert cli.trainer.optimizers[0].param_groups[0]["initial_lr"] == 1e-3


@pytest.mark.parametrize("info", [pytest.param(info, id=name) for name, info in catalog.items()])
def test_every_factory_by_its_path(run, info):
    cli = run(
        MatrixModule,
        f"--optimizer=lightning_adapt.optimizers.{info.name}",
        "--optimizer.lr=0.125",
        "--trainer.max_steps=1",
    )
    optimizer = cli.trainer.optimizers[0]
    assert type(optimizer) is getattr(torch.optim, info.class_name)
    (group,) = optimizer.param_groups
    assert (group["name"], group["lr"], group["parameter_names"]) == ("decay", 0.125, ["layer.weight"])
    for name, value in info.defaults.items():
        if name not in ("lr", "initial_accumulator_value"):
            assert group[name] == value, name


def test_the_configuration_names_the_public_path(run, capsys):
    with pytest.raises(SystemExit):
        run(TinyModule, "--optimizer=lightning_adapt.optimizers.adamw", "--print_config")
    printed = capsys.readouterr().out
    assert "class_path: lightning_adapt.optimizers.adamw" in printed
    assert "layer_decay: null" in printed


def test_a_wrong_value_names_the_argument(run):
    with pytest.raises(ValueError, match=r"`lr` must be a finite number >= 0, got -1\.0"):
        run(TinyModule, "--optimizer=lightning_adapt.optimizers.adamw", "--optimizer.lr=-1")
