"""Update rules of the optimizers with a second moment, as torch.optim writes them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep, Scalar, StepView, host_number
from lightning_adapt.dynamics.engines import default_chunk
from lightning_adapt.dynamics.pieces import cut
from lightning_adapt.dynamics.step_counts import bias_correction
from lightning_adapt.dynamics.update_rules import register_rule


def _sqrt(x: Scalar) -> Scalar:
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def _decay(group: Any, *, decoupled: bool) -> dict[str, Any]:
    """Weight decay in the place where this optimizer has it."""
    decay = group.get("weight_decay", 0.0)
    return {"decay": group["lr"] * decay} if decoupled else {"l2": decay}


@register_rule(torch.optim.Adam, reads="stored", exact=True, shared=True, lasting=True)
def adam(view: StepView) -> CanonicalStep:
    """Adam and AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019): ``m_hat / (sqrt(v_hat) + eps)``."""
    group = view.group
    beta1, beta2 = group["betas"]
    second = view.state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    correction1 = bias_correction(view, beta1)
    return CanonicalStep(
        lr=group["lr"],
        first_moment=view.state["exp_avg"],
        first_moment_factor=correction1,
        first_moment_correction=correction1,
        maximize=group.get("maximize", False),
        second_moment=second,
        second_moment_correction=bias_correction(view, beta2),
        eps=view.eps(second),
        **_decay(group, decoupled=group.get("decoupled_weight_decay", False)),
    )


@register_rule(torch.optim.AdamW, reads="stored", exact=True, shared=True, lasting=True)
def adamw(view: StepView) -> CanonicalStep:
    """AdamW (Loshchilov & Hutter 2019), also where the group does not say that decay is decoupled."""
    step = adam(view)
    decay = view.group.get("weight_decay", 0.0)
    step.l2, step.decay = 0.0, view.group["lr"] * decay
    return step


@register_rule(torch.optim.NAdam, reads="stored", exact=True)
def nadam(view: StepView) -> CanonicalStep:
    """NAdam (Dozat 2016): the numerator mixes the gradient with the momentum of the next step."""
    group, t = view.group, view.step
    beta1, beta2 = group["betas"]
    mu_decay, product = group["momentum_decay"], view.state["mu_product"]
    if product.device.type == "cpu":
        product = host_number(product)
    mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * mu_decay))
    mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1) * mu_decay))
    second = view.state["exp_avg_sq"]
    return CanonicalStep(
        lr=group["lr"],
        first_moment=view.state["exp_avg"],
        first_moment_factor=mu_next / (1.0 - product * mu_next),
        first_moment_correction=1 / (1 - beta1**t),
        gradient_factor=(1.0 - mu) / (1.0 - product),
        maximize=group.get("maximize", False),
        second_moment=second,
        second_moment_correction=1 / (1 - beta2**t),
        eps=view.eps(second),
        **_decay(group, decoupled=group.get("decoupled_weight_decay", False)),
    )


@register_rule(torch.optim.RAdam, reads="stored", exact=True, shared=True, lasting=True)
def radam(view: StepView) -> CanonicalStep:
    """RAdam (Liu et al. 2020): Adam with rectified variance; plain momentum while ``rho_t <= 5``.

    torch adds eps before bias correction, ``sqrt(v) + eps``; in canonical form that is
    ``sqrt(v_hat) + eps / sqrt(1 - beta2**t)``.
    """
    group, t = view.group, view.step
    beta1, beta2 = group["betas"]
    correction2 = 1 - beta2**t
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / correction2
    rectified = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    lr: Scalar
    adaptive: Scalar
    if isinstance(rho, Tensor):
        adaptive = (rho > 5).to(rho.dtype)
        lr = group["lr"] * torch.where(rho > 5, rectified, torch.ones_like(rho)).sqrt()
    else:
        adaptive = float(rho > 5)
        lr = group["lr"] * (math.sqrt(rectified) if rho > 5 else 1.0)
    correction1 = 1 / (1 - beta1**t)
    second = view.state["exp_avg_sq"]
    return CanonicalStep(
        lr=lr,
        first_moment=view.state["exp_avg"],
        first_moment_factor=correction1,
        first_moment_correction=correction1,
        maximize=group.get("maximize", False),
        second_moment=second,
        second_moment_correction=1 / correction2,
        eps=view.eps(second) / _sqrt(correction2),
        adaptive=adaptive,
        **_decay(group, decoupled=group.get("decoupled_weight_decay", False)),
    )


@register_rule(torch.optim.SparseAdam, reads="elements", exact=True)
def sparse_adam(view: StepView) -> CanonicalStep:
    """SparseAdam: Adam on the touched rows only; eps before bias correction as in RAdam."""
    group, t = view.group, view.step
    beta1, beta2 = group["betas"]
    correction1, correction2 = 1 / (1 - beta1**t), 1 - beta2**t
    first, second = view.state["exp_avg"], view.state["exp_avg_sq"]
    return CanonicalStep(
        lr=group["lr"],
        first_moment=first,
        first_moment_correction=correction1,
        numerator=(first if view.touched is None else first * view.touched) * correction1,
        maximize=group.get("maximize", False),
        second_moment=second,
        second_moment_correction=1 / correction2,
        eps=view.eps(second) / _sqrt(correction2),
    )


@register_rule(torch.optim.Adamax, reads="stored", exact=True, shared=True, lasting=True)
def adamax(view: StepView) -> CanonicalStep:
    """Adamax (Kingma & Ba 2015): ``exp_inf = max(beta2 · u, |g| + eps)`` is the whole denominator."""
    group = view.group
    correction1 = bias_correction(view, group["betas"][0])
    second = view.state["exp_inf"]
    return CanonicalStep(
        lr=group["lr"],
        first_moment=view.state["exp_avg"],
        first_moment_factor=correction1,
        first_moment_correction=correction1,
        maximize=group.get("maximize", False),
        second_moment=second,
        second_moment_is_root=True,
        eps=view.eps(second),
        **_decay(group, decoupled=False),
    )


@register_rule(torch.optim.Adagrad, reads="stored", exact=True, shared=True, lasting=True)
def adagrad(view: StepView) -> CanonicalStep:
    """Adagrad (Duchi, Hazan & Singer 2011): ``g / (sqrt(sum g²) + eps)``, lr decayed by ``lr_decay``."""
    group = view.group
    second, decay = view.state["sum"], group.get("lr_decay", 0.0)
    return CanonicalStep(
        lr=group["lr"] / (1 + (view.step - 1) * decay) if decay else group["lr"],
        gradient_factor=1.0,
        maximize=group.get("maximize", False),
        second_moment=second,
        eps=view.eps(second),
        **_decay(group, decoupled=False),
    )


@register_rule(torch.optim.RMSprop, reads="stored", exact=True, shared=True, lasting=True)
def rmsprop(view: StepView) -> CanonicalStep:
    """RMSProp (Hinton 2012), plain, centered (Graves 2013) and with momentum on the divided gradient."""
    group, state = view.group, view.state
    second = state["square_avg"]
    momentum, centered = group.get("momentum", 0) > 0, group.get("centered", False)
    mean = state["grad_avg"] if centered else None
    buffer = state["momentum_buffer"] if momentum else None
    return CanonicalStep(
        lr=group["lr"],
        first_moment=buffer if momentum else mean,
        first_moment_correction=None if momentum else 1.0,
        gradient_factor=0.0 if momentum else 1.0,
        numerator=buffer,
        preconditioned=momentum,
        maximize=group.get("maximize", False),
        second_moment=second,
        centering=mean,
        eps=view.eps(second),
        **_decay(group, decoupled=False),
    )


@register_rule(torch.optim.Adadelta, reads="elements")
def adadelta(view: StepView) -> CanonicalStep:
    """Adadelta (Zeiler 2012): ``sqrt(acc_delta + eps) / sqrt(square_avg + eps) · g``, old acc_delta.

    The old ``acc_delta`` follows from the new one: ``new = rho · old + (1 - rho) · (old + eps) · r`` with
    ``r = g² / (square_avg + eps)``.
    """
    group, state = view.group, view.state
    rho, second = group["rho"], state["square_avg"]
    eps = view.eps(second)
    wide = second.double() if second.device.type != "mps" else second.float()
    accumulated = state["acc_delta"].to(wide.dtype)
    if view.gradient is not None:
        gradient = view.gradient.to(wide.dtype)
        if group["weight_decay"]:
            origin = view.parameter if view.before is None else view.before
            sign = -1.0 if group.get("maximize", False) else 1.0
            gradient = sign * gradient + group["weight_decay"] * origin.to(wide.dtype)
        ratio = gradient.square() / (wide + eps)
        accumulated = (accumulated - (1 - rho) * eps * ratio) / (rho + (1 - rho) * ratio)
    return CanonicalStep(
        lr=group["lr"],
        gradient_factor=1.0,
        maximize=group.get("maximize", False),
        second_moment=second,
        eps=eps,
        eps_placement="inside",
        effective_lr=group["lr"] * (accumulated.clamp_min(0) + eps).sqrt() / (wide + eps).sqrt(),
        **_decay(group, decoupled=False),
    )


def adafactor(view: StepView) -> CanonicalStep:
    """Adafactor (Shazeer & Stern 2018), torch's form: factored v, clamped at ``eps[0]``, clipped by rms."""
    group = view.group
    return CanonicalStep(
        lr=view.state["alpha"],
        gradient_factor=1.0,
        maximize=group.get("maximize", False),
        second_moment=_adafactor_second(view),
        eps=_adafactor_eps1(view),
        eps_placement="clamp",
        **_decay(group, decoupled=True),
    )


def _adafactor_eps1(view: StepView) -> float:
    eps1 = view.group["eps"][0]
    return float(torch.finfo(view.parameter.dtype).eps if eps1 is None else eps1)


def _adafactor_second(view: StepView) -> Tensor:
    state = view.state
    if "variance" in state:
        variance: Tensor = state["variance"]
        return variance
    outer: Tensor = state["row_var"] @ state["col_var"]
    return outer.div_(state["row_mean"])


def _prepare_adafactor(view: StepView) -> dict[str, Tensor]:
    """The mean of ``row_var``, and the rate ``alpha``, which follows parameter and update as a whole."""
    state, group, eps1 = dict(view.state), view.group, _adafactor_eps1(view)
    made: dict[str, Tensor] = {}
    if "variance" not in state:
        made["row_mean"] = state["row_var"].mean(dim=-2, keepdim=True).clamp(min=eps1)
    wide = torch.float32 if view.parameter.device.type == "mps" else torch.float64
    size = torch.zeros((), dtype=wide, device=view.parameter.device)
    unit = size.clone()
    for piece in cut(replace(view, state={**state, **made}), default_chunk(view.parameter.device)):
        origin = piece.parameter if piece.before is None else piece.before
        size += origin.to(wide).square().sum()
        if piece.gradient is not None:
            second = _adafactor_second(piece).float().clamp(min=eps1 * eps1)
            unit += piece.gradient.float().mul(second.rsqrt_()).to(wide).square().sum()
    n, t = max(view.parameter.numel(), 1), view.step
    rate: Scalar = (
        torch.clamp(1 / t**0.5, max=group["lr"]) if isinstance(t, Tensor) else min(group["lr"], t**-0.5)
    )
    alpha = (size / n).sqrt().clamp(min=group["eps"][1]) * rate
    if view.gradient is not None:
        alpha = alpha / ((unit / n).sqrt() / group["d"]).clamp(min=1.0)
    return {**made, "alpha": alpha}


if hasattr(torch.optim, "Adafactor"):  # torch >= 2.5
    register_rule(torch.optim.Adafactor, reads="elements", prepare=_prepare_adafactor)(adafactor)
