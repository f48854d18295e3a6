"""Adaptive optimizers without a first moment.

Each factory hands its ``locals()`` to the body they share: the signature is the one place where an argument
stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_adapt.optimizers._build import build, require_torch
from lightning_adapt.optimizers._groups import Overrides
from lightning_adapt.optimizers._parameters import Params


def adagrad(
    params: Params,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float | None = None,
    *,
    maximize: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    precision: str | None = None,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.Adagrad:
    """Make an Adagrad optimizer.

    ``update = -lr / (1 + (step - 1) * lr_decay) * gradient / (sqrt(sum) + eps)``, ``sum`` being that of all
    squared gradients so far: step sizes only ever fall. Takes sparse gradients if there is no weight decay.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        lr_decay: Further fall of the learning rate with the step.
        weight_decay: Coupled L2: ``weight_decay * parameter`` joins the gradient.
        initial_accumulator_value: What the sum starts from.
        eps: Added to the root of the second moment; None takes 1e-10, or what 16-bit state can hold.
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
        >>> optimizer = adagrad(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Duchi, Hazan and Singer 2011, https://jmlr.org/papers/v12/duchi11a.html
    """
    return build(torch.optim.Adagrad, "adagrad", locals())


def rmsprop(
    params: Params,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float | None = None,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    precision: str | None = None,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.RMSprop:
    """Make an RMSprop optimizer.

    ``update = -lr * gradient / (sqrt(square_avg) + eps)``, through a momentum buffer if ``momentum > 0``.
    There is no bias
    correction: with alpha 0.99 the first step is ten times ``lr``.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        alpha: Decay factor of the second moment, in [0, 1).
        eps: Added to the root of the second moment; None takes 1e-8, or what 16-bit state can hold.
        weight_decay: Coupled L2: ``weight_decay * parameter`` joins the gradient.
        momentum: Momentum on the divided gradient.
        centered: Divide by the standard deviation: subtract the squared mean gradient.
        maximize: Climb instead of descend.
        capturable: Allow capture in a CUDA graph.
        foreach: Multi-tensor implementation; None leaves the choice to torch.
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
        >>> optimizer = rmsprop(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013, https://arxiv.org/abs/1308.0850
    """
    return build(torch.optim.RMSprop, "rmsprop", locals())


def adadelta(
    params: Params,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float | None = None,
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    precision: str | None = None,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.Adadelta:
    """Make an Adadelta optimizer.

    ``update = -lr * sqrt(acc_delta + eps) / sqrt(square_avg + eps) * gradient``: epsilon is inside the roots,
    and also what the very first steps are made of.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        rho: Decay factor of both running means, in [0, 1).
        eps: Added inside both roots; None takes 1e-6, or what 16-bit state can hold.
        weight_decay: Coupled L2: ``weight_decay * parameter`` joins the gradient.
        maximize: Climb instead of descend.
        capturable: Allow capture in a CUDA graph.
        foreach: Multi-tensor implementation; None leaves the choice to torch.
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
        >>> optimizer = adadelta(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Zeiler 2012, https://arxiv.org/abs/1212.5701
    """
    return build(torch.optim.Adadelta, "adadelta", locals())


def adafactor(
    params: Params,
    lr: float = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
    foreach: bool | None = None,
    precision: str | None = None,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.Adafactor:
    """Make an Adafactor optimizer (torch 2.5 or newer).

    The second moment of a matrix is kept as the means of its rows and columns, and the update is clipped to
    an rms of ``d``. As in torch, ``lr`` is an upper bound: the step is ``max(eps[1], rms(parameter)) *
    min(lr, 1 / sqrt(step))``.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        beta2_decay: The second moment's decay factor is ``1 - step ** beta2_decay``.
        eps: Least root of the second moment (None: by dtype), and least scale of a parameter.
        d: Largest rms of the update before the learning rate.
        weight_decay: Decoupled: the parameter shrinks by ``lr * weight_decay`` of itself.
        maximize: Climb instead of descend.
        foreach: Multi-tensor implementation; None leaves the choice to torch.
        precision: Lightning's precision, such as ``"16-mixed"``; None asks the module's trainer.
        no_decay: Kinds of parameters without weight decay: ``"norm"``, ``"bias"``, ``"embedding"``.
        layer_decay: Factor on the learning rate from each layer to the one below; None for one rate.
        overrides: Glob pattern over parameter names -> settings of their group; the first match wins.

    Returns:
        The optimizer, its parameter groups named as in :func:`parameter_groups`.

    Raises:
        ValueError: If an argument is refused.
        ImportError: If this torch is older.

    Example:
        >>> from torch import nn
        >>> optimizer = adafactor(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235
    """
    arguments = dict(locals())
    require_torch("adafactor")
    return build(torch.optim.Adafactor, "adafactor", arguments)
