"""Many float32 figures as few bytes: rounded to so many bits, as differences from step to step, compressed.

A float32 is a sign, 8 bits of exponent and 23 of mantissa; with ``mantissa`` bits of them kept, its bit
pattern is a whole number of ``9 + mantissa`` bits. What is stored is how that number changed since the step
before (modulo its range, zigzag: 0, -1, 1, -2, …), first the low bytes of all figures, then the next bytes,
all of it through zlib. NaN, infinities and zeros stay what they are. ``static/numbers.js`` is the inverse.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

EXACT = 23
"""Mantissa bits of a float32."""
ROUNDED = 10
"""Mantissa bits that stay where space is short: off by at most 0.05 %."""
ROUGH = 7
"""Mantissa bits where it is shorter still: off by at most 0.4 %."""
_LEVEL = 6


def encode(values: npt.NDArray[np.float32], mantissa: int = EXACT) -> bytes:
    """Encode ``values``, shape ``(steps, …)``.

    Args:
        values: The figures.
        mantissa: Mantissa bits to keep, 1 to 23; 23 changes nothing.

    Example:
        >>> values = np.array([[1.0], [1.001], [np.inf]], dtype=np.float32)
        >>> decode(encode(values, mantissa=9), (3, 1), mantissa=9).ravel().tolist()
        [1.0, 1.001953125, inf]
    """
    whole = rounded(values, mantissa).reshape(len(values), -1)
    before = np.zeros_like(whole)
    before[1:] = whole[:-1]
    bits = 9 + mantissa
    change = (whole - before) << np.uint32(32 - bits)  # wraps around
    signed = change.view(np.int32) >> np.int32(32 - bits)
    zigzag = ((signed << 1) ^ (signed >> 31)).view(np.uint32)
    planes = zigzag.reshape(-1, 1).view(np.uint8)[:, : _planes(mantissa)]
    return zlib.compress(np.ascontiguousarray(planes.T).tobytes(), _LEVEL)


def decode(content: bytes, shape: tuple[int, ...], mantissa: int = EXACT) -> npt.NDArray[np.float32]:
    """The inverse of `encode`, as the browser does it."""
    count = int(np.prod(shape))
    planes = np.frombuffer(zlib.decompress(content), dtype=np.uint8).reshape(_planes(mantissa), count)
    zigzag = np.zeros((count, 4), dtype=np.uint8)
    zigzag[:, : len(planes)] = planes.T
    number = zigzag.view(np.uint32).ravel()
    change = (number >> np.uint32(1)) ^ (np.uint32(0) - (number & np.uint32(1)))
    whole = np.cumsum(change.reshape(shape[0], -1), axis=0, dtype=np.uint32)
    return (whole << np.uint32(EXACT - mantissa)).view(np.float32).reshape(shape)


def rounded(values: npt.NDArray[np.float32], mantissa: int) -> npt.NDArray[np.uint32]:
    """Bit patterns of ``values`` without the mantissa bits that are not kept, rounded to the nearest."""
    pattern = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
    drop = np.uint32(EXACT - mantissa)
    if drop == 0:
        return pattern.copy()
    up = pattern + (np.uint32(1) << (drop - np.uint32(1)))
    # What is next to the largest number must not become inf, nor inf become NaN.
    finite = np.isfinite(up.view(np.float32)) & np.isfinite(values)
    kept: npt.NDArray[np.uint32] = np.where(finite, up, pattern) >> drop
    return np.where(np.isnan(values), np.uint32(0x7FC00000) >> drop, kept)


def _planes(mantissa: int) -> int:
    return (9 + mantissa + 7) // 8
