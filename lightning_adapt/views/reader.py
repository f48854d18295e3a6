"""Tables read back from the event files of a run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lightning_adapt.dynamics.table import DynamicsHistory, DynamicsTable


def read_dynamics(logdir: str | os.PathLike[str]) -> DynamicsHistory:
    """Read the history of tables that `OptimizerDynamicsMonitor` left in a run folder.

    Args:
        logdir: The run folder (the one that holds the event file), or a folder above exactly one such run.

    Returns:
        Tables sorted by step, then optimizer. Where a resumed run wrote a step again, the later one stays.

    Raises:
        FileNotFoundError: If there is no such folder or no event file in it.
        ValueError: If its event files hold no table, or several runs lie below it.

    Example:
        >>> read_dynamics("no/such/folder")
        Traceback (most recent call last):
        ...
        FileNotFoundError: `logdir` must be a run folder, got 'no/such/folder', which does not exist; pass the folder that holds the event file
    """  # noqa: E501
    folder = Path(logdir)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`logdir` must be a run folder, got {str(folder)!r}, which does not exist; "
            "pass the folder that holds the event file"
        )
    runs: dict[Path, list[Path]] = {}
    for file in sorted(path for path in folder.rglob("*tfevents*") if path.is_file()):
        runs.setdefault(file.parent, []).append(file)
    if not runs:
        raise FileNotFoundError(
            f"`logdir` must hold a TensorBoard event file, got {str(folder)!r}, which has none; "
            "train with a TensorBoardLogger and OptimizerDynamicsMonitor, or pass the run's own folder"
        )
    damage: list[str] = []
    found = {run: tables for run, files in runs.items() if (tables := _read_run(files, damage))}
    # A run's folder may hold dumps of its black box, which are read when they are named.
    found = {run: tables for run, tables in found.items() if found.keys().isdisjoint(run.parents)}
    if not found and damage:
        raise ValueError(f"`logdir` must hold event files that can be read, got {'; '.join(damage)}")
    for sentence in damage:
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)
    if not found:
        raise ValueError(
            f"`logdir` must hold tables of OptimizerDynamicsMonitor, got {str(folder)!r}, whose event files "
            "have none; add the callback to the Trainer, and train for at least its `every_n_steps`"
        )
    if len(found) > 1 and folder not in found:
        names = ", ".join(str(run.relative_to(folder)) for run in found)
        raise ValueError(
            f"`logdir` must be one run, got {str(folder)!r} with {len(found)} runs below it; "
            f"pass one of: {names}"
        )
    run = folder if folder in found else next(iter(found))
    return DynamicsHistory(found[run], source=str(run))


def _read_run(files: list[Path], damage: list[str]) -> list[DynamicsTable]:
    """All tables in the event files of one run; adds to ``damage`` what could not be read."""
    try:
        from lightning_adapt.views.event_file import HEADER, TAG, array_of, from_parts, parts_of
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reading event files needs TensorBoard; pip install 'lightning-adapt[tensorboard]'"
        ) from error

    contents: dict[str, bytes] = {}
    # (optimizer, step) -> (wall time, tag, arrays by part): a later writing of the same step replaces it.
    events: dict[tuple[str, int], tuple[float, str, dict[str, npt.NDArray[Any]]]] = {}
    for file in files:
        for step, wall_time, values in summaries(file, damage, TAG):
            arrays: dict[str, npt.NDArray[Any]] = {}
            tag = ""
            for value in values:
                tag, part = parts_of(value.tag)
                arrays[part] = array_of(value)
                content = value.metadata.plugin_data.content
                if content and part == HEADER:
                    contents.setdefault(tag, content)
            optimizer = tag.split("/")[1]
            known = events.get((optimizer, step))
            if known is None or known[0] <= wall_time:
                events[optimizer, step] = (wall_time, tag, arrays)
    tables = []
    for (_, step), (_, tag, arrays) in sorted(events.items(), key=lambda item: (item[0][1], item[0][0])):
        if tag in contents and HEADER in arrays:
            tables.append(from_parts(contents[tag], step, arrays))
    return tables


def summaries(
    file: Path, damage: list[str], first: str, what: str = "tables"
) -> Iterator[tuple[int, float, list[Any]]]:
    """Step, wall time and some values of every summary in an event file, as far as it can be read.

    Args:
        file: The event file.
        damage: Gets a sentence if it cannot be read to its end.
        first: What tags of the values begin with, up to the first slash.
        what: What they are, for the sentence.

    Yields:
        One entry for each summary that has such values.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    from lightning_adapt.views.records import Unreadable, records

    count = 0
    try:
        for record in records(file):
            event = Event.FromString(record)
            ours = [value for value in event.summary.value if value.tag.startswith(f"{first}/")]
            if ours:
                count += 1
                yield event.step, event.wall_time, ours
    except (Unreadable, DecodeError) as error:
        reason = error if isinstance(error, Unreadable) else "a record is no event"
        damage.append(f"{file}, which was read only in part, {count} {what}: {reason}")
