"""A trial: one small training of a recipe, and what makes it sick. Plain data, so that it can be a key."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

HALVES = ("tune", "held-out", "both")

DRAW = 1
"""Counted up whenever a rule was changed after a look at the held-out half: it then gets new seeds."""

_ROOT = Path(__file__).resolve().parents[2]
# What decides about a table: the rest (views, the command, the rules themselves) does not.
_CODE = (
    "lightning_adapt/dynamics/**/*.py",
    "lightning_adapt/optimizers/**/*.py",
    "callbacks/_session.py",
    "callbacks/_trainer.py",
    "callbacks/_watch.py",
    "recipes/_module.py",
    "recipes/nlp/*.py",
    "recipes/gnn/*.py",
    "benchmarks/diagnosis/recipes.py",
    "benchmarks/diagnosis/train.py",
    "benchmarks/diagnosis/injections/base.py",
)


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        name: The sickness, or a kind of healthy training.
        number: Which of its variations; odd ones are held out.
        recipe: One of `recipes.RECIPES`.
        steps: Optimizer steps.
        model: Arguments of the recipe's module.
        data: Arguments of its data module.
        trainer: Arguments of the Trainer; ``precision="16-mixed"`` brings a gradient scaler for the CPU.
        injection: What makes it sick, one of `injections.INJECTIONS`; empty for a healthy training.
        options: Arguments of the injection.
        every: The rules see the table of every so-manyth step.
    """

    name: str
    number: int
    recipe: str
    steps: int
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    injection: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    every: int = 1

    @property
    def held_out(self) -> bool:
        """Whether no threshold may be set on it."""
        return self.number % 2 == 1

    def of(self, half: str) -> bool:
        """Whether it belongs to a half, one of `HALVES`."""
        return half == "both" or self.held_out == (half == "held-out")

    @property
    def seed(self) -> int:
        """No two variations of a sickness start from the same weights and batches."""
        base = int(hashlib.sha256(self.name.encode()).hexdigest()[:6], 16) % 10_000
        return base + self.number + (20_000 * DRAW if self.held_out else 0)

    @property
    def key(self) -> str:
        """Changes whenever the configuration does, or code that its tables come from."""
        # How seldom tables are looked at, and what the sickness is called, makes no other training.
        about = {
            name: value for name, value in asdict(self).items() if name not in ("every", "name", "number")
        }
        source = _source(self.injection) if self.injection else ""
        text = json.dumps([about, self.seed, source, _code(), torch.__version__], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """One line on what it is."""
        parts = [f"{self.name} {self.number}: {self.recipe}"]
        for given in (self.model, self.data, self.trainer, self.options):
            parts += [f"{name}={value}" for name, value in given.items()]
        return " ".join(parts)


@cache
def _source(injection: str) -> str:
    """Of an injection's class and those it is derived from, but for their common base."""
    from diagnosis.injections import INJECTIONS, Injection

    line = INJECTIONS[injection].__mro__
    return "".join(inspect.getsource(one) for one in line[: line.index(Injection)])


@cache
def _code() -> str:
    found = hashlib.sha256()
    for path in _files():
        found.update(path.read_bytes())
    return found.hexdigest()


def _files() -> Iterator[Path]:
    for pattern in _CODE:
        yield from sorted(_ROOT.glob(pattern))
