"""Sentences with a class each, in batches."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_adapt.recipes.nlp.labelled_formats import Example, read_folder, read_stdlib


class LabelledTextDataModule(LightningDataModule):
    """Labelled sentences as batches ``(list of str, Tensor of class indices)``; the model has the tokenizer.

    Without ``path`` it is a small task that is on every machine: tell by a docstring of Python's standard
    library which of eight packages it comes from (about 1,800 docstrings, the largest class is 17 %).

    Args:
        path: A folder in TREC, MR or SST form; ``None`` takes the docstrings.
        format: The folder's form; ``"auto"`` tells it by the files.
        batch_size: Sentences per training batch.
        val_batch_size: Sentences per batch of validation and test.
        val_frac: Share to set apart for validation (and for the test) where the data has no such part.
        seed: Chooses the parts, and the order of the training batches.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        path: str | None = None,
        format: Literal["auto", "trec", "mr", "sst"] = "auto",
        batch_size: int = 32,
        val_batch_size: int = 128,
        val_frac: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in [("batch_size", batch_size), ("val_batch_size", val_batch_size)]:
            if value < 1:
                raise ValueError(f"`data.{name}` must be 1 or more, got {value}; 32 is a good start")
        if not 0 < val_frac < 0.5:
            raise ValueError(
                f"`data.val_frac` must be between 0 and 0.5, got {val_frac}; 0.1 is a good start"
            )
        self.path, self.format, self.val_frac, self.seed = path, format, val_frac, seed
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        #: Names of the classes, sorted; known after ``setup``.
        self.labels: list[str] = []

    def setup(self, stage: str) -> None:
        """Read the examples and name the classes."""
        if self.labels:
            return
        if self.path is None:
            self._parts = read_stdlib(self.val_frac, self.seed)
        else:
            self._parts = read_folder(self.path, self.format, self.val_frac, self.seed)
        self.labels = sorted({label for _, label in self._parts.train})
        strange = {label for _, label in self._parts.val + self._parts.test} - set(self.labels)
        if strange:
            names = ", ".join(sorted(strange))
            raise ValueError(
                f"`data.path` must have all classes in its training part, got {names} only elsewhere; "
                "correct the files"
            )

    @property
    def train_texts(self) -> list[str]:
        """The sentences to learn from: a vocabulary is built from these alone."""
        return [text for text, _ in self._parts.train]

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training sentences, in a new order each epoch."""
        return self._loader(self._parts.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation sentences."""
        return self._loader(self._parts.val, self.val_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test sentences."""
        return self._loader(self._parts.test, self.val_batch_size)

    def _loader(self, examples: list[Example], batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        index = {label: place for place, label in enumerate(self.labels)}

        def collate(batch: list[Example]) -> tuple[list[str], Tensor]:
            return [text for text, _ in batch], torch.tensor([index[label] for _, label in batch])

        # A generator of its own: a DataLoader without one draws from the global random state.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            examples,  # type: ignore[arg-type]  # a list is all that a map-style dataset has to be
            batch_size=batch_size,
            shuffle=shuffle,
            collate_fn=collate,
            generator=generator,
        )
