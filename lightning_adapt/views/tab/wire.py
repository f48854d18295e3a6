"""Numbers for the browser: named arrays as they lie in memory, behind a short description.

``length`` (uint32) · description (JSON, padded to a multiple of 8 bytes) · arrays, each padded likewise; all
little-endian. The description is ``{"meta": …, "arrays": [[name, dtype, shape], …]}``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

CONTENT_TYPE = "application/octet-stream"
_DTYPES = ("<f4", "<f8", "<i4")
_HEAD = struct.Struct("<I")
_ALIGN = 8


def pack(meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Put ``meta`` (what JSON can say) and ``arrays`` (float32, float64 or int32) into one body.

    Raises:
        ValueError: If an array is of another dtype, or ``meta`` holds NaN.

    Example:
        >>> unpack(pack({"run": "a"}, {"steps": np.array([1.0, 2.0])}))
        ({'run': 'a'}, {'steps': array([1., 2.])})
    """
    ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in ordered.items():
        if array.dtype.newbyteorder("<").str not in _DTYPES:
            raise ValueError(f"`{name}` must be of one of {', '.join(_DTYPES)}, got {array.dtype.str}")
    little = {name: array.astype(array.dtype.newbyteorder("<")) for name, array in ordered.items()}
    described = [[name, array.dtype.str, array.shape] for name, array in little.items()]
    head = json.dumps({"meta": meta, "arrays": described}, allow_nan=False).encode()
    head += b" " * (-(_HEAD.size + len(head)) % _ALIGN)
    parts = [_HEAD.pack(len(head)), head]
    for array in little.values():
        parts += [array.tobytes(), bytes(-array.nbytes % _ALIGN)]
    return b"".join(parts)


def unpack(body: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The inverse of `pack`: meta and arrays. What ``static/wire.js`` does, for tests and other readers."""
    (length,) = _HEAD.unpack_from(body)
    at = _HEAD.size + length
    described = json.loads(body[_HEAD.size : at])
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, dtype, shape in described["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(body, dtype=dtype, count=count, offset=at).reshape(shape)
        at += arrays[name].nbytes + -arrays[name].nbytes % _ALIGN
    return described["meta"], arrays
