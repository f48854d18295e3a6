"""The checksum of event files (CRC-32C, masked), in C.

TensorBoard computes it byte by byte in Python: up to a third of a second for a megabyte, in which no other
thread computes anything, whichever of them it was that wrote.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer.record_writer import RecordWriter

# Where TensorBoard was there before our extra asked for this library, it may be missing.
_in_c: Callable[[bytes], int] | None = (
    import_module("google_crc32c").value if find_spec("google_crc32c") else None
)
_ALL = 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The checksum of ``data`` as event files have it.

    Example:
        >>> hex(masked_crc32c(b"123456789"))  # CRC-32C is 0xe3069283
        '0xc78ab0e5'
    """
    if _in_c is None:
        return int(pywrap_tensorflow.masked_crc32c(data))
    crc = _in_c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ALL


def hasten(writer: Any) -> None:
    """Let all that ``writer`` writes from now on be checksummed in C; the file is the same to the byte.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``. It stays as it is without ``google-crc32c``, and
            where it is built otherwise than torch and TensorBoard build it.
    """
    try:
        records = writer._get_file_writer().event_writer._async_writer._writer
    except AttributeError:
        return
    if _in_c is not None and type(records) is RecordWriter:
        file = records._writer
        records.write = lambda data: file.write(record(data))


def record(data: bytes) -> bytes:
    """One record of an event file: length, its checksum, data, their checksum."""
    length = struct.pack("<Q", len(data))
    head, foot = struct.pack("<I", masked_crc32c(length)), struct.pack("<I", masked_crc32c(data))
    return b"".join((length, head, data, foot))
