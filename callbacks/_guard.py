"""What only looks on must not end a training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_warn

T = TypeVar("T")


class Guard:
    """Runs actions; the first that fails is told, and from then on none is run.

    Args:
        name: Who speaks.
        strict: Let a fault raise instead.
        clean_up: Done after a fault.

    Example:
        >>> guard = Guard("Monitor")
        >>> guard(lambda: 7)
        7
    """

    def __init__(self, name: str, *, strict: bool = False, clean_up: Callable[[], object] = int) -> None:
        self.off = False
        self._name, self._strict, self._clean_up = name, strict, clean_up

    def __call__(self, action: Callable[[], T]) -> T | None:
        """Do ``action``; ``None`` when it failed or an earlier one did."""
        if self.off:
            return None
        try:
            return action()
        except Exception as error:
            if self._strict:
                raise
            self.off = True
            with suppress(Exception):  # one fault is told
                self._clean_up()
            rank_zero_warn(
                f"{self._name} switched itself off after a fault: {type(error).__name__}: {error}. "
                "Training goes on without it; pass strict=True to see the traceback.",
                category=RuntimeWarning,
            )
            return None
