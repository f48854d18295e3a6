"""The graph recipes learn, in every precision, from every YAML, and go on from a checkpoint."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins import MixedPrecision

from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.recipes.gnn import graph_classification
from lightning_adapt.recipes.gnn.graph_classification import GraphClassifier
from lightning_adapt.recipes.gnn.graph_data import GraphDataModule
from lightning_adapt.recipes.gnn.node_classification import NodeClassifier, drop_features
from lightning_adapt.recipes.gnn.node_data import NodeDataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\)"),
    # jsonargparse tells Lightning's authors what to use in place of what.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

FOLDER = Path(graph_classification.__file__).parent
YAMLS = sorted(FOLDER.glob("*.yaml"))
NODES = (NodeClassifier, {}, NodeDataModule, {"name": "KarateClub"})
GAT_NODES = (NodeClassifier, {"architecture": "gat", "heads": 2}, *NODES[2:])
GRAPHS = (GraphClassifier, {"layers": 2, "hidden": 8}, GraphDataModule, {"batch_size": 128})


def train(recipe, epochs, seed=0, ckpt_path=None, **trainer):
    """Train a recipe; returns its trainer, model and data."""
    module, model_arguments, data_module, data_arguments = recipe
    seed_everything(seed)
    options = {
        "accelerator": "cpu",
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "logger": False,
        "log_every_n_steps": 1,
        "max_epochs": epochs,
        "num_sanity_val_steps": 0,
    }
    made: Any = Trainer(**{**options, **trainer})
    model, data = module(**model_arguments), data_module(**data_arguments)
    made.fit(model, data, ckpt_path=ckpt_path)
    return made, model, data


def accuracy_after(recipe, epochs, **options):
    trainer, model, data = train(recipe, epochs, **options)
    return trainer.test(model, data, verbose=False)[0]["test/accuracy"]


def groups_of(model):
    setup: Any = model.configure_optimizers()
    return setup["optimizer"].param_groups


class WithoutEdges(NodeDataModule):
    """The same nodes, none of which knows another."""

    def setup(self, stage):
        super().setup(stage)
        assert self._graph is not None
        self._graph.edge_index = self._graph.edge_index[:, :0]


def test_gcn_learns_the_import_graph_and_needs_its_edges():
    # Majority 0.42. Measured over 4 splits, 200 epochs: 0.94 with edges, 0.86 without.
    with_edges = accuracy_after((NodeClassifier, {"lr": 0.03}, NodeDataModule, {}), 60)
    without = accuracy_after((NodeClassifier, {"lr": 0.03}, WithoutEdges, {}), 60)
    assert with_edges > 0.87
    assert with_edges > without + 0.03


def test_gcn_learns_the_karate_club():
    assert mean(accuracy_after(NODES, 60, seed=seed) for seed in range(3)) > 0.6  # one in four by chance


def test_gin_tells_motifs_apart_and_needs_more_than_degrees():
    deep = (GraphClassifier, {"schedule": "cosine"}, GraphDataModule, {})
    shallow = (GraphClassifier, {"schedule": "cosine", "layers": 1}, GraphDataModule, {})
    assert accuracy_after(deep, 8) > 0.9
    assert accuracy_after(shallow, 4) < 0.7


@pytest.mark.parametrize("architecture", ["gcn", "gat"])
def test_sparse_features_give_what_dense_ones_give(architecture):
    torch.manual_seed(0)
    model = NodeClassifier(architecture, features=30, classes=3).eval()
    x = torch.rand(20, 30) * (torch.rand(20, 30) < 0.1)
    edge_index = torch.randint(20, (2, 50))
    grads = []
    for features in (x, x.to_sparse()):
        model.zero_grad()  # to None: the gradients kept before stay as they are
        logits = model(features, edge_index)
        logits.pow(2).sum().backward()
        grads.append([logits.detach(), *(p.grad for p in model.parameters())])
    for dense, sparse in zip(*grads, strict=True):
        torch.testing.assert_close(sparse, dense)


def test_dropout_of_sparse_features_drops_and_scales_what_is_not_zero():
    x = torch.eye(1000)[:, :500]
    torch.manual_seed(0)
    kept = drop_features(x.to_sparse(), 0.2, training=True).to_dense()
    assert kept[x == 0].abs().sum() == 0
    assert set(kept[x == 1].tolist()) == {0.0, 1.25}
    assert 0.75 < (kept[x == 1] > 0).float().mean() < 0.85
    assert torch.equal(drop_features(x.to_sparse(), 0.2, training=False).to_dense(), x)
    assert set(drop_features(x, 0.2, training=True).unique().tolist()) == {0.0, 1.25}


@pytest.mark.parametrize("recipe", [NODES, GAT_NODES, GRAPHS], ids=["gcn", "gat", "gin"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
# Both are as they should be: Adam's second moment in bf16, and a scheduler stepped after a skipped step.
@pytest.mark.filterwarnings("ignore::lightning_adapt.optimizers.PrecisionWarning")
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_every_precision_trains(recipe, precision):
    options: Any = (
        {"plugins": MixedPrecision("16-mixed", "cpu")}
        if precision == "16-mixed"
        else {"precision": precision}
    )
    trainer, model, _ = train(recipe, 4, **options)
    assert trainer.optimizers[0].state  # not every step was skipped for an overflow
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    dtypes = {parameter.dtype for parameter in model.parameters()}
    assert dtypes == {torch.bfloat16 if precision == "bf16-true" else torch.float32}


@pytest.mark.parametrize("recipe", [NODES, GRAPHS], ids=["gcn", "gin"])
def test_a_run_goes_on_from_its_checkpoint(recipe, tmp_path):
    trainer, model, _ = train(recipe, 2)
    path = tmp_path / "run.ckpt"
    trainer.save_checkpoint(path)
    resumed, other, _ = train(recipe, 3, seed=9, ckpt_path=path)
    assert resumed.current_epoch == 3
    steps = {int(state["step"]) for state in resumed.optimizers[0].state.values()}
    assert steps == {3 * trainer.global_step // 2}
    # Sizes that came from the data are in the file: the weights load without the data.
    loaded = type(model).load_from_checkpoint(path)
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter)
        assert not torch.equal(other.get_parameter(name), parameter)


@pytest.mark.parametrize("recipe", [NODES, GRAPHS], ids=["gcn", "gin"])
def test_fast_dev_run(recipe):
    assert train(recipe, 1, fast_dev_run=True)[0].global_step == 1


@pytest.mark.parametrize(
    ("architecture", "decayed"),
    [
        ("gcn", {"net.conv1.lin.weight"}),
        (
            "gat",
            {
                f"net.{conv}.{name}"
                for conv in ("conv1", "conv2")
                for name in ("lin.weight", "att_src", "att_dst")
            },
        ),
    ],
)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adagrad", "rmsprop"])
def test_weight_decay_acts_where_the_papers_have_it(architecture, decayed, optimizer):
    model = NodeClassifier(architecture, features=6, classes=3, optimizer=optimizer)
    groups = groups_of(model)
    assert {name for group in groups if group["weight_decay"] for name in group["parameter_names"]} == decayed
    assert {group["weight_decay"] for group in groups} == {0.0, 5e-4}
    assert {group["lr"] for group in groups} == {NodeClassifier.presets[optimizer]["lr"]}


@pytest.mark.parametrize("module", [NodeClassifier, GraphClassifier])
def test_every_preset_makes_an_optimizer(module):
    for optimizer in module.presets:
        model = module(features=4, classes=2, optimizer=optimizer)
        model.configure_optimizers()


def test_what_the_user_gives_outranks_the_preset():
    model = NodeClassifier(
        features=6, classes=3, lr=0.5, weight_decay=0.0, optimizer_options={"eps": 1e-4, "overrides": {}}
    )
    (group, *_) = groups_of(model)
    assert (group["lr"], group["weight_decay"], group["eps"]) == (0.5, 0.0, 1e-4)


@pytest.mark.parametrize(
    ("module", "arguments", "text"),
    [
        (NodeClassifier, {"architecture": "gnc"}, "`model.architecture` must be one of gcn, gat, got 'gnc'"),
        (NodeClassifier, {"hidden": 0}, "`model.hidden` must be 1 or more, got 0"),
        (NodeClassifier, {"heads": -1}, "`model.heads` must be 1 or more, got -1"),
        (NodeClassifier, {"dropout": 1.0}, r"`model.dropout` must be in \[0, 1\), got 1.0"),
        (GraphClassifier, {"layers": 0}, "`model.layers` must be 1 or more, got 0"),
        (GraphClassifier, {"dropout": -0.1}, r"`model.dropout` must be in \[0, 1\), got -0.1"),
    ],
)
def test_bad_arguments_are_refused_at_once(module, arguments, text):
    with pytest.raises(ValueError, match=text):
        module(**arguments)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_trains_two_steps_with_a_lightning_cli(path, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    nodes = path.stem.startswith("node")
    small = "KarateClub" if nodes else "motifs"
    callback = "lightning_adapt.callbacks.OptimizerDynamicsMonitor"
    monitor = json.dumps({"class_path": callback, "init_args": {"every_n_steps": 1}})
    cli = LightningCLI(
        *((NodeClassifier, NodeDataModule) if nodes else (GraphClassifier, GraphDataModule)),
        run=False,
        auto_configure_optimizers=False,
        # The data of the presets is on few machines: the recipe's own are taken in its place.
        args=[
            *("--config", str(path), "--data.name", small, "--trainer.accelerator", "cpu"),
            *("--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "2", "--model.lr", "0.02"),
            *("--trainer.limit_train_batches", "1", "--trainer.enable_progress_bar", "false"),
            *("--trainer.logger", "false", "--trainer.callbacks+", monitor),
        ],
    )
    trainer: Any = cli.trainer
    trainer.fit(cli.model, cli.datamodule)
    assert trainer.global_step == 2
    (monitor,) = [c for c in trainer.callbacks if isinstance(c, OptimizerDynamicsMonitor)]
    assert monitor.latest is not None
    assert set(monitor.latest.names) == {name for name, _ in cli.model.named_parameters()}
    group = trainer.optimizers[0].param_groups[0]
    assert group.get("initial_lr", group["lr"]) == 0.02


def test_help_shows_the_optimizer(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit):
        LightningCLI(NodeClassifier, NodeDataModule, run=False, args=["--help"])
    text = capsys.readouterr().out
    for option in ("--model.lr", "--model.optimizer", "--model.architecture", "--data.name", "--data.root"):
        assert option in text


def best_and_last(recipe, epochs, seed, tmp_path, **options):
    checkpoint = ModelCheckpoint(tmp_path / str(seed), monitor="val/accuracy", mode="max")
    trainer, model, data = train(
        recipe, epochs, seed=seed, callbacks=[checkpoint], enable_checkpointing=True, **options
    )
    last = trainer.test(model, data, verbose=False)[0]["test/accuracy"]
    return trainer.test(model, data, ckpt_path="best", verbose=False)[0]["test/accuracy"], last


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "seeds"), [("32-true", 5), ("bf16-mixed", 2)])
def test_gcn_reaches_the_published_accuracy_on_cora(data_path, tmp_path, precision, seeds):
    # Kipf & Welling 2017: 81.5 %. Measured here: 82.5 % at the best validation epoch, 81.3 % at the last.
    root = str(data_path("planetoid", "Cora").parent)
    recipe = (NodeClassifier, {}, NodeDataModule, {"name": "Cora", "root": root})
    runs = [best_and_last(recipe, 200, seed, tmp_path, precision=precision) for seed in range(seeds)]
    assert mean(best for best, _ in runs) >= 0.81
    assert mean(last for _, last in runs) >= 0.805


@pytest.mark.slow
def test_gin_reaches_the_known_accuracy_on_mutag(data_path):
    # Xu et al. 2019: 89.4 % by a kinder protocol. Measured here over ten folds: 87.3 %; with Adam 84.6 %.
    root = str(data_path("tu", "MUTAG").parent)
    accuracies = [
        accuracy_after(
            (
                GraphClassifier,
                {"optimizer": "adagrad", "schedule": "cosine"},
                GraphDataModule,
                {"name": "MUTAG", "root": root, "fold": fold},
            ),
            50,
        )
        for fold in range(10)
    ]
    assert mean(accuracies) >= 0.82
