"""Refuse arguments with which a study could measure nothing."""

from __future__ import annotations

import math


def at_least(name: str, value: float, least: float, why: str) -> None:
    """Refuse a value below ``least``.

    Args:
        name: Of the option.
        value: Its value.
        least: The smallest that is allowed.
        why: What a smaller one would lack.

    Raises:
        ValueError: If ``value`` is smaller, or not a finite number.

    Example:
        >>> at_least("seeds", 1, 2, "one training has no spread")
        Traceback (most recent call last):
        ValueError: `seeds` must be 2 or more, got 1; one training has no spread
    """
    if not least <= value < math.inf:
        raise ValueError(f"`{name}` must be {least:g} or more, got {value}; {why}")


def positive(why: str, **values: float) -> None:
    """Refuse values that are not above 0.

    Args:
        why: What another value would lack.
        **values: Name of an option to its value.

    Raises:
        ValueError: If one of them is 0, negative, or not a finite number.

    Example:
        >>> positive("nothing would move", lr=0.0)
        Traceback (most recent call last):
        ValueError: `lr` must be positive, got 0.0; nothing would move
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be positive, got {value}; {why}")


def decay(name: str, value: float) -> None:
    """Refuse what is no decay of a moving average, from 0 to below 1.

    Args:
        name: Of the option.
        value: Its value.

    Raises:
        ValueError: If it is outside.

    Example:
        >>> decay("rho", 1.0)
        Traceback (most recent call last):
        ValueError: `rho` must be 0 or more and below 1, got 1.0; with 1 nothing new is ever averaged in
    """
    if not 0 <= value < 1:
        raise ValueError(
            f"`{name}` must be 0 or more and below 1, got {value}; with 1 nothing new is ever averaged in"
        )
