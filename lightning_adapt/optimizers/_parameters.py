"""Read what a user hands to an optimizer: which parameters, under which names, in which kind of module."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import GEN_CREATED, getgeneratorstate
from types import GeneratorType
from typing import Any, NamedTuple

from torch import Tensor, nn

#: A module; parameters; named parameters; or ready parameter groups, each a dict with the key ``"params"``.
Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]

_REMEDY = "pass the module itself, its named_parameters(), or a list of parameter groups"


class ParameterInfo(NamedTuple):
    """What grouping needs to know about one parameter.

    ``kind`` is ``"norm"``, ``"embedding"``, ``"bias"`` (any other parameter of fewer than two dimensions) or
    ``"matrix"``. ``layer`` is the numbered list and the place in it, ``None`` outside such lists.
    """

    parameter: Tensor
    name: str | None
    kind: str
    layer: tuple[str, int] | None


def module_of(params: object) -> nn.Module | None:
    """Find the module behind ``params``, if these are all of its parameters.

    ``module.parameters()`` yields bare tensors, and that is all LightningCLI passes on. A generator that has
    not started still holds the module it was made from, so names and module types need not be lost.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> module_of(net) is net, module_of(net.parameters()) is net, module_of(list(net.parameters()))
        (True, True, None)
    """
    if isinstance(params, nn.Module):
        return params
    if not isinstance(params, GeneratorType) or getgeneratorstate(params) != GEN_CREATED:
        return None
    frame = params.gi_frame
    makers = (nn.Module.parameters.__code__, nn.Module.named_parameters.__code__)
    if frame is None or frame.f_code not in makers:
        return None
    arguments = frame.f_locals
    # With recurse=False, or with a prefix, the generator means something else than the whole module.
    as_usual = (
        arguments["recurse"] and not arguments.get("prefix") and arguments.get("remove_duplicate", True)
    )
    return arguments["self"] if as_usual else None


def trainer_attribute(module: nn.Module | None, name: str) -> Any:
    """Read an attribute of the trainer that ``module`` is attached to, ``None`` where there is none.

    By duck typing, because this room does not import Lightning; there, ``module.trainer`` raises a
    RuntimeError while no trainer is attached.
    """
    try:
        trainer = getattr(module, "trainer", None)
    except RuntimeError:
        return None
    try:
        return getattr(trainer, name, None)
    except NotImplementedError:  # Fabric's stand-in for a trainer, asked for what it has not
        return None


def open_params(params: Params) -> tuple[nn.Module | None, list[Any]]:
    """Find the module behind ``params`` if there is one, and list the members.

    Returns:
        The module or ``None``; and its named parameters, or what ``params`` yields.

    Raises:
        ValueError: If ``params`` is one tensor, one dict, text, or no iterable at all.
    """
    module = module_of(params)
    if module is not None:
        return module, list(module.named_parameters())
    if isinstance(params, Tensor | dict | str) or not isinstance(params, Iterable):
        kind = type(params).__name__
        raise ValueError(f"`params` must be a module or an iterable of parameters, got one {kind}; {_REMEDY}")
    return None, list(params)


def read_parameters(module: nn.Module | None, items: list[Any]) -> list[ParameterInfo]:
    """List the parameters, each once, with name, kind and layer as far as they can be known.

    Args:
        module: The module that owns them, if known.
        items: Parameters, or pairs of name and parameter.

    Returns:
        In the order of ``items``, frozen ones included. A tied one has the name it is first met under.

    Raises:
        ValueError: If a member is no parameter.
    """
    kinds, sequential = _module_facts(module)
    found: dict[int, ParameterInfo] = {}
    for item in items:
        name, parameter = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
        if not isinstance(parameter, Tensor) or not isinstance(name, str | None):
            raise ValueError(f"`params` must hold parameters, got one {type(item).__name__}; {_REMEDY}")
        if id(parameter) not in found:
            kind = kinds.get(id(parameter)) or _kind(None, parameter)
            found[id(parameter)] = ParameterInfo(parameter, name, kind, _layer(name, sequential))
    return list(found.values())


def only_trainable(infos: list[ParameterInfo]) -> list[ParameterInfo]:
    """Leave out frozen parameters.

    Raises:
        ValueError: If nothing is left to train.
    """
    trainable = [info for info in infos if info.parameter.requires_grad]
    if not trainable:
        raise ValueError(
            "`params` must hold at least one parameter with requires_grad=True, "
            f"got {len(infos)} without; unfreeze some, or build the module's layers, before the optimizer"
        )
    return trainable


def _module_facts(module: nn.Module | None) -> tuple[dict[int, str], set[str]]:
    """Kind of each parameter by its id, and the paths of the ``nn.Sequential`` containers."""
    kinds: dict[int, str] = {}
    sequential: set[str] = set()
    for path, owner in module.named_modules() if module is not None else ():
        if isinstance(owner, nn.Sequential):
            sequential.add(path)
        for parameter in owner.parameters(recurse=False):
            kinds.setdefault(id(parameter), _kind(owner, parameter))
    return kinds, sequential


def _kind(owner: nn.Module | None, parameter: Tensor) -> str:
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if isinstance(owner, nn.LayerNorm | nn.RMSNorm):
        return "norm"  # of any dimension: both may normalize over several axes
    if parameter.ndim >= 2:
        return "matrix"
    # transformers and torch-geometric write their own norms (LlamaRMSNorm, GraphNorm): known by the class.
    return "norm" if any("norm" in base.__name__.lower() for base in type(owner).__mro__) else "bias"


def _layer(name: str | None, sequential: set[str]) -> tuple[str, int] | None:
    """Place of ``name`` in the outermost numbered list on its path.

    Lists side by side in one module count together (``convs.1`` and ``norms.1`` are one layer); containers of
    the type ``nn.Sequential`` follow each other, because each is run as a whole.
    """
    parts = (name or "").split(".")[:-1]
    for place, part in enumerate(parts):
        if part.isdecimal():
            path = ".".join(parts[:place])
            return (path if path in sequential else path.rpartition(".")[0] + ".", int(part))
    return None
