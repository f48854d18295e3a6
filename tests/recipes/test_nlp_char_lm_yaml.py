"""The YAML files of the character language model: valid, of the size they say, and they learn."""

from __future__ import annotations

from importlib.resources import files

import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from lightning_adapt.recipes.nlp.char_lm import CharLM, build_decoder
from lightning_adapt.recipes.nlp.text_data import TextDataModule

YAMLS = sorted(
    file.name
    for file in files("lightning_adapt.recipes.nlp").iterdir()
    if file.name.startswith("char_lm") and file.name.endswith(".yaml")
)
# Too large for a CPU in a test: parsed and built on the meta device only.
LARGE = {"char_lm_gpt2_10m.yaml", "char_lm_gpt2_124m.yaml"}

# Lightning's own use of torch and jsonargparse.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:(?s)\n    .*[Dd]eprecat"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture
def text(tmp_path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return str(file)


@pytest.fixture(autouse=True)
def own_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["test"])  # LightningCLI warns of any other


def parse(yaml: str, *args: str) -> LightningCLI:
    """What LightningCLI makes of a YAML file, without running it."""
    path = str(files("lightning_adapt.recipes.nlp") / yaml)
    quiet = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    return LightningCLI(
        CharLM,
        TextDataModule,
        run=False,
        args=["--config", path, *quiet, *args],
        save_config_callback=None,
        auto_configure_optimizers=False,
    )


@pytest.mark.parametrize("yaml", YAMLS)
def test_every_yaml_is_a_valid_configuration(yaml):
    cli = parse(yaml)
    assert cli.model.context >= cli.datamodule.context
    assert cli.trainer.max_steps >= 1000
    if yaml not in LARGE:
        assert cli.trainer.precision == "32-true"


@pytest.mark.parametrize("yaml", [name for name in YAMLS if name not in LARGE])
def test_small_yamls_run(yaml, text):
    cli = parse(
        yaml,
        f"--data.path={text}",
        "--trainer.max_steps=2",
        "--data.batch_size=2",
        "--trainer.enable_model_summary=false",
        "--data.context=32",
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 2
    assert cli.trainer.callback_metrics["val/loss"].isfinite()


@pytest.mark.parametrize(
    ("yaml", "millions"), [("char_lm_gpt2_10m.yaml", 10.8), ("char_lm_gpt2_124m.yaml", 85.9)]
)
def test_large_yamls_have_the_size_they_say(yaml, millions):
    """Without the word embeddings of the real ones: 38.6 of GPT-2's 124 million are its 50,257 words."""
    cli = parse(yaml)
    with torch.device("meta"):
        model = build_decoder(cli.model.architecture, vocabulary_size=66, **cli.model._size)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


def test_the_command_line_shows_and_takes_every_argument(capsys):
    with pytest.raises(SystemExit):
        parse("char_lm.yaml", "--help")
    shown = capsys.readouterr().out
    for name in ("optimizer", "lr", "weight_decay", "schedule", "warmup_steps", "architecture", "context"):
        assert f"--model.{name} " in shown
    cli = parse(
        "char_lm.yaml", "--model.lr=0.25", "--model.optimizer=sgd", "--model.optimizer_options.momentum=0.5"
    )
    assert cli.model._optimizer_options["lr"] == 0.25
    assert cli.model._optimizer_options["momentum"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("yaml", "target"), [("char_lm.yaml", 2.03), ("char_lm_llama.yaml", 1.70)])
def test_it_reaches_the_published_loss_on_shakespeare(yaml, target, data_path):
    path = data_path("tinyshakespeare", "input.txt")
    cli = parse(yaml, f"--data.path={path}", "--trainer.val_check_interval=1.0")
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.callback_metrics["val/loss"] < target
