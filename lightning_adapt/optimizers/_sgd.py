"""Gradient descent, and the optimizer that orthogonalizes its momentum.

Each factory hands its ``locals()`` to the body they share: the signature is the one place where an argument
stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adapt._text import unknown_name
from lightning_adapt.optimizers._build import build, require_torch
from lightning_adapt.optimizers._groups import Overrides
from lightning_adapt.optimizers._parameters import Params, only_trainable, open_params, read_parameters


def sgd(
    params: Params,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    precision: str | None = None,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.SGD:
    """Make an SGD optimizer.

    ``update = -lr * gradient``, or ``-lr * momentum_buffer``. The same step size for every element: what the
    adaptive optimizers are compared with. Takes sparse gradients if there is no weight decay.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        momentum: Decay factor of the momentum buffer.
        dampening: The new gradient joins the buffer times ``1 - dampening``.
        weight_decay: Coupled L2: ``weight_decay * parameter`` joins the gradient.
        nesterov: Look one step ahead; needs momentum and no dampening.
        maximize: Climb instead of descend.
        foreach: Multi-tensor implementation; None leaves the choice to torch.
        fused: Fused kernel; None takes it on CUDA where that is safe.
        precision: Lightning's precision, such as ``"16-mixed"``; None asks the module's trainer.
        no_decay: Kinds of parameters without weight decay: ``"norm"``, ``"bias"``, ``"embedding"``.
        layer_decay: Factor on the learning rate from each layer to the one below; None for one rate.
        overrides: Glob pattern over parameter names -> settings of their group; the first match wins.

    Returns:
        The optimizer, its parameter groups named as in :func:`parameter_groups`.

    Raises:
        ValueError: If an argument is refused.

    Example:
        >>> from torch import nn
        >>> optimizer = sgd(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Sutskever et al. 2013 (momentum), https://proceedings.mlr.press/v28/sutskever13.html
    """
    return build(torch.optim.SGD, "sgd", locals())


def muon(
    params: Params,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    *,
    precision: str | None = None,
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.Muon:
    """Make a Muon optimizer for hidden weight matrices (torch 2.9 or newer).

    ``update = -lr * scale * orthogonalized(momentum) - lr * weight_decay * parameter``. Muon is made for the
    matrices of hidden layers. Biases, norms and convolutions (not two-dimensional) are refused, and
    embeddings, where the module is known: train those with a second optimizer, see :func:`muon_parameters`.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        weight_decay: Decoupled: the parameter shrinks by ``lr * weight_decay`` of itself.
        momentum: Decay factor of the momentum buffer.
        nesterov: Look one step ahead.
        ns_coefficients: Coefficients of the Newton-Schulz iteration.
        eps: Least norm of a matrix that is divided by its norm.
        ns_steps: Newton-Schulz iterations, 1 to 99.
        adjust_lr_fn: How ``scale`` follows the shape: ``"original"`` (None) or ``"match_rms_adamw"``.
        precision: Lightning's precision, such as ``"16-mixed"``; None asks the module's trainer.
        layer_decay: Factor on the learning rate from each layer to the one below; None for one rate.
        overrides: Glob pattern over parameter names -> settings of their group; the first match wins.

    Returns:
        The optimizer, its parameter groups named as in :func:`parameter_groups`.

    Raises:
        ValueError: If an argument is refused.
        ImportError: If this torch is older.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> hidden, rest = muon_parameters(net, exclude=["1.*"])
        >>> optimizer = muon(hidden, lr=0.02)
        >>> optimizer.param_groups[0]["parameter_names"], [name for name, _ in rest]
        (['0.weight'], ['0.bias', '1.weight', '1.bias'])

    References:
        Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
    """
    arguments = dict(locals())
    require_torch("muon")
    module, items = open_params(params)
    _refuse_unfit_for_muon(module, items)
    # A generator is used up by now; from the module, names and types are read once more.
    arguments["params"] = items if module is None else module
    return build(torch.optim.Muon, "muon", arguments)


def muon_parameters(
    module: nn.Module, exclude: Sequence[str] = ()
) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
    """Split trainable parameters into hidden matrices, for Muon, and the rest, for another optimizer.

    Hidden are the two-dimensional parameters that no embedding owns. A head cannot be told from a hidden
    layer by its
    type: exclude yours by name. Lightning takes two optimizers with manual optimization
    (``self.automatic_optimization = False``).

    Args:
        module: The module.
        exclude: Glob patterns over parameter names that belong to the rest as well.

    Returns:
        Named parameters: the hidden matrices, and all others; either may be empty.

    Raises:
        ValueError: If a pattern matches nothing, or there is nothing to train.

    Example:
        >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        >>> hidden, rest = muon_parameters(net, exclude=["2.*"])
        >>> [name for name, _ in hidden], [name for name, _ in rest]
        (['1.weight'], ['0.weight', '1.bias', '2.weight', '2.bias'])
    """
    infos = only_trainable(read_parameters(*open_params(module)))
    names = [info.name or "" for info in infos]
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(unknown_name("exclude", pattern, names))
    hidden: list[tuple[str, Tensor]] = []
    rest: list[tuple[str, Tensor]] = []
    for name, info in zip(names, infos, strict=True):
        excluded = any(fnmatchcase(name, pattern) for pattern in exclude)
        is_hidden = info.kind != "embedding" and info.parameter.ndim == 2 and not excluded
        (hidden if is_hidden else rest).append((name, info.parameter))
    return hidden, rest


def _refuse_unfit_for_muon(module: nn.Module | None, items: list[Any]) -> None:
    """Name the parameters that Muon is not made for; torch itself would only give the size of the first."""
    if items and isinstance(items[0], dict):
        return  # ready groups are the user's own decision; torch still checks the dimension
    unfit = [
        info.name or str(tuple(info.parameter.shape))
        for info in only_trainable(read_parameters(module, items))
        if info.kind == "embedding" or info.parameter.ndim != 2
    ]
    if unfit:
        listed = ", ".join(unfit[:5]) + (f", … ({len(unfit) - 5} more)" if len(unfit) > 5 else "")
        raise ValueError(
            f"`params` must hold only hidden weight matrices for muon, got {listed}; take "
            "`hidden, rest = muon_parameters(module)`, give hidden to muon and rest to a second optimizer "
            "such as adamw (in Lightning with manual optimization)"
        )
