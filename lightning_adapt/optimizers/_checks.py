"""Refuse impossible hyperparameters with one sentence, before torch does with a shorter one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from torch import Tensor

from lightning_adapt._text import unknown_name

_LR_ADJUSTMENTS = ("match_rms_adamw", "original")


def _number(value: object) -> float:
    """Read a number; NaN for what is none, so that every comparison with it fails."""
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        return float("nan")
    if isinstance(value, Tensor) and value.numel() != 1:
        return float("nan")
    return float(value)


def _at_least_0(value: object) -> bool:
    return _number(value) >= 0 and isfinite(_number(value))


def _in_0_1(value: object) -> bool:
    return 0 <= _number(value) < 1


def _betas(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_in_0_1, value))


def _eps_pair(value: object) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return (value[0] is None or _at_least_0(value[0])) and _at_least_0(value[1])


_NOT_NEGATIVE = (_at_least_0, "a finite number >= 0")
_FRACTION = (_in_0_1, "a number in [0, 1)")
_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("lr", "weight_decay", "momentum", "lr_decay", "momentum_decay"), _NOT_NEGATIVE),
    "initial_accumulator_value": _NOT_NEGATIVE,
    **dict.fromkeys(("alpha", "rho"), _FRACTION),
    "betas": (_betas, "two numbers in [0, 1)"),
    "eps": (_at_least_0, "a finite number >= 0"),
    "d": (lambda value: _number(value) >= 1, "a number >= 1"),
    "beta2_decay": (lambda value: _number(value) <= 0, "a number <= 0"),
    "ns_steps": (lambda value: isinstance(value, int) and 1 <= value < 100, "a whole number from 1 to 99"),
}


def label(where: str, name: str) -> str:
    """Name an option as the user wrote it.

    Example:
        >>> label("", "lr"), label("params[0]", "lr")
        ('lr', "params[0]['lr']")
    """
    return f"{where}[{name!r}]" if where else name


def check_hyperparameters(options: Mapping[str, Any], defaults: Mapping[str, Any], where: str = "") -> None:
    """Raise for the first hyperparameter that no optimizer can work with.

    Args:
        options: Name -> value; names without a rule pass.
        defaults: Name -> value to name in the remedy.
        where: The argument that holds ``options``, such as ``overrides['*.bias']``; empty for arguments.

    Raises:
        ValueError: If a value breaks its rule.

    Example:
        >>> check_hyperparameters({"lr": -1.0}, {"lr": 0.001})
        Traceback (most recent call last):
        ValueError: `lr` must be a finite number >= 0, got -1.0; leave it out to take the default 0.001
    """
    for name, value in options.items():
        if name == "adjust_lr_fn" and value not in (None, *_LR_ADJUSTMENTS):
            raise ValueError(unknown_name("adjust_lr_fn", value, _LR_ADJUSTMENTS))
        holds, rule = _RULES.get(name, (lambda _: True, ""))
        if name == "eps" and isinstance(defaults.get("eps"), tuple):
            holds, rule = _eps_pair, "a pair of finite numbers >= 0, of which the first may be None"
        if not holds(value):
            raise ValueError(
                f"`{label(where, name)}` must be {rule}, got {value!r}; "
                f"leave it out to take the default {defaults.get(name)!r}"
            )
