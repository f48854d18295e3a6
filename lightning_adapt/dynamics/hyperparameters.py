"""How an optimizer is set up: the plain numbers in its parameter groups, without its learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from lightning_adapt.dynamics.canonical import host_number

_PAIRS = {"betas": ("beta1", "beta2"), "eps": ("eps1", "eps2"), "etas": ("eta1", "eta2")}
"""What the numbers of a pair are called; Adafactor's eps is one."""

_PLAIN = {float, int, bool, str, type(None)}

_LEFT_OUT = ("params", "lr", "foreach", "capturable", "differentiable")
"""The learning rate has a place of its own; the others say how torch computes, not what."""

_DECOUPLED = ("AdamW", "Adafactor", "Muon")
"""Classes of torch.optim whose weight decay never enters the gradient, and whose groups need not say so."""


def read_hyperparameters(group: Mapping[str, Any], cls: type) -> dict[str, float]:
    """The numbers of one parameter group; flags are 1 or 0.

    Args:
        group: Of ``optimizer.param_groups``, or of a saved state.
        cls: The optimizer's class.

    Returns:
        Name to number: what the group holds (``eps``, ``weight_decay``, ``fused``, …), a pair as two
        (``beta1``, ``beta2``), and ``decoupled_weight_decay`` where the class tells. What is None, or lies on
        a device, is left out.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.Adam([torch.zeros(1)], weight_decay=0.1)
        >>> found = read_hyperparameters(optimizer.param_groups[0], torch.optim.Adam)
        >>> found["beta2"], found["eps"], found["weight_decay"], found["decoupled_weight_decay"]
        (0.999, 1e-08, 0.1, 0.0)
    """
    held = tuple([(key, value) for key, value in group.items() if key not in _LEFT_OUT])
    return _kept(held, cls).copy() if all(is_plain(value) for _, value in held) else _numbers(held, cls)


def is_plain(value: Any) -> bool:
    """Whether ``value`` says the same now and later, as does what is equal to it; a tensor may not."""
    return all(map(is_plain, value)) if type(value) is tuple else type(value) in _PLAIN


def _numbers(held: tuple[tuple[str, Any], ...], cls: type) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in held:
        found |= {name: number for name, one in _named(key, value) if (number := _number(one)) is not None}
    if "weight_decay" in found and "decoupled_weight_decay" not in found:
        bases = [base for base in cls.__mro__ if base.__module__.startswith("torch.optim")]
        if len(bases) > 1:  # one of torch's own, not just its base class
            found["decoupled_weight_decay"] = float(any(base.__name__ in _DECOUPLED for base in bases))
    return found


_kept = lru_cache(maxsize=256)(_numbers)  # the same at every reading, as far as no schedule moves it


def _named(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, tuple | list):
        if len(value) == 2 and key in _PAIRS:
            yield from zip(_PAIRS[key], value, strict=True)
    else:
        yield key, value


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return host_number(value) if value.numel() == 1 and value.device.type == "cpu" else None
    return float(value) if isinstance(value, bool | int | float) else None
