"""What a floating-point format can hold, derived from its bits."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A binary floating-point format with gradual underflow.

    Args:
        mantissa: Bits of the mantissa, without the hidden one.
        exponent: Bits of the exponent.

    Example:
        >>> half = Format(mantissa=10, exponent=5)
        >>> half.bits, half.largest, half.tiny == 2.0**-14, half.smallest == 2.0**-24
        (16, 65504.0, True, True)
    """

    mantissa: int
    exponent: int

    @property
    def bits(self) -> int:
        """Size of a number."""
        return 1 + self.exponent + self.mantissa

    @property
    def eps(self) -> float:
        """Distance from 1 to the next number."""
        return 2.0**-self.mantissa

    @property
    def tiny(self) -> float:
        """Smallest normal number."""
        return math.ldexp(1.0, 2 - (1 << (self.exponent - 1)))

    @property
    def smallest(self) -> float:
        """Smallest number above 0; half of it, and less, rounds to 0."""
        return self.tiny * self.eps

    @property
    def largest(self) -> float:
        """Largest finite number."""
        return math.ldexp(2.0 - self.eps, (1 << (self.exponent - 1)) - 1)

    def rounds_to_zero(self, value: float) -> bool:
        """Whether the nearest number to ``value`` is 0 (at half of `smallest` the even neighbour is)."""
        return abs(value) <= self.smallest / 2


_FORMATS = {
    "float16": Format(10, 5),
    "bfloat16": Format(7, 8),
    "float32": Format(23, 8),
    "float64": Format(52, 11),
    "float8_e5m2": Format(2, 5),
}


def format_of(dtype: str) -> Format | None:
    """The format of a dtype, named without ``torch.``; complex numbers are pairs of it.

    Example:
        >>> format_of("complex64") == format_of("float32"), format_of("int8")
        (True, None)
    """
    parts = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
    return _FORMATS.get(parts.get(dtype, dtype))
