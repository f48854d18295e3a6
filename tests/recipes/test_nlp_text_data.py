"""The text of the character language model: what is read, how it is cut, what is said about bad files."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from lightning_adapt.recipes.nlp.text_data import (
    IGNORED,
    RandomWindows,
    TextDataModule,
    consecutive_windows,
    embedded_text,
    read_text,
)


def test_embedded_text_is_long_english():
    text = embedded_text()
    assert len(text) > 300_000
    assert text.count(" the ") > 3_000


def test_missing_embedded_text_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(FileNotFoundError, match=r"without `pydoc_data`.*`--data.path FILE`"):
        embedded_text()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("naïve ☃\n".encode(), "naïve ☃\n"),
        (b"\xef\xbb\xbfmarked", "marked"),
        (b"", ""),
    ],
)
def test_utf8_is_read_without_a_word(tmp_path, raw, text):
    file = tmp_path / "text.txt"
    file.write_bytes(raw)
    assert read_text(str(file)) == text


def test_other_encodings_are_read_as_latin1_and_said(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes("café".encode("latin-1"))
    with pytest.warns(
        UserWarning, match=r"not UTF-8 \(byte 3\), so it is read as latin-1; .*convert it to UTF-8"
    ):
        assert read_text(str(file)) == "café"


def test_bad_files_are_refused_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"`data.path` must be a text file, got '.*none.txt'.*check the name"
    ):
        read_text(str(tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError, match="must be a text file"):
        read_text(str(tmp_path))
    (tmp_path / "picture").write_bytes(b"\x89PNG\0\0")
    with pytest.raises(ValueError, match="holds binary data; convert it to UTF-8"):
        read_text(str(tmp_path / "picture"))

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"can be read, got .*\(Permission denied\); check its rights"):
        read_text(str(tmp_path / "picture"))


@pytest.mark.parametrize("length", [0, 20, 100])
def test_too_short_a_text_is_refused(tmp_path, length):
    file = tmp_path / "text.txt"
    file.write_text("a" * length)
    with pytest.raises(ValueError, match=r"each part has 65 characters, got .*text.txt'; give a longer text"):
        TextDataModule(path=str(file)).setup("fit")


def test_too_long_a_context_for_the_default_text_is_refused():
    with pytest.raises(ValueError, match=r"from the default text; .*smaller `--data.context`"):
        TextDataModule(context=10**6).setup("fit")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("context", 0, "1 or more, got 0"),
        ("batch_size", -1, "1 or more, got -1"),
        ("val_batch_size", 0, "1 or more, got 0"),
        ("val_frac", 0.0, "between 0 and 1, got 0.0"),
        ("val_frac", 1.0, "between 0 and 1, got 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(name, value, rule):
    with pytest.raises(ValueError, match=f"`data.{name}` must be {rule}"):
        TextDataModule(**{name: value})


def test_characters_of_the_validation_part_alone_count_as_unknown(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("ab" * 450 + "z" * 100)
    data = TextDataModule(path=str(file), context=8)
    data.setup("fit")
    assert data.vocabulary == "ab"
    inputs, targets = next(iter(data.val_dataloader()))
    assert set(inputs.unique().tolist()) == {0}
    assert set(targets.unique().tolist()) <= {0, IGNORED}


def test_validation_predicts_every_character_but_the_first_once(tmp_path):
    text = "the quick brown fox jumps over the lazy dog " * 30
    file = tmp_path / "text.txt"
    file.write_text(text)
    data = TextDataModule(path=str(file), context=7, val_batch_size=4)
    data.setup("validate")
    batches = list(data.val_dataloader())
    targets = torch.cat([targets.flatten() for _, targets in batches])
    kept = targets[targets != IGNORED]
    assert "".join(data.vocabulary[i - 1] for i in kept.tolist()) == text[-(len(text) // 10) + 1 :]


@pytest.mark.parametrize("length", [8, 9, 10, 15, 16, 17])
def test_windows_fit_any_length(length):
    inputs, targets = consecutive_windows(torch.arange(1, length + 1), context=5).tensors
    assert (targets != IGNORED).sum() == length - 1
    assert inputs.shape == targets.shape == (-(-(length - 1) // 5), 5)


def windows(seed: int = 0, batches: int = 5) -> RandomWindows:
    return RandomWindows(torch.arange(100), context=4, batch_size=3, batches=batches, seed=seed)


def test_random_windows_are_pieces_of_the_text_and_reach_both_ends():
    starts: Counter[int] = Counter()
    for inputs, targets in windows(batches=500):
        assert inputs.shape == targets.shape == (3, 4)
        assert (inputs.diff(dim=1) == 1).all()
        assert (targets == inputs + 1).all()
        starts.update(inputs[:, 0].tolist())
    assert set(starts) == set(range(96))


def first_numbers(loader: RandomWindows) -> list[list[int]]:
    return [inputs[:, 0].tolist() for inputs, _ in loader]


def test_random_windows_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    same, again, other = first_numbers(windows(7)), first_numbers(windows(7)), first_numbers(windows(8))
    assert torch.equal(torch.get_rng_state(), before)
    assert same == again
    assert not {tuple(batch) for batch in same} & {tuple(batch) for batch in other}


def test_epochs_differ_and_a_resumed_loader_goes_on_where_it_was():
    straight = windows()
    two_epochs = first_numbers(straight) + first_numbers(straight)
    assert len({tuple(batch) for batch in two_epochs}) == 10

    stopped = windows()
    iterator = iter(stopped)
    begun = [next(iterator)[0][:, 0].tolist() for _ in range(2)]
    resumed = windows()
    resumed.load_state_dict(stopped.state_dict())
    assert begun + first_numbers(resumed) + first_numbers(resumed) == two_epochs


def test_setup_reads_once(monkeypatch):
    data = TextDataModule()
    data.setup("fit")
    monkeypatch.setattr("lightning_adapt.recipes.nlp.text_data.embedded_text", lambda: "changed")
    data.setup("validate")
    assert len(data.vocabulary) > 60
    assert len(data.train_dataloader()) == int(len(embedded_text()) * 0.9) // (16 * 64)
