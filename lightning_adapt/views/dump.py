"""Dumps of a black box: the last tables of a run and what was found in them, in a folder of their own.

The tables are an event file, which everything that reads a run reads; the findings are ``findings.json``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.views.alerts import DUMP, plain
from lightning_adapt.views.findings import Values


def write_dump(
    folder: Path, tables: Sequence[DynamicsTable], findings: Sequence[Values], about: Mapping[str, Any]
) -> Path:
    """Write a dump; it is there completely or not at all.

    Args:
        folder: Where; a number is added if it exists.
        tables: Last tables; without TensorBoard installed they are left out.
        findings: Plain values.
        about: What else to say, as JSON can.

    Returns:
        The folder.
    """
    place, count = folder, 1
    while place.exists():
        place, count = folder.with_name(f"{folder.name}-{count}"), count + 1
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    content = {"format": 1, **about, "findings": [plain(finding) for finding in findings]}
    (draft / DUMP).write_text(json.dumps(content, indent=1))
    _write_tables(draft, tables)
    draft.rename(place)
    return place


def _write_tables(folder: Path, tables: Sequence[DynamicsTable]) -> None:
    try:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ModuleNotFoundError:
        return
    from lightning_adapt.views.event_file import tag_of, to_summary

    writer = EventFileWriter(str(folder))
    described: set[str] = set()
    for table in tables:
        summary = to_summary(table, describe=tag_of(table) not in described)
        described.add(tag_of(table))
        writer.add_event(Event(step=table.step, wall_time=time.time(), summary=summary))
    writer.close()
