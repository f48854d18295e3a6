"""Text for a character language model: random windows to train on, every character once to validate on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, TensorDataset

#: Target that the loss leaves out (the padding behind the last validation window).
IGNORED = -100
#: Index of every character that is not in the vocabulary.
UNKNOWN = 0


def embedded_text() -> str:
    """Return the English text that comes with Python itself: its own language reference.

    Returns:
        The sections of ``pydoc_data.topics`` (what ``help("for")`` prints) in alphabetical order:
        about 465,000 characters in Python 3.11, more in later ones.

    Raises:
        FileNotFoundError: If this Python was installed without ``pydoc_data``.

    Example:
        >>> len(embedded_text()) > 300_000
        True
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise FileNotFoundError(
            "this Python comes without `pydoc_data`, the default text; name a text with `--data.path FILE`"
        ) from error
    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: str) -> str:
    """Read a text file as UTF-8, or as latin-1 with a warning where it is not UTF-8.

    Args:
        path: A text file.

    Returns:
        Its characters, without a byte order mark.

    Raises:
        FileNotFoundError: If ``path`` is no file.
        ValueError: If the file cannot be read or holds null bytes, as pictures and archives do.
    """
    if not Path(path).is_file():
        wrong = "is no file" if Path(path).exists() else "is not there"
        raise FileNotFoundError(
            f"`data.path` must be a text file, got {path!r}, which {wrong}; check the name"
        )
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"`data.path` must be a file that can be read, got {path!r} ({error.strerror}); check its rights"
        ) from error
    if b"\0" in raw:
        raise ValueError(
            f"`data.path` must be a text file, got {path!r}, which holds binary data; convert it to UTF-8"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        rank_zero_warn(
            f"{path!r} is not UTF-8 (byte {error.start}), so it is read as latin-1; if letters look wrong, "
            "convert it to UTF-8"
        )
        return raw.decode("latin-1")


def encode(text: str, vocabulary: str) -> Tensor:
    """Turn characters into their places in ``vocabulary``, counted from 1; any other character is 0.

    Args:
        text: The characters.
        vocabulary: The known characters, each once.

    Returns:
        Shape ``(len(text),)``, int32.

    Example:
        >>> encode("abx", vocabulary="ab").tolist()
        [1, 2, 0]
    """
    index = {character: place for place, character in enumerate(vocabulary, start=1)}
    return torch.tensor([index.get(character, UNKNOWN) for character in text], dtype=torch.int32)


class RandomWindows:
    """Endlessly different windows of a text, in the same order for the same seed.

    Batch ``k`` depends on ``seed`` and ``k`` alone: no global random state is used, and a run that resumes
    from a checkpoint sees exactly the batches that the uninterrupted run would have seen.

    Args:
        ids: Shape ``(characters,)``: the text.
        context: Characters per window.
        batch_size: Windows per batch.
        batches: Batches per epoch.
        seed: Start of the random numbers.
    """

    def __init__(self, ids: Tensor, context: int, batch_size: int, batches: int, seed: int) -> None:
        self.ids, self.context, self.batch_size, self.batches, self.seed = (
            ids,
            context,
            batch_size,
            batches,
            seed,
        )
        self._drawn = 0

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets, the next characters; each of shape ``(batch_size, context)``, int64."""
        # After a resume in mid-epoch only the rest of that epoch is left.
        for _ in range(self.batches - self._drawn % self.batches):
            self._drawn += 1
            yield self._batch(self._drawn)

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        # torch's CPU generator looks at the low 32 bits of its seed only; the odd factor keeps the
        # batches of neighbouring seeds apart.
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B1 + number) % 2**32)
        starts = torch.randint(len(self.ids) - self.context, (self.batch_size, 1), generator=generator)
        window = self.ids[starts + torch.arange(self.context + 1)].long()
        return window[:, :-1], window[:, 1:]

    def state_dict(self) -> dict[str, int]:
        """Return how many batches were drawn; the Trainer puts it into its checkpoints."""
        return {"drawn": self._drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batches that were drawn before."""
        self._drawn = state["drawn"]


def consecutive_windows(ids: Tensor, context: int) -> TensorDataset:
    """Cut a text into windows that predict each character once (but for the first).

    Args:
        ids: Shape ``(characters,)``: the text.
        context: Characters per window.

    Returns:
        Inputs and targets, each of shape ``(windows, context)``, int64; targets behind the end are -100.

    Example:
        >>> inputs, targets = consecutive_windows(torch.tensor([5, 6, 7, 8]), context=2).tensors
        >>> inputs.tolist(), targets.tolist()
        ([[5, 6], [7, 0]], [[6, 7], [8, -100]])
    """
    ids = ids.long()
    missing = -(len(ids) - 1) % context
    inputs, targets = pad(ids[:-1], (0, missing)), pad(ids[1:], (0, missing), value=IGNORED)
    return TensorDataset(inputs.view(-1, context), targets.view(-1, context))


class TextDataModule(LightningDataModule):
    """A text as characters: its first part to train on, its last part to validate on.

    An epoch is the whole run when the run is counted in steps (``trainer.max_steps``), so that the last
    validation falls on the last step; otherwise it is one pass over as many characters as there are.

    Args:
        path: A text file (UTF-8); ``None`` takes the English text that comes with Python itself.
        context: Characters per window.
        batch_size: Windows per batch.
        val_batch_size: Windows per validation batch.
        val_frac: Share of the text, at its end, to validate on.
        seed: Start of the random numbers that choose the windows.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> data = TextDataModule(context=32)
        >>> data.setup("fit")
        >>> inputs, targets = next(iter(data.val_dataloader()))
        >>> inputs.shape[1], bool((inputs[0, 1:] == targets[0, :-1]).all())
        (32, True)
    """

    def __init__(
        self,
        path: str | None = None,
        context: int = 64,
        batch_size: int = 16,
        val_batch_size: int = 64,
        val_frac: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in [
            ("context", context),
            ("batch_size", batch_size),
            ("val_batch_size", val_batch_size),
        ]:
            if value < 1:
                raise ValueError(f"`data.{name}` must be 1 or more, got {value}; 64 is a good start")
        if not 0 < val_frac < 1:
            raise ValueError(f"`data.val_frac` must be between 0 and 1, got {val_frac}; 0.1 is a good start")
        self.path, self.context, self.val_frac, self.seed = path, context, val_frac, seed
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        #: The characters of the training part, sorted; known after ``setup``.
        self.vocabulary: str = ""

    def setup(self, stage: str) -> None:
        """Read the text, split it and collect the vocabulary."""
        if self.vocabulary:
            return
        text = embedded_text() if self.path is None else read_text(self.path)
        cut = len(text) - int(len(text) * self.val_frac)
        needed = self.context + 1
        if min(cut, len(text) - cut) < needed:
            source = "the default text" if self.path is None else repr(self.path)
            raise ValueError(
                f"`data.path` must be a text of which each part has {needed} characters, got {cut} to train "
                f"and {len(text) - cut} to validate on from {source}; give a longer text or a smaller "
                "`--data.context`"
            )
        self.vocabulary = "".join(sorted(set(text[:cut])))
        ids = encode(text, self.vocabulary)
        self._train, self._val = ids[:cut], ids[cut:]

    def train_dataloader(self) -> RandomWindows:
        """Return random windows; each process of a distributed run draws its own."""
        trainer = self.trainer
        batches = max(1, len(self._train) // (self.batch_size * self.context))
        if trainer is not None and trainer.max_steps > 0:
            batches = trainer.max_steps * trainer.accumulate_grad_batches
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        return RandomWindows(self._train, self.context, self.batch_size, batches, self.seed * ranks + rank)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation part, each character predicted once."""
        # A generator of its own: a DataLoader without one draws from the global random state.
        return DataLoader(
            consecutive_windows(self._val, self.context),
            batch_size=self.val_batch_size,
            generator=torch.Generator().manual_seed(self.seed),
        )
