"""Refuse arguments with which a study could measure nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def own_name(theirs: str, ours: str) -> Iterator[None]:
    """Let what the data modules say about their option speak of the landscape's own one.

    Args:
        theirs: As the data modules call it.
        ours: As the landscape calls it.

    Raises:
        FileNotFoundError: Theirs, with our name, and without ``--data.download``, which is no option here.
        ValueError: The same.

    Example:
        >>> with own_name("data.path", "path"):
        ...     raise ValueError("`data.path` must be a text file, got 3; name one with `--data.path FILE`")
        Traceback (most recent call last):
        ValueError: `path` must be a text file, got 3; name one with `--path FILE`
    """
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        sentence = re.sub(r",? (or|and) [^,;]*--data\.download[^,;]*", "", str(error))
        raise type(error)(sentence.replace(theirs, ours)) from error
