"""Texts that more than one room says: what to answer when a name is not known, names in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """Sort ``known`` by likeness to ``name``, most alike first.

    Args:
        name: The name that was asked for.
        known: The names that exist.

    Returns:
        All of ``known``, nearest first; equally near ones in alphabetical order.

    Example:
        >>> nearest_first("adamW", ["sgd", "adamw", "adam"])
        ['adamw', 'adam', 'sgd']
    """

    def likeness(candidate: str) -> float:
        return SequenceMatcher(None, name.lower(), candidate.lower()).ratio()

    return sorted(sorted(known), key=likeness, reverse=True)


def unknown_name(what: str, name: object, known: Iterable[str], *, most: int = 20) -> str:
    """Say that ``name`` is not one of ``known``, and list those, nearest first.

    Args:
        what: The argument's name as the user writes it.
        name: What the user gave.
        known: The names that exist.
        most: How many of them to list.

    Returns:
        One sentence for a ``ValueError``.

    Example:
        >>> unknown_name("optimizer", "admw", ["sgd", "adamw"])
        "`optimizer` must be one of adamw, sgd, got 'admw'; did you mean 'adamw'?"
    """
    ordered = nearest_first(str(name), known)
    if not ordered:
        return f"`{what}` must be a known name, got {name!r}; there is none to choose from"
    listed = ", ".join(ordered[:most]) + (f", … ({len(ordered) - most} more)" if len(ordered) > most else "")
    return f"`{what}` must be one of {listed}, got {name!r}; did you mean {ordered[0]!r}?"


def whole_number(name: str, value: object, least: int, advice: str) -> int:
    """Check that ``value`` is a whole number and at least ``least``.

    Args:
        name: The argument's name as the user writes it.
        value: What the user gave.
        least: The smallest that makes sense.
        advice: What to do instead.

    Returns:
        ``value``.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> whole_number("every_n_steps", 2.5, 1, "1 reads every step")
        Traceback (most recent call last):
        ...
        ValueError: `every_n_steps` must be a whole number of at least 1, got 2.5; 1 reads every step
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}; {advice}")
    return value


def printable(name: str) -> str:
    r"""``name`` with control characters escaped, so that it cannot steer the terminal.

    Example:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
