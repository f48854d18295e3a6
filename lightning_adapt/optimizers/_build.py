"""The body that all factories share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch

from lightning_adapt._text import unknown_name
from lightning_adapt.optimizers._catalog import OptimizerInfo, catalog
from lightning_adapt.optimizers._checks import check_hyperparameters
from lightning_adapt.optimizers._groups import make_groups
from lightning_adapt.optimizers._parameters import open_params, trainer_attribute
from lightning_adapt.optimizers._precision import PRECISIONS, choose_fused, read_precision, settle_precision

OptimizerT = TypeVar("OptimizerT", bound=torch.optim.Optimizer)


def require_torch(name: str) -> None:
    """Raise if this torch has no such optimizer.

    Raises:
        ImportError: Naming the torch version that has it.
    """
    info = catalog[name]
    if not hasattr(torch.optim, info.class_name):
        raise ImportError(
            f"`{name}` must have torch>={info.since}, got torch {torch.__version__}; "
            f"upgrade torch or choose another optimizer"
        )


def build(torch_class: type[OptimizerT], name: str, arguments: dict[str, Any]) -> OptimizerT:
    """Make an optimizer of torch.optim from the arguments of a factory.

    Args:
        torch_class: Class in ``torch.optim``.
        name: The factory's name, its key in the catalog.
        arguments: All arguments of the factory, which are its ``locals()`` before the first statement.

    Returns:
        The optimizer, with named parameter groups.

    Raises:
        ValueError: If an argument is refused.
    """
    info = catalog[name]
    options = dict(arguments)
    module, items = open_params(options.pop("params"))
    overrides = options.pop("overrides")
    layer_decay = options.pop("layer_decay")
    no_decay = options.pop("no_decay", ())
    precision = read_precision(options.pop("precision")) or _attached_precision(module)
    left_out = ("eps",) if options.get("eps") is None else ()
    check_hyperparameters({k: v for k, v in options.items() if k not in left_out}, info.defaults)
    _check_shapes(overrides, layer_decay)
    for pattern, settings in (overrides or {}).items():
        _check_settings(info, settings, f"overrides[{pattern!r}]")
    if options.get("fused") and options.get("foreach"):
        raise ValueError("`fused` must not be True together with `foreach`, got both; leave one of them out")

    groups = make_groups(
        module, items, options["lr"], options["weight_decay"], no_decay, layer_decay, overrides
    )
    for index, group in enumerate(groups):
        check_hyperparameters(group, info.defaults, f"params[{index}]")
    options["fused"] = choose_fused(info, groups, options, precision)
    settle_precision(info, groups, options, precision)
    # What is None is torch's to decide, and older versions may not know the argument.
    return torch_class(groups, **{key: value for key, value in options.items() if value is not None})


def _check_shapes(overrides: Any, layer_decay: Any) -> None:
    example = "for example {'*.bias': {'lr': 1e-3}}"
    if overrides is not None and not isinstance(overrides, Mapping):
        raise ValueError(f"`overrides` must map patterns to options, got {overrides!r}; {example}")
    for pattern, settings in (overrides or {}).items():
        if not isinstance(settings, Mapping):
            raise ValueError(
                f"`overrides[{pattern!r}]` must map options to values, got {settings!r}; {example}"
            )
    if layer_decay is not None and (
        isinstance(layer_decay, bool) or not isinstance(layer_decay, int | float) or not 0 < layer_decay <= 1
    ):
        raise ValueError(
            f"`layer_decay` must be a number in (0, 1], got {layer_decay!r}; 1 or None leaves it out"
        )


def _check_settings(info: OptimizerInfo, settings: Any, where: str) -> None:
    known: Collection[str] = {*info.defaults, "maximize"} - {"initial_accumulator_value"}
    for option in settings:
        if option not in known:
            raise ValueError(unknown_name(f"options in {where}", option, known))
    check_hyperparameters(settings, info.defaults, where)


def _attached_precision(module: torch.nn.Module | None) -> str | None:
    precision = str(trainer_attribute(module, "precision"))
    return precision if precision in PRECISIONS else None
