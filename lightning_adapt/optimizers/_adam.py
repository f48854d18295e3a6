"""Adam and its relatives.

Each factory hands its ``locals()`` to the body they share: the signature is the one place where an argument
stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_adapt.optimizers._build import build
from lightning_adapt.optimizers._groups import Overrides
from lightning_adapt.optimizers._parameters import Params


def adam(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = None,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    precision: str | None = None,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.Adam:
    """Make an Adam optimizer, weight decay as coupled L2.

    ``update = -lr * first_moment_hat / (sqrt(second_moment_hat) + eps)`` with ``gradient + weight_decay *
    parameter`` as the gradient. The L2 term goes through both moments, so that its strength depends on the
    gradients; for decay beside the step use :func:`adamw`. They differ: Adam + L2 5e-4 is what GCNs are
    trained with.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        betas: Decay factors of the first and the second moment, each in [0, 1).
        eps: Added to the root of the second moment; None takes 1e-8, or what 16-bit state can hold.
        weight_decay: Coupled L2: ``weight_decay * parameter`` joins the gradient.
        amsgrad: Divide by the largest second moment seen so far instead of the latest.
        maximize: Climb instead of descend.
        capturable: Allow capture in a CUDA graph.
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
        >>> optimizer = adam(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Kingma and Ba 2015, https://arxiv.org/abs/1412.6980
    """
    return build(torch.optim.Adam, "adam", locals())


def adamw(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = None,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    precision: str | None = None,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.AdamW:
    """Make an AdamW optimizer: Adam with decoupled weight decay.

    ``update = -lr * first_moment_hat / (sqrt(second_moment_hat) + eps) - lr * weight_decay * parameter``. The
    decay does not touch the moments; for L2 that does use :func:`adam`.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        betas: Decay factors of the first and the second moment, each in [0, 1).
        eps: Added to the root of the second moment; None takes 1e-8, or what 16-bit state can hold.
        weight_decay: Decoupled: the parameter shrinks by ``lr * weight_decay`` of itself.
        amsgrad: Divide by the largest second moment seen so far instead of the latest.
        maximize: Climb instead of descend.
        capturable: Allow capture in a CUDA graph.
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
        >>> optimizer = adamw(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101
    """
    return build(torch.optim.AdamW, "adamw", locals())


def nadam(
    params: Params,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = None,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    precision: str | None = None,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.NAdam:
    """Make an NAdam optimizer: Adam with Nesterov momentum.

    ``update = -lr * numerator / (sqrt(second_moment_hat) + eps)`` with ``numerator = (1 - mu_t) / (1 -
    mu_product) * gradient + mu_next / (1 - mu_product * mu_next) * first_moment``, where ``mu_t = beta1 *
    (1 - 0.5 * 0.96 ** (step * momentum_decay))`` and ``mu_product`` is the product of all so far.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        betas: Decay factors of the first and the second moment, each in [0, 1).
        eps: Added to the root of the second moment; None takes 1e-8, or what 16-bit state can hold.
        weight_decay: Coupled L2, unless ``decoupled_weight_decay``.
        momentum_decay: How fast the momentum factor approaches beta1.
        decoupled_weight_decay: Take weight decay as AdamW does, beside the step.
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
        >>> optimizer = nadam(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
    """
    return build(torch.optim.NAdam, "nadam", locals())


def radam(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = None,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    precision: str | None = None,
    no_decay: Sequence[str] = ("norm", "bias"),
    layer_decay: float | None = None,
    overrides: Overrides | None = None,
) -> torch.optim.RAdam:
    """Make a RAdam optimizer: Adam that rectifies the variance of its first steps.

    While too few gradients were seen (about five steps for beta2 0.999) it is plain momentum; then
    ``update = -lr * first_moment_hat * rectification * sqrt(1 - beta2 ** step) / (sqrt(second_moment) +
    eps)``: epsilon is added before the bias correction, other than in Adam.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        betas: Decay factors of the first and the second moment, each in [0, 1).
        eps: Added to the root of the second moment; None takes 1e-8, or what 16-bit state can hold.
        weight_decay: Coupled L2, unless ``decoupled_weight_decay``.
        decoupled_weight_decay: Take weight decay as AdamW does, beside the step.
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
        >>> optimizer = radam(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Liu et al. 2020, https://arxiv.org/abs/1908.03265
    """
    return build(torch.optim.RAdam, "radam", locals())


def adamax(
    params: Params,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
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
) -> torch.optim.Adamax:
    """Make an Adamax optimizer: Adam with a decaying maximum for the second moment.

    ``update = -lr * first_moment_hat / exp_inf`` with ``exp_inf = max(beta2 * exp_inf, |gradient| + eps)``.

    Args:
        params: Module, ``module.parameters()``, named parameters, parameters, or parameter groups.
        lr: Learning rate.
        betas: Decay factors of the first and the second moment, each in [0, 1).
        eps: Added to ``|gradient|``; None takes 1e-8, or what 16-bit state can hold.
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
        >>> optimizer = adamax(nn.Linear(2, 1), lr=0.01, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in optimizer.param_groups]
        [('decay', 0.1), ('no_decay', 0.0)]

    References:
        Kingma and Ba 2015, section 7, https://arxiv.org/abs/1412.6980
    """
    return build(torch.optim.Adamax, "adamax", locals())
