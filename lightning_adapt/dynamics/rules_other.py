"""Update rules of the optimizers without a second moment: SGD, ASGD, Rprop, Muon."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep, StepView, host_number
from lightning_adapt.dynamics.update_rules import Reads, register_rule


def _sgd_reads(view: StepView) -> Reads:
    momentum, nesterov = view.group.get("momentum", 0), view.group.get("nesterov", False)
    return "elements" if momentum and nesterov and _overwrites_gradient(view) else "stored"


@register_rule(torch.optim.SGD, reads=_sgd_reads, exact=True, shared=True, lasting=True)
def sgd(view: StepView) -> CanonicalStep:
    """SGD, with momentum (Polyak 1964) and Nesterov's form (Sutskever et al. 2013)."""
    group = view.group
    momentum, buffer = group.get("momentum", 0), view.state.get("momentum_buffer")
    nesterov, maximize = group.get("nesterov", False), group.get("maximize", False)
    if not momentum or buffer is None:
        return CanonicalStep(
            lr=group["lr"], gradient_factor=1.0, maximize=maximize, l2=group.get("weight_decay", 0.0)
        )
    step = CanonicalStep(
        lr=group["lr"],
        first_moment=buffer,
        first_moment_factor=momentum if nesterov else 1.0,
        gradient_factor=1.0 if nesterov else 0.0,
        maximize=maximize,
        l2=group.get("weight_decay", 0.0),
    )
    if nesterov and view.gradient is not None and _overwrites_gradient(view):
        step.gradient = view.gradient - momentum * buffer
    return step


def _overwrites_gradient(view: StepView) -> bool:
    """Whether torch's foreach SGD left ``g + momentum · buffer`` in ``.grad``: it adds in place."""
    group = view.group
    if group.get("weight_decay", 0.0) or group.get("maximize") or group.get("fused"):
        return False
    if view.touched is not None or group.get("differentiable"):
        return False
    foreach = group.get("foreach")
    # None lets torch choose: foreach on CUDA for plain tensors.
    return bool(foreach) or (foreach is None and view.parameter.device.type == "cuda")


@register_rule(torch.optim.ASGD, remember=("eta",), reads="stored")
def asgd(view: StepView) -> CanonicalStep:
    """Averaged SGD (Polyak & Juditsky 1992): the step uses ``eta`` as it was before the step."""
    group, t = view.group, view.step
    kept, eta = view.remembered.get("eta"), group["lr"]
    if kept is not None:
        eta = host_number(kept) if kept.device.type == "cpu" else kept
    elif _after_first(t):  # as the step before left it, when lr has not changed since
        eta = eta / (1 + group["lambd"] * eta * (t - 1)) ** group["alpha"]
    return CanonicalStep(
        lr=eta,
        gradient_factor=1.0,
        maximize=group.get("maximize", False),
        l2=group.get("weight_decay", 0.0),
        decay=group["lambd"] * eta,
    )


def _after_first(t: float | Tensor) -> bool:
    return isinstance(t, Tensor) or t > 1


@register_rule(torch.optim.Rprop, reads="elements")
def rprop(view: StepView) -> CanonicalStep:
    """Rprop (Riedmiller & Braun 1993): ``sign(prev) · step_size``; the step size is the effective rate."""
    return CanonicalStep(
        lr=view.group["lr"],
        numerator=view.state["prev"].sign(),
        effective_lr=view.state["step_size"],
        maximize=view.group.get("maximize", False),
    )


def muon(view: StepView) -> CanonicalStep:
    """Muon (Jordan et al. 2024): the numerator is the momentum, orthogonalised by Newton-Schulz.

    Not diagonal: there is no denominator. The effective learning rate is the one factor on the
    orthogonalised matrix.
    """
    from torch.optim._muon import _zeropower_via_newtonschulz

    group, buffer = view.group, view.state["momentum_buffer"]
    rows, columns = view.parameter.shape[:2]
    ratio = {
        "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
        "original": math.sqrt(max(1, rows / columns)),
    }[group.get("adjust_lr_fn") or "original"]
    numerator = buffer
    if group["nesterov"] and view.gradient is not None:
        numerator = view.gradient.lerp(buffer, group["momentum"])
    return CanonicalStep(
        lr=group["lr"] * ratio,
        first_moment=buffer,
        numerator=_zeropower_via_newtonschulz(
            numerator, group["ns_coefficients"], group["ns_steps"], group["eps"]
        ),
        decay=group["lr"] * group["weight_decay"],
    )


if hasattr(torch.optim, "Muon"):  # torch >= 2.9
    register_rule(torch.optim.Muon)(muon)
