"""Parameter groups with names: decay or not, deeper layers slower, overrides by pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from lightning_adapt._text import unknown_name
from lightning_adapt.optimizers._parameters import (
    ParameterInfo,
    Params,
    only_trainable,
    open_params,
    read_parameters,
)

Overrides = Mapping[str, Mapping[str, Any]]
KINDS = ("bias", "embedding", "norm")


def parameter_groups(
    params: Params,
    *,
    lr: float | None = None,
    weight_decay: float = 0.0,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> list[dict[str, Any]]:
    """Sort parameters into groups that torch.optim takes, each with a unique, readable name.

    The name is built from up to three parts, for example ``"decay"``, ``"no_decay/layer_3"`` or
    ``"*.head.*/decay/head"``: the pattern of an override, whether weight decay applies, and the layer.

    ``layer_decay`` gives a parameter ``lr * layer_decay ** k``, ``k`` being its distance from the head: 0 for
    what is registered after the last numbered layer, 1 for that layer, and so on down to what is registered
    before the first layer and to every ``nn.Embedding``. Numbered layers are found by names such as
    ``layers.3.``.

    Args:
        params: A module, ``module.parameters()``, named parameters, or parameters. Ready groups (dicts) keep
            their own settings and get a name where they have none.
        lr: Learning rate of the groups; ``None`` leaves it to the optimizer.
        weight_decay: Weight decay of the groups to which it applies; 0 for the others.
        no_decay: Kinds of parameters without weight decay: ``"norm"`` (owned by a normalization module),
            ``"bias"`` (any other of fewer than two dimensions) and ``"embedding"`` (owned by
            ``nn.Embedding``). Decided by the type of the owner and by dimension; without a module, every
            vector counts as ``"bias"``.
        layer_decay: Factor in (0, 1] from each layer to the one below, ``None`` for one rate everywhere.
        overrides: Glob pattern over parameter names (``*`` also spans dots) -> settings of a group, such as
            ``{"*.head.*": {"lr": 1e-2}}``. The first pattern that matches wins. What a pattern does not set
            stays as it would be without it.

    Returns:
        Dicts with ``params``, ``name``, ``weight_decay``, ``lr`` where one is known, and
        ``parameter_names`` where the parameters have names. Frozen parameters are left out, tied ones
        appear once.

    Raises:
        ValueError: If nothing is left to train, a kind is unknown, a pattern decides no parameter, or names
            or layers are asked for where there are none.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        >>> for group in parameter_groups(net, lr=0.1, weight_decay=0.01):
        ...     print(group["name"], group["weight_decay"], group["parameter_names"])
        decay 0.01 ['0.weight', '1.weight']
        no_decay 0.0 ['1.bias', '2.weight', '2.bias']

    References:
        Layer-wise decay: Clark et al. 2020 (arXiv:2003.10555); Bao et al. 2022 (arXiv:2106.08254).
    """
    module, items = open_params(params)
    return make_groups(module, items, lr, weight_decay, no_decay, layer_decay, overrides)


def make_groups(
    module: nn.Module | None,
    items: list[Any],
    lr: float | None,
    weight_decay: float,
    no_decay: Sequence[str],
    layer_decay: float | None,
    overrides: Overrides | None,
) -> list[dict[str, Any]]:
    """Do the work of :func:`parameter_groups` for parameters already listed."""
    no_decay = (no_decay,) if isinstance(no_decay, str) else no_decay
    if not isinstance(no_decay, Iterable):
        raise ValueError(f"`no_decay` must be a list of kinds, got {no_decay!r}; () decays everything")
    for kind in no_decay:
        if kind not in KINDS:
            raise ValueError(unknown_name("no_decay", kind, KINDS))
    if items and isinstance(items[0], dict):
        if layer_decay is not None or overrides:
            raise ValueError(
                "`layer_decay` and `overrides` must be left out where `params` are ready parameter groups, "
                f"got {layer_decay!r} and {overrides!r}; put the settings into the groups, or pass the module"
            )
        return _ready_groups(items)
    every = read_parameters(module, items)
    infos = only_trainable(every)
    overrides = overrides or {}
    winners = _winning_patterns(infos, overrides)
    layers = _layers(every, layer_decay, lr)
    groups: dict[tuple[str | None, str | None, str | None], dict[str, Any]] = {}
    for info in infos:
        pattern = winners.get(info.name)
        settings = {} if pattern is None else overrides[pattern]
        decays = None if "weight_decay" in settings else "no_decay" if info.kind in no_decay else "decay"
        layer, scale = (None, 1.0) if "lr" in settings else layers.get(id(info.parameter), (None, 1.0))
        rate = {} if lr is None else {"lr": lr * scale}
        decay = 0.0 if decays == "no_decay" else weight_decay
        group = groups.setdefault(
            (pattern, decays, layer),
            {"params": [], "name": _name(pattern, decays, layer), "weight_decay": decay, **rate, **settings},
        )
        group["params"].append(info.parameter)
        if info.name is not None:
            # Not torch's own "param_names": with it, torch refuses groups without names that join later.
            group.setdefault("parameter_names", []).append(info.name)
    return list(groups.values())


def _name(pattern: str | None, decays: str | None, layer: str | None) -> str:
    # A pattern spelled like one of the two standard names must not produce that name again.
    first = f"override/{pattern}" if pattern in ("decay", "no_decay") else pattern
    return "/".join(part for part in (first, decays, layer) if part is not None)


def _ready_groups(items: list[Any]) -> list[dict[str, Any]]:
    """Keep the user's groups as they are, without frozen parameters, each with a name."""
    groups: list[dict[str, Any]] = []
    every: list[ParameterInfo] = []
    for index, given in enumerate(items):
        if not isinstance(given, dict) or "params" not in given:
            raise ValueError(
                f"`params[{index}]` must be a dict with the key 'params', like the first one, "
                f"got {type(given).__name__}; pass parameter groups or parameters, not both"
            )
        given_params = given["params"]
        module, members = open_params([given_params] if isinstance(given_params, Tensor) else given_params)
        key = "param_names" if "param_names" in given else "parameter_names"
        if key in given:
            members = _named(members, given[key], f"params[{index}]['{key}']")
        every += (infos := read_parameters(module, members))
        if infos := [info for info in infos if info.parameter.requires_grad]:
            group = {"name": f"group_{index}", **given, "params": [info.parameter for info in infos]}
            if all(info.name is not None for info in infos):
                group[key] = [info.name for info in infos]
            groups.append(group)
    only_trainable(every)
    names = [group["name"] for group in groups]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"`params` must be groups with different names, got {name!r} twice; rename one of them"
            )
    return groups


def _named(members: list[Any], names: Sequence[str], where: str) -> list[Any]:
    if len(names) != len(members):
        raise ValueError(
            f"`{where}` must be one name for each of the {len(members)} parameters, got {len(names)}; "
            "leave it out, or pass the module"
        )
    return list(zip(names, members, strict=True))


def _winning_patterns(infos: list[ParameterInfo], overrides: Overrides) -> dict[str | None, str]:
    """Parameter name -> the first pattern that matches it."""
    names = [info.name for info in infos if info.name is not None]
    if overrides and len(names) < len(infos):
        raise ValueError(
            f"`overrides` must be left out where parameters have no names, got {list(overrides)}; "
            "pass the module or its named_parameters()"
        )
    winners: dict[str | None, str] = {}
    for pattern in overrides:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(unknown_name("overrides", pattern, names))
        fresh = [name for name in matched if name not in winners]
        if not fresh:
            raise ValueError(
                f"`overrides[{pattern!r}]` must decide at least one parameter, got only names that earlier "
                "patterns match; put it before them, or leave it out"
            )
        winners.update(dict.fromkeys(fresh, pattern))
    return winners


def _layers(
    infos: list[ParameterInfo], layer_decay: float | None, lr: float | None
) -> dict[int, tuple[str, float]]:
    """Id of a parameter -> name of its layer and the factor on the learning rate; empty without decay.

    Frozen layers count: freezing some must not rename the others.
    """
    if layer_decay is None:
        return {}
    if lr is None or not 0 < layer_decay <= 1:
        raise ValueError(
            f"`layer_decay` must be in (0, 1] and needs `lr`, got layer_decay={layer_decay!r}, lr={lr!r}; "
            "0.65 to 0.95 are usual when fine-tuning"
        )
    numbered = [info for info in infos if info.layer is not None and info.kind != "embedding"]
    if not numbered:
        raise ValueError(
            f"`layer_decay` must be None where no parameter is in a numbered layer such as 'layers.3.', "
            f"got {layer_decay!r}; leave it out, or pass the module so that names are known"
        )
    order = {layer: index for index, layer in enumerate(dict.fromkeys(info.layer for info in numbered))}
    depth, found = -1, {}
    last = numbered[-1]
    past_last = False
    for info in infos:
        if info.kind == "embedding":
            index = -1
        elif info.layer is not None:
            index = depth = order[info.layer]
        else:
            index = len(order) if past_last else depth
        past_last = past_last or info is last
        name = "embeddings" if index < 0 else "head" if index == len(order) else f"layer_{index}"
        found[id(info.parameter)] = (name, layer_decay ** (len(order) - index))
    return found
