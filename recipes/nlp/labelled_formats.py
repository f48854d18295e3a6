"""Readers of labelled text: TREC, MR and SST folders, and the documentation of Python's own library."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning_adapt._text import unknown_name

#: A sentence and the name of its class.
Example = tuple[str, str]

#: Packages of the standard library that are on every machine and have enough docstrings to learn from.
STDLIB_PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml")


@dataclass(frozen=True)
class LabelledText:
    """Examples in three parts.

    Args:
        train: To learn from.
        val: To choose by.
        test: To judge by, once.
    """

    train: list[Example]
    val: list[Example]
    test: list[Example]


def split(examples: Iterable[Example], frac: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Set a random share of the examples apart.

    Args:
        examples: What to split.
        frac: Share of the second part, in (0, 1).
        seed: Start of the random numbers; the global ones are left alone.

    Returns:
        The rest and the share, both shuffled.

    Example:
        >>> rest, share = split([(str(i), "x") for i in range(10)], frac=0.2, seed=0)
        >>> len(rest), len(share)
        (8, 2)
    """
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    cut = len(shuffled) - round(len(shuffled) * frac)
    return shuffled[:cut], shuffled[cut:]


def read_trec(folder: Path, val_frac: float, seed: int) -> LabelledText:
    """Read TREC questions (Li and Roth, 2002): lines ``COARSE:fine question``, six coarse classes.

    Args:
        folder: With ``train.txt`` and ``test.txt``, latin-1.
        val_frac: Share of the training questions to set apart; TREC has no validation part of its own.
        seed: Chooses which.

    Raises:
        ValueError: If a line has another form.
    """

    def part(name: str) -> list[Example]:
        examples = []
        for number, line in _lines(folder / name, "latin-1"):
            match = re.fullmatch(r"([A-Z]+):\w+ (.+)", line)
            if match is None:
                raise _malformed(folder / name, number, line, "`COARSE:fine question`")
            examples.append((match[2], match[1]))
        return examples

    train, val = split(part("train.txt"), val_frac, seed)
    return LabelledText(train, val, part("test.txt"))


def read_mr(folder: Path, val_frac: float, seed: int) -> LabelledText:
    """Read movie-review sentences (Pang and Lee, 2005): one sentence per line, one file per class.

    Args:
        folder: With ``rt-polarity.pos`` and ``rt-polarity.neg``, latin-1.
        val_frac: Share to set apart for validation, and as much again for the test; MR brings no parts.
        seed: Chooses which.
    """
    files = {"positive": folder / "rt-polarity.pos", "negative": folder / "rt-polarity.neg"}
    examples = [(line, label) for label, file in files.items() for _, line in _lines(file, "latin-1")]
    return _three_parts(examples, val_frac, seed)


def read_sst(folder: Path, val_frac: float, seed: int) -> LabelledText:
    """Read the sentences of the Stanford Sentiment Treebank (Socher et al., 2013) as SST-2.

    Trees in bracket form, one per line; root labels 0 and 1 are negative, 3 and 4 positive, 2 is dropped.

    Args:
        folder: With ``train.txt``, ``dev.txt`` and ``test.txt``, or with a folder ``trees`` that has them.
        val_frac: Not used: SST brings its own parts.
        seed: Not used.

    Raises:
        ValueError: If a line has another form.
    """
    folder = folder / "trees" if (folder / "trees").is_dir() else folder

    def part(name: str) -> list[Example]:
        examples = []
        for number, line in _lines(folder / name, "utf-8"):
            root = re.match(r"\(([0-4]) ", line)
            if root is None or line.count("(") != line.count(")"):
                raise _malformed(folder / name, number, line, "a tree like `(3 (2 A) (4 delight))`")
            words = " ".join(re.findall(r"\([0-4] ([^()]+)\)", line))
            if root[1] != "2":
                examples.append((words.replace("\\/", "/"), "negative" if root[1] in "01" else "positive"))
        return examples

    return LabelledText(part("train.txt"), part("dev.txt"), part("test.txt"))


def read_stdlib(val_frac: float, seed: int) -> LabelledText:
    """Collect docstrings of Python's standard library; the class is the package a docstring comes from.

    Real English that is on every machine. The source files are parsed, not imported. A docstring that occurs
    twice is kept once, so that none is in two parts.

    Args:
        val_frac: Share to set apart for validation, and as much again for the test.
        seed: Chooses which.

    Raises:
        FileNotFoundError: If this Python came without the sources of its library.

    Example:
        >>> data = read_stdlib(val_frac=0.1, seed=0)
        >>> len(data.train) > 800
        True
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for package in STDLIB_PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            for docstring in _docstrings(file):
                found.setdefault(docstring, package)
    if len(set(found.values())) < len(STDLIB_PACKAGES):
        raise FileNotFoundError(
            f"the default labelled text is the documentation of Python's library, but {root} lacks sources; "
            "name a folder in TREC, MR or SST form with `--data.path DIR`"
        )
    return _three_parts(sorted(found.items()), val_frac, seed)


_READERS: dict[str, Callable[[Path, float, int], LabelledText]] = {
    "trec": read_trec,
    "mr": read_mr,
    "sst": read_sst,
}


def read_folder(path: str, format: str, val_frac: float, seed: int) -> LabelledText:
    """Read a folder of labelled text.

    Args:
        path: The folder.
        format: ``"trec"``, ``"mr"``, ``"sst"``, or ``"auto"`` to tell by the files.
        val_frac: Share to set apart for validation, where the format has no such part.
        seed: Chooses which.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If the format is unknown, cannot be told, or a file is malformed or empty.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"`data.path` must be a folder, got {path!r}, which is none; check the name")
    if format == "auto":
        format = detect(folder)
    elif format not in _READERS:
        raise ValueError(unknown_name("data.format", format, ["auto", *_READERS]))
    data = _READERS[format](folder, val_frac, seed)
    for name, part in [("train", data.train), ("validation", data.val), ("test", data.test)]:
        if not part:
            raise ValueError(
                f"`data.path` must hold examples for every part, got {path!r} with none for {name}; add some"
            )
    labels = {label for _, label in data.train}
    if len(labels) < 2:
        raise ValueError(
            f"`data.path` must hold two classes or more, got {path!r} with {labels.pop()} only; add another"
        )
    return data


def detect(folder: Path) -> str:
    """Tell the format of a folder by its file names and its first line.

    Args:
        folder: The folder.

    Returns:
        ``"trec"``, ``"mr"`` or ``"sst"``.

    Raises:
        ValueError: If it looks like none of them.
    """
    if (folder / "rt-polarity.pos").is_file():
        return "mr"
    train = next((f for f in (folder / "train.txt", folder / "trees" / "train.txt") if f.is_file()), None)
    first = next((line for _, line in _lines(train, "latin-1")), "") if train else ""
    if first.startswith("("):
        return "sst"
    if re.match(r"[A-Z]+:\w+ ", first):
        return "trec"
    raise ValueError(
        "`data.path` must be a folder in TREC form (train.txt, test.txt), MR form (rt-polarity.pos and .neg) "
        f"or SST form (train.txt, dev.txt, test.txt), got {str(folder)!r}; name the form with `--data.format`"
    )


def _three_parts(examples: Iterable[Example], frac: float, seed: int) -> LabelledText:
    rest, test = split(examples, frac, seed)
    # The second share is of what is left, and has to come out as large as the first.
    train, val = split(rest, frac / (1 - frac), seed)
    return LabelledText(train, val, test)


def _lines(file: Path, encoding: str) -> list[tuple[int, str]]:
    """The lines that are not blank, stripped, with their numbers."""
    if not file.is_file():
        raise FileNotFoundError(
            f"`data.path` must hold {file.name}, got {str(file.parent)!r} without it; add the file"
        )
    try:
        text = file.read_text(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(file)!r} must be {encoding} text, byte {error.start} is not; convert it"
        ) from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _malformed(file: Path, number: int, line: str, rule: str) -> ValueError:
    shown = line if len(line) <= 40 else f"{line[:40]}…"
    return ValueError(f"line {number} of {str(file)!r} must be {rule}, got {shown!r}; correct it or the file")


def _docstrings(file: Path) -> list[str]:
    """Docstrings of five words or more in a source file, white space evened out."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(file.read_bytes()))
    texts = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]
    return [" ".join(words) for words in map(str.split, texts) if len(words) >= 5]
