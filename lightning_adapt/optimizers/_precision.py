"""What number precision allows: an epsilon the state can hold, a second moment that moves, fused or not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from lightning_adapt._text import unknown_name
from lightning_adapt.optimizers._catalog import OptimizerInfo

#: Epsilon chosen for float16 state. The smallest root of a second moment that float16 can hold is
#: sqrt(2**-24) = 2.4e-4: an epsilon of that size bounds the step of an element whose second moment was
#: rounded to 0, and changes little where it was not. (6e-8 can be held as well, but lets such elements step
#: thousands of lr.)
FLOAT16_EPS = 1e-4

PRECISIONS = (
    "16-mixed",
    "16-true",
    "32-true",
    "64-true",
    "bf16-mixed",
    "bf16-true",
    "transformer-engine",
    "transformer-engine-float16",
)
_ALIASES = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
_TRUE_DTYPES = {"16-true": torch.float16, "bf16-true": torch.bfloat16}


class PrecisionWarning(UserWarning):
    """An optimizer setting that the number precision of parameters and state makes risky, or changed."""


def read_precision(precision: object) -> str | None:
    """Normalize a precision as Lightning spells it.

    Raises:
        ValueError: If it is not one of Lightning's.

    Example:
        >>> read_precision("bf16"), read_precision(None)
        ('bf16-mixed', None)
    """
    if precision is None:
        return None
    name = _ALIASES.get(str(precision), str(precision))
    if name not in PRECISIONS:
        raise ValueError(unknown_name("precision", precision, (*PRECISIONS, *_ALIASES)))
    return name


def state_dtype(parameter: Tensor, precision: str | None) -> torch.dtype:
    """Real dtype in which an optimizer of torch.optim will keep the moments of ``parameter``.

    That is the parameter's dtype. Under ``*-true`` Lightning converts the module; one built before that still
    is float32 and is judged by what it is going to be. Under ``*-mixed`` parameters and state stay float32.
    """
    if parameter.dtype == torch.float32 and precision in _TRUE_DTYPES:
        return _TRUE_DTYPES[precision]
    return parameter.dtype.to_real()


def rounds_to_zero(value: float, dtype: torch.dtype) -> bool:
    """Tell whether ``dtype`` has no number but 0 for ``value``.

    Example:
        >>> rounds_to_zero(1e-8, torch.float16), rounds_to_zero(1e-8, torch.bfloat16)
        (True, False)
    """
    return torch.tensor(value, dtype=torch.float64).to(dtype).item() == 0


def largest_decaying_beta(dtype: torch.dtype) -> float:
    """Largest decay factor under which every number of ``dtype`` still shrinks: ``1 - finfo(dtype).eps / 2``.

    Numbers ``v`` in [1, 2) are ``finfo.eps`` apart. ``v * beta2`` rounds back to ``v`` if it is off by less
    than half of that: ``v * (1 - beta2) < eps / 2``. Numbers just above a power of two are caught first; from
    ``1 - beta2 < eps / 4`` on all are. (Subnormal numbers stop earlier.)

    Example:
        >>> largest_decaying_beta(torch.bfloat16), largest_decaying_beta(torch.float16)
        (0.99609375, 0.99951171875)
    """
    return 1 - torch.finfo(dtype).eps / 2


def choose_fused(
    info: OptimizerInfo, groups: list[dict[str, Any]], options: Mapping[str, Any], precision: str | None
) -> bool | None:
    """Choose the fused kernel where it is safe and the user left the choice open; else leave it to torch.

    Safe means: all parameters are plain float32 or float64 tensors on CUDA. Not under ``*-mixed``: there
    Lightning refuses gradient clipping with a fused optimizer. Not with 16-bit state: the fused kernel
    computes in float32 and rounds only what it stores, so that the stored moments no longer explain the
    update. Not where sparse gradients may come, which the fused kernels refuse (SGD, Adagrad).
    """
    if options.get("fused") is not None or options.get("foreach") is not None or not info.supports_fused:
        return options.get("fused")
    if precision not in (None, "32-true", "64-true") or info.supports_sparse:
        return None
    members = [parameter for group in groups for parameter in group["params"]]
    safe = all(
        parameter.is_cuda
        and parameter.dtype in (torch.float32, torch.float64)
        and type(parameter.data) is Tensor  # a DTensor or another subclass may lack the kernel
        for parameter in members
    )
    return True if safe else None


def settle_precision(
    info: OptimizerInfo, groups: list[dict[str, Any]], options: Mapping[str, Any], precision: str | None
) -> None:
    """Give each group an epsilon that its state can hold, and warn of what the state's dtype cannot do.

    Only an epsilon that the user left out is changed; one that was given and rounds to 0 is refused.

    Args:
        info: The optimizer's row in the catalog.
        groups: Parameter groups; changed in place.
        options: The hyperparameters as given; ``eps`` is missing or None where the user left it out.
        precision: Lightning's precision, None if not known.

    Raises:
        ValueError: If a given ``eps`` is 0, or rounds to 0, in a group's 16-bit state.

    Warns:
        PrecisionWarning: Once, if something was changed or is risky.
    """
    told: dict[str, None] = {}
    for group in groups:
        dtypes = {state_dtype(parameter, precision) for parameter in group["params"]}
        settings = {**info.defaults, **{k: v for k, v in options.items() if v is not None}, **group}
        for dtype in sorted(dtypes & {torch.float16, torch.bfloat16}, key=str):
            if info.has_eps and info.eps_placement != "norm":
                given = group.get("eps", options.get("eps"))
                told.update(dict.fromkeys(_settle_eps(info, group, given, dtype, bool(options.get("fused")))))
            told.update(dict.fromkeys(_risks(info, settings, dtype)))
    if told:
        # Caller of the factory: settle_precision <- build <- factory <- user.
        warnings.warn(f"{info.name}: {' '.join(told)}", PrecisionWarning, stacklevel=4)


def _settle_eps(
    info: OptimizerInfo, group: dict[str, Any], given: Any, dtype: torch.dtype, fused: bool
) -> list[str]:
    """Refuse a given epsilon that is lost in ``dtype``, replace a default one; return what to tell."""
    eps = info.defaults["eps"] if given is None else given
    # Adafactor's pair: None is torch's own choice by dtype; the first is squared before it is used.
    used = eps if not isinstance(eps, tuple | list) else None if eps[0] is None else eps[0] ** 2
    if used is None or not rounds_to_zero(used, dtype):
        return []
    dtype_name = str(dtype).removeprefix("torch.")
    if given is None:
        group["eps"] = FLOAT16_EPS
        return [
            f"eps was left out and is set to {FLOAT16_EPS:g} in the groups with {dtype_name} state, "
            f"because {eps:g} rounds to 0 there."
        ]
    if fused and used > 0:
        # The fused kernel adds eps in float32: it works, though not for elements whose stored v is 0.
        return [
            f"eps {eps} rounds to 0 in {dtype_name}; only the fused kernel, computing in float32, keeps it."
        ]
    raise ValueError(
        f"`eps` must not round to 0 in {dtype_name} state, got {eps!r}; "
        f"leave it out to take {FLOAT16_EPS:g}, or train with precision='16-mixed', which keeps float32 state"
    )


def _risks(info: OptimizerInfo, settings: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    """Say what the second moment cannot do in a 16-bit ``dtype``."""
    if info.second_moment_key is None:
        return []
    told = []
    dtype_name = str(dtype).removeprefix("torch.")
    beta2 = settings["betas"][1] if "betas" in settings else settings.get("alpha", settings.get("rho", 0.0))
    limit = largest_decaying_beta(dtype)
    if beta2 > limit:
        told.append(
            f"in {dtype_name} state the second moment cannot decay: v * {beta2:g} rounds back to v; "
            f"use at most {limit}, or *-mixed precision."
        )
    if info.second_moment_key == "sum":
        told.append(
            f"in {dtype_name} state the sum stops growing once a squared gradient is less than "
            f"{torch.finfo(dtype).eps / 4:.1g} of it; use *-mixed precision."
        )
    if dtype == torch.float16 and info.second_moment_key != "exp_inf":
        # What is stored first is (1 - beta2) * g**2, and half of the smallest number (2**-24) rounds to 0.
        lost = sqrt(2**-25 / (1 - beta2))
        told.append(
            f"in float16 state the second moment of gradients below about {lost:.1g} is 0; use 16-mixed."
        )
    return told
