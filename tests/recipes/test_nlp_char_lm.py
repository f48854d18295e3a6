"""The character language model: it learns, resumes, explains itself, and its YAML files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_adapt import optimizers
from lightning_adapt.recipes.nlp.char_lm import CharLM
from lightning_adapt.recipes.nlp.text_data import TextDataModule

# Lightning's own use of torch and jsonargparse, and a validation step that a test leaves without data.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:(?s)\n    .*[Dd]eprecat"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture
def text(tmp_path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return str(file)


def small(**options: Any) -> CharLM:
    return CharLM(**{"layers": 1, "heads": 2, "width": 16, "context": 16, "warmup_steps": 2, **options})


def small_data(text: str) -> TextDataModule:
    return TextDataModule(path=text, context=16, batch_size=4, val_batch_size=8)


def trainer(root: Path, **options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(
        **{"accelerator": "cpu", "default_root_dir": root, "num_sanity_val_steps": 0, **quiet, **options}
    )


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_it_learns(architecture, text, tmp_path):
    seed_everything(0, verbose=False)
    fit = trainer(tmp_path, max_steps=60, val_check_interval=0.5)
    model = small(architecture=architecture, width=32, lr=1e-2)
    fit.fit(model, small_data(text))
    assert fit.callback_metrics["val/loss"] < 1.5  # ln(29) = 3.37 at the start
    assert model.vocabulary is not None
    assert set(model.generate("the ", length=20)) <= set(model.vocabulary)


def test_validation_loss_is_the_mean_over_all_characters(text, tmp_path):
    model, data = small(), small_data(text)
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(model, data)
    total, count = 0.0, 0
    for inputs, targets in data.val_dataloader():
        known = targets != -100
        scores = model(inputs).log_softmax(-1)[known]
        total -= scores.gather(1, targets[known][:, None]).sum().item()
        count += int(known.sum())
    assert fit.callback_metrics["val/loss"].item() == pytest.approx(total / count, rel=1e-5)


class StepsWithValidation(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer, pl_module) -> None:
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(
    ("steps", "accumulate", "expected"),
    [(8, 1, [2, 4, 6, 8]), (7, 1, [1, 2, 3, 4, 5, 6, 7]), (4, 3, [1, 2, 3, 4]), (2, 1, [1, 2])],
)
def test_the_last_validation_falls_on_the_last_step(steps, accumulate, expected, text, tmp_path):
    seen = StepsWithValidation()
    fit = trainer(
        tmp_path,
        max_steps=steps,
        val_check_interval=0.25,
        accumulate_grad_batches=accumulate,
        callbacks=[seen],
    )
    fit.fit(small(), small_data(text))
    assert seen.steps == expected


def test_a_run_counted_in_epochs_sees_the_text_once_per_epoch(text, tmp_path):
    fit = trainer(tmp_path, max_epochs=2)
    fit.fit(small(), small_data(text))
    assert fit.global_step == 2 * (int(45 * 40 * 0.9) // (4 * 16))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_lower_precision(precision, text, tmp_path):
    fit = trainer(tmp_path, max_steps=3, precision=precision)
    model = small()
    fit.fit(model, small_data(text))
    assert fit.callback_metrics["val/loss"].isfinite()
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {p.dtype for p in model.parameters()} == {expected}


def test_fast_dev_run(text, tmp_path):
    fit = trainer(tmp_path, fast_dev_run=True)
    fit.fit(small(), small_data(text))
    assert fit.global_step == 1


def weights(model: CharLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_resumed_run_ends_in_the_same_bits(text, tmp_path):
    def fresh() -> CharLM:
        seed_everything(1, verbose=False)
        return small(dropout=0.1)

    class SaveAt3(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "3.ckpt")
                torch.save(torch.get_rng_state(), tmp_path / "rng")

    class RestoreRandom(Callback):  # dropout draws from it; the windows do not
        def on_train_start(self, trainer, pl_module) -> None:
            torch.set_rng_state(torch.load(tmp_path / "rng", weights_only=True))

    straight = fresh()
    trainer(tmp_path, max_steps=6, callbacks=[SaveAt3()]).fit(straight, small_data(text))
    resumed = fresh()
    again = trainer(tmp_path, max_steps=6, callbacks=[RestoreRandom()])
    again.fit(resumed, small_data(text), ckpt_path=tmp_path / "3.ckpt")
    assert again.global_step == 6
    assert all(torch.equal(value, weights(straight)[name]) for name, value in weights(resumed).items())


@pytest.fixture
def checkpoint(text, tmp_path) -> Path:
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(small(dropout=0.5), small_data(text))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_a_checkpoint_loads_by_itself_and_is_plain(checkpoint):
    kept = torch.load(checkpoint, weights_only=True)
    model = CharLM.load_from_checkpoint(checkpoint)
    assert model.vocabulary == kept["vocabulary"]
    assert all(torch.equal(value, kept["state_dict"][name]) for name, value in weights(model).items())
    model.train()
    before = torch.get_rng_state()
    assert model.generate("fox", length=5) == model.generate("fox", length=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_a_checkpoint_of_other_characters_is_refused(checkpoint, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("0123456789" * 100)
    with pytest.raises(ValueError, match=r"same characters, got \d+ where there are 10 now; go on with"):
        trainer(tmp_path, max_steps=3).fit(small(), small_data(str(other)), ckpt_path=checkpoint)


def test_the_vocabulary_can_be_given_and_the_data_be_any(tmp_path):
    ids = torch.randint(4, (8, 17))
    loader = DataLoader(TensorDataset(ids[:, :-1], ids[:, 1:]), batch_size=4)
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(small(vocabulary="abc"), loader)
    assert fit.callback_metrics["train/loss"].isfinite()


def test_without_a_vocabulary_it_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"`model.vocabulary` must hold the known characters, got none"):
        trainer(tmp_path, max_steps=1).fit(small(), DataLoader(TensorDataset(torch.zeros(1))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "lama"}, "`model.architecture` must be one of llama, gpt2, got 'lama'"),
        ({"layers": 0}, "`model.layers` must be 1 or more, got 0"),
        ({"width": 10, "heads": 4}, r"`model.width` must be a multiple of `model.heads`.*got 10 and 4"),
        ({"width": 12, "heads": 4, "architecture": "llama"}, "of twice that for llama"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CharLM(**options)


def test_longer_windows_than_the_model_takes_are_refused(text, tmp_path):
    with pytest.raises(ValueError, match=r"`data.context` must be at most `model.context`, got 16 and 8"):
        trainer(tmp_path, max_steps=1).fit(small(context=8), small_data(text))


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="`prompt` must hold a character"):
        small(vocabulary="ab").generate("")


@pytest.mark.parametrize("name", sorted(CharLM.presets))
def test_every_preset_builds_its_optimizer_and_takes_steps(name, text, tmp_path):
    model = small(optimizer=name)
    fit = trainer(tmp_path, max_steps=3)
    fit.fit(model, small_data(text))
    group = fit.optimizers[0].param_groups[0]
    assert type(fit.optimizers[0]).__name__.lower() == name
    assert group["initial_lr"] == CharLM.presets[name]["lr"]
    assert fit.callback_metrics["train/loss"].isfinite()


def test_presets_cover_the_catalog():
    # Muon takes matrices alone, and this model also has vectors.
    assert set(optimizers.list_optimizers()) - set(CharLM.presets) == {"muon"}


def test_the_key_bias_of_gpt2_gets_no_gradient(text, tmp_path):
    """Softmax does not see what all keys have in common: a third of each c_attn.bias is on the floor."""
    model = small(optimizer="adam", width=32, lr=1e-3)
    fit = trainer(tmp_path, max_steps=10)
    fit.fit(model, small_data(text))
    state = fit.optimizers[0].state
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("c_attn.bias")]
    assert len(biases) == 1
    root = (state[biases[0]]["exp_avg_sq"] / (1 - 0.99**10)).sqrt()
    query, key, value = root.chunk(3)
    assert (key <= 1e-8).float().mean() > 0.99
    assert (query > 1e-8).all()
    assert (value > 1e-8).all()
