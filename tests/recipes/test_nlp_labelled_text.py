"""Labelled text: what each format holds, and what is said about folders that hold something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_adapt.recipes.nlp import labelled_formats
from lightning_adapt.recipes.nlp.labelled_formats import STDLIB_PACKAGES, detect, read_folder, read_stdlib
from lightning_adapt.recipes.nlp.labelled_text import LabelledTextDataModule

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

TREC = {"LOC": "Where", "HUM": "Who"}
TREES = "(3 (2 A) (4 (2 true) (4 delight)))\n(2 (2 So) (2 so))\n(0 (2 Ang\\/st) (1 ,))\n"


def write(folder: Path, **contents: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name.replace("__", "-").replace("_", ".")).write_bytes(text.encode("latin-1"))
    return folder


def trec(folder: Path) -> Path:
    train = [
        f"{label}:fine {word} {i} in S\xe3o Paulo ?\n" for i in range(10) for label, word in TREC.items()
    ]
    return write(folder, train_txt="".join(train), test_txt="HUM:ind Who was Galileo ?\n\n")


def mr(folder: Path) -> Path:
    sides = {"rt__polarity_pos": "good", "rt__polarity_neg": "bad"}
    return write(
        folder, **{name: "".join(f"{word} {i}\n" for i in range(10)) for name, word in sides.items()}
    )


def sst(folder: Path) -> Path:
    return write(folder / "trees", train_txt=TREES, dev_txt=TREES, test_txt=TREES).parent


def test_trec(tmp_path):
    data = read_folder(str(trec(tmp_path)), "auto", val_frac=0.2, seed=0)
    assert data.test == [("Who was Galileo ?", "HUM")]
    assert (len(data.train), len(data.val)) == (16, 4)
    assert ("Where 3 in S\xe3o Paulo ?", "LOC") in data.train + data.val


def test_mr(tmp_path):
    data = read_folder(str(mr(tmp_path)), "auto", val_frac=0.1, seed=0)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 2, 2)
    everything = data.train + data.val + data.test
    assert len(set(everything)) == 20
    assert all(label == ("positive" if text.startswith("good") else "negative") for text, label in everything)


@pytest.mark.parametrize("inner", ["", "trees"])
def test_sst_keeps_the_poles_and_reads_the_words(tmp_path, inner):
    data = read_folder(str(sst(tmp_path) / inner), "auto", val_frac=0.1, seed=0)
    assert data.train == data.val == data.test == [("A true delight", "positive"), ("Ang/st ,", "negative")]


@pytest.mark.parametrize(("make", "name"), [(trec, "trec"), (mr, "mr"), (sst, "sst")])
def test_formats_are_told_apart(tmp_path, make, name):
    assert detect(make(tmp_path)) == name


@pytest.mark.parametrize(
    ("path", "parts"),
    [("trec", (4907, 545, 500)), ("mr_polarity", (8530, 1066, 1066)), ("sst", (6920, 872, 1821))],
)
def test_the_real_sets_have_their_published_sizes(path, parts, data_path):
    data = read_folder(str(data_path(path)), "auto", val_frac=0.1, seed=0)
    assert (len(data.train), len(data.val), len(data.test)) == parts
    assert {label for _, label in data.train} == {label for _, label in data.test}


def test_docstrings_are_many_distinct_and_balanced():
    data = read_stdlib(val_frac=0.1, seed=0)
    everything = data.train + data.val + data.test
    texts = [text for text, _ in everything]
    assert len(texts) == len(set(texts)) > 1000
    labels = [label for _, label in everything]
    assert set(labels) == set(STDLIB_PACKAGES)
    assert max(labels.count(name) for name in STDLIB_PACKAGES) < 0.25 * len(labels)
    assert len(data.val) == pytest.approx(len(data.test), abs=1)


def test_a_python_without_sources_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled_formats.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match=r"lacks sources; name a folder .* with `--data.path DIR`"):
        read_stdlib(val_frac=0.1, seed=0)


@pytest.mark.parametrize(
    ("files", "format", "error", "message"),
    [
        (
            None,
            "auto",
            FileNotFoundError,
            "`data.path` must be a folder, got .*, which is none; check the name",
        ),
        ({}, "auto", ValueError, "must be a folder in TREC form .* name the form with `--data.format`"),
        ({"train_txt": "just text\n"}, "auto", ValueError, "must be a folder in TREC form"),
        ({"train_txt": ""}, "auto", ValueError, "must be a folder in TREC form"),
        ({}, "terc", ValueError, "`data.format` must be one of trec, .*, got 'terc'; did you mean 'trec'"),
        (
            {"train_txt": "LOC:city Where ?\n"},
            "trec",
            FileNotFoundError,
            "must hold test.txt, got .* without it",
        ),
        (
            {"train_txt": "LOC:city Where ?\nWhat ?\n"},
            "auto",
            ValueError,
            r"line 2 of .*train.txt' must be .*COARSE:fine",
        ),
        (
            {"train_txt": TREES + "(3 (2 half\n"},
            "auto",
            ValueError,
            r"line 4 of .*must be a tree like .*, got '\(3 ",
        ),
        ({"train_txt": "(9 x)\n"}, "sst", ValueError, "line 1 of"),
        ({"train_txt": "(3 caf\xe9)\n"}, "sst", ValueError, "must be utf-8 text, byte 6 is not"),
        ({"rt__polarity_pos": "good\n" * 9, "rt__polarity_neg": ""}, "auto", ValueError, "two classes"),
    ],
)
def test_bad_folders_are_refused_in_one_sentence(tmp_path, files, format, error, message):
    folder = tmp_path / "data"
    if files is not None:
        write(folder, **files)
    with pytest.raises(error, match=message):
        read_folder(str(folder), format, val_frac=0.1, seed=0)


def test_an_empty_part_is_refused(tmp_path):
    folder = write(tmp_path, train_txt="LOC:city Where ?\n" * 9, test_txt="\n")
    with pytest.raises(ValueError, match=r"must hold examples for every part, got .* with none for test"):
        read_folder(str(folder), "trec", val_frac=0.2, seed=0)


def test_a_class_that_is_not_trained_is_refused(tmp_path):
    trec(tmp_path)
    (tmp_path / "test.txt").write_text("NUM:date When ?\n")
    with pytest.raises(ValueError, match="all classes in its training part, got NUM only elsewhere"):
        LabelledTextDataModule(path=str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("batch_size", 0, "1 or more, got 0"),
        ("val_batch_size", -3, "1 or more, got -3"),
        ("val_frac", 0.5, "between 0 and 0.5, got 0.5"),
        ("val_frac", 0.0, "between 0 and 0.5, got 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(name, value, rule):
    with pytest.raises(ValueError, match=f"`data.{name}` must be {rule}"):
        LabelledTextDataModule(**{name: value})


def test_batches_hold_sentences_and_class_numbers(tmp_path):
    data = LabelledTextDataModule(path=str(trec(tmp_path)), batch_size=4, val_frac=0.2)
    data.setup("fit")
    before = torch.get_rng_state()
    first, second = list(data.train_dataloader()), list(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)
    assert [texts for texts, _ in first] == [texts for texts, _ in second]
    assert data.labels == ["HUM", "LOC"]
    truth = dict(data._parts.train)
    pairs = [pair for texts, labels in first for pair in zip(texts, labels.tolist(), strict=True)]
    assert {text: data.labels[label] for text, label in pairs} == truth
    assert sum(len(texts) for texts, _ in data.val_dataloader()) == 4
    assert [texts for texts, _ in data.test_dataloader()] == [["Who was Galileo ?"]]


def test_the_default_data_are_the_docstrings():
    data = LabelledTextDataModule()
    data.setup("fit")
    assert data.labels == sorted(STDLIB_PACKAGES)


def test_setup_reads_once(tmp_path):
    data = LabelledTextDataModule(path=str(trec(tmp_path)))
    data.setup("fit")
    (tmp_path / "train.txt").unlink()
    data.setup("test")
    assert len(data.train_texts) == 18
