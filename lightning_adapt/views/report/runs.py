"""Which runs a report is about: folders with tables, in the folders that were named or below them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lightning_adapt._text import nearest_first
from lightning_adapt.views.report.recording import Recording, read_recording

_PARTS = 3


def find_runs(named: Sequence[str | os.PathLike[str]]) -> list[tuple[str, Recording]]:
    """Read the runs in ``named`` and in the folders below, each once.

    Returns:
        What each is called, and what it holds.

    Raises:
        FileNotFoundError: If a folder does not exist, or has no event file in it or below.
        ValueError: If its event files hold no table, or cannot be read.
    """
    found: dict[Path, Recording] = {}
    for each in named:
        for recording in _below(Path(each)):
            found.setdefault(recording.folder.resolve(), recording)
    names = Counter(name_of(folder) for folder in found)
    alone = {folder: name for folder in found if names[name := name_of(folder)] == 1}
    return [(alone.get(folder, folder.as_posix()), recording) for folder, recording in found.items()]


def name_of(folder: Path) -> str:
    """What a run is called in a report that others may read: not where the user's files lie.

    Example:
        >>> name_of(Path("runs/char-lm/version_0"))
        'runs/char-lm/version_0'
    """
    whole = folder.resolve()
    if whole != Path.cwd() and whole.is_relative_to(Path.cwd()):
        return whole.relative_to(Path.cwd()).as_posix()
    return "/".join(whole.relative_to(whole.anchor).parts[-_PARTS:]) or whole.anchor


def _below(folder: Path) -> list[Recording]:
    if not folder.is_dir():
        raise FileNotFoundError(_missing(folder))
    folders = sorted({path.parent for path in folder.rglob("*tfevents*") if path.is_file()})
    if not folders:
        raise FileNotFoundError(
            f"`RUN` must hold a TensorBoard event file, got {str(folder)!r}, which has none; train with a "
            "TensorBoardLogger and OptimizerDynamicsMonitor, or name the run's own folder"
        )
    read: list[Recording] = []
    for each in folders:
        # What lies below a run, such as dumps of its black box, is no run of its own.
        if not any(run.places and run.folder in each.parents for run in read):
            read.append(read_recording(each))
    found = [recording for recording in read if recording.places]
    if not found:
        damage = [sentence for recording in read for sentence in recording.damage]
        if damage:
            raise ValueError(f"`RUN` must hold event files that can be read, got {'; '.join(damage)}")
        raise ValueError(
            f"`RUN` must hold tables of OptimizerDynamicsMonitor, got {str(folder)!r}, whose event files "
            "have none; add the callback to the Trainer, and train for at least its `every_n_steps`"
        )
    return found


def _missing(folder: Path) -> str:
    if folder.exists():
        return f"`RUN` must be a log folder, got the file {str(folder)!r}; name the folder that holds it"
    parent = folder.parent
    known = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    near = [str(parent / name) for name in nearest_first(folder.name, known)[:5]]
    hint = f"did you mean {', '.join(near)}?" if near else "check the name"
    return f"`RUN` must be a log folder, got {str(folder)!r}, which does not exist; {hint}"
