"""The records of an event file, and where they stop to make sense.

TensorBoard's own loader ends without a word at the first record that is damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lightning_adapt.views.checksums import masked_crc32c

_HEAD, _FOOT = struct.calcsize("<QI"), struct.calcsize("<I")
OVERHEAD = _HEAD + _FOOT
"""Bytes that a record takes beside its data."""


class Unreadable(ValueError):
    """Why an event file cannot be read any further."""


def records(path: Path) -> Iterator[bytes]:
    """Read an event file: length, its checksum, data, their checksum, and again.

    Args:
        path: The event file.

    Yields:
        The data of each record.

    Raises:
        Unreadable: At a record that is damaged or not complete.
    """
    with path.open("rb") as file:
        while head := file.read(_HEAD):
            length = int.from_bytes(_checked(head, _HEAD - _FOOT), "little")
            yield _checked(file.read(length + _FOOT), length)


def record_at(file: BinaryIO, offset: int) -> bytes:
    """The data of the record that begins at ``offset``, where `records` has found and checked one."""
    file.seek(offset)
    length = int.from_bytes(file.read(_HEAD)[: _HEAD - _FOOT], "little")
    return file.read(length)


def _checked(content: bytes, size: int) -> bytes:
    """``content`` without the checksum at its end."""
    data, checksum = content[:size], content[size:]
    if len(checksum) < _FOOT:
        raise Unreadable("it ends inside a record: it is being written, or was cut short")
    if masked_crc32c(data) != int.from_bytes(checksum, "little"):
        raise Unreadable("a record is damaged: its checksum is wrong")
    return data
