"""FusedMixedPrecision: fused optimizers together with gradient clipping, with a scaler or without."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Literal

import torch
from lightning.fabric.utilities.types import Optimizable
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from packaging.version import Version
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adapt._text import unknown_name
from lightning_adapt.callbacks import _trainer

PRECISIONS = ("16-mixed", "bf16-mixed", "32-true")


class FusedMixedPrecision(MixedPrecision):
    """Lightning's mixed precision, in which a fused optimizer may have its gradients clipped.

    Lightning refuses ``gradient_clip_val`` with a fused optimizer in 16-mixed and bf16-mixed. Here the
    gradients are unscaled before `on_before_optimizer_step`, as with any other optimizer, in the pass that
    looks for inf anyway. Clipping by norm then costs no pass of its own: the optimizer divides by its
    ``grad_scale`` inside the fused kernel,

    ``grad_scale = max(1, (norm + 1e-6) / clip_val)``

    which is torch's ``clip_grad_norm_`` written as a division. After the step ``p.grad`` holds the clipped
    gradients. Clipping by value cannot be a division: the gradients are clamped in place before the step.
    Optimizers that are not torch's fused ones are clipped in place as well. Nothing waits for the device.

    In manual optimization ``self.clip_gradients(optimizer, …)`` comes before unscaling: it clips what the
    gradients will be once unscaled.

    Args:
        precision: ``"16-mixed"`` (with a gradient scaler), ``"bf16-mixed"`` or ``"32-true"``.
        device: Device type for autocast, such as ``"cuda"``; ``None`` takes the one the model is on.
        scaler: For ``"16-mixed"`` only; ``None`` makes a ``torch.amp.GradScaler``.

    Raises:
        ValueError: If ``precision`` is none of the three, or has no use for ``scaler``.

    Example:
        >>> plugin = FusedMixedPrecision("bf16-mixed")  # Trainer(plugins=[plugin], gradient_clip_val=1.0)
        >>> plugin.precision
        'bf16-mixed'
    """

    def __init__(
        self,
        precision: Literal["16-mixed", "bf16-mixed", "32-true"] = "16-mixed",
        device: str | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(unknown_name("precision", precision, PRECISIONS))
        if scaler is not None and precision != "16-mixed":
            raise ValueError(
                f"`scaler` must be left out with precision={precision!r}, got {scaler}; only '16-mixed' "
                "has one"
            )
        # As bf16-mixed, Lightning makes no scaler yet: ours is made in `connect`, when the device is known.
        super().__init__("16-mixed" if scaler is not None else "bf16-mixed", device or "cpu", scaler)
        self.precision: Any = precision
        self._device_given = device is not None
        self._stepping: Optimizable | None = None

    @override
    def connect(
        self, model: nn.Module, optimizers: list[Optimizer], lr_schedulers: list[Any]
    ) -> tuple[nn.Module, list[Optimizer], list[Any]]:
        """Learn the device; the model is on it by now."""
        parameter = next(model.parameters(), None)
        if not self._device_given and parameter is not None:
            self.device = parameter.device.type
        if self.precision == "16-mixed" and self.scaler is None:
            self.scaler = torch.amp.GradScaler(self.device)
        return super().connect(model, optimizers, lr_schedulers)

    @override
    def autocast_context_manager(self) -> torch.autocast:
        if self.precision == "32-true":
            return torch.autocast(self.device, enabled=False)
        return super().autocast_context_manager()

    # --- the step ---

    @override
    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizable, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Make one step, clipped."""
        try:
            if self.scaler is None or not _takes_grad_scale(optimizer):
                return super().optimizer_step(optimizer, model=model, closure=closure, **kwargs)
            return self._scaled_step(self.scaler, optimizer, model, closure, **kwargs)
        finally:
            vars(optimizer).pop("grad_scale", None)

    def _scaled_step(
        self,
        scaler: torch.amp.GradScaler,
        optimizer: Any,
        model: LightningModule,
        closure: Callable[[], Any],
        **kwargs: Any,
    ) -> Any:
        """Lightning's step under a scaler, except that a fused optimizer's gradients are unscaled, too."""
        result = closure()
        # A training_step that returns None made no gradients. In manual optimization it always does.
        nothing = result is None and model.automatic_optimization
        if not nothing:
            scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        if nothing:
            return result
        result = scaler.step(optimizer, **kwargs)
        scaler.update()
        return result

    @override
    def _after_closure(self, model: LightningModule, optimizer: Any) -> None:
        # From here to the kernel gradients are unscaled, and what clips them may leave work for the kernel.
        self._stepping = optimizer
        try:
            super()._after_closure(model, optimizer)
        finally:
            self._stepping = None

    # --- clipping ---

    @override
    def clip_gradients(
        self,
        optimizer: Optimizer,
        clip_val: int | float = 0.0,
        gradient_clip_algorithm: GradClipAlgorithmType = GradClipAlgorithmType.NORM,
    ) -> None:
        """Clip; optimizers that unscale by themselves in an older way are refused, as Lightning does."""
        old = getattr(optimizer, "_step_supports_amp_scaling", False) and not _takes_grad_scale(optimizer)
        clip = MixedPrecision.clip_gradients if old else Precision.clip_gradients
        clip(self, optimizer, clip_val, gradient_clip_algorithm)

    @override
    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: int | float) -> None:
        """Clip by norm: inside the kernel where that is possible, else in place."""
        gradients = self._settled_gradients(optimizer)
        scale = self._scale_on_gradients()
        if scale is not None and gradients:
            divisor = _divisor(gradients, clip_val, scale)
            torch._foreach_mul_(gradients, divisor.reciprocal())  # pyright: ignore[reportPrivateImportUsage]
        elif self._stepping is not None and gradients and _divides_itself(self._stepping, gradients):
            self._stepping.grad_scale = _divisor(gradients, clip_val)  # type: ignore[attr-defined]
        else:
            super().clip_grad_by_norm(optimizer, clip_val)

    @override
    def clip_grad_by_value(self, optimizer: Optimizer, clip_val: int | float) -> None:
        """Clip by value, in place."""
        gradients = self._settled_gradients(optimizer)
        scale = self._scale_on_gradients()
        if scale is None:
            super().clip_grad_by_value(optimizer, clip_val)
            return
        for gradient in gradients:
            limit = scale.to(gradient.device, gradient.dtype) * clip_val
            gradient.clamp_(-limit, limit)

    def _settled_gradients(self, optimizer: Optimizer) -> list[Tensor]:
        """The gradients, after what an earlier clipping left for the kernel to do is done."""
        parameters = self.main_params(optimizer)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        divisor = vars(self._stepping).pop("grad_scale", None) if self._stepping is not None else None
        if divisor is not None:
            torch._foreach_mul_(gradients, divisor.reciprocal())  # pyright: ignore[reportPrivateImportUsage]
        return gradients

    def _scale_on_gradients(self) -> Tensor | None:
        """What gradients are still multiplied with; right before the kernel they are unscaled already."""
        return None if self._stepping is not None else _trainer.scale_of(self.scaler)

    # --- checkpoints ---

    # Lightning files the scaler under the plugin's class name. Runs with its own plugin and with ours can go
    # on from each other's checkpoints.
    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the scaler's state under the name of Lightning's plugin as well."""
        state = self.state_dict()
        if state:
            checkpoint[MixedPrecision.__qualname__] = state

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the scaler's state of Lightning's plugin; ours, where there is one, is loaded after it."""
        state = checkpoint.get(MixedPrecision.__qualname__)
        if state:
            self.load_state_dict(state)


def _divisor(gradients: list[Tensor], clip_val: float, scale: Tensor | None = None) -> Tensor:
    """What gradients are divided by to have at most the norm ``clip_val``; float32, as fused kernels want it.

    Args:
        gradients: All of one optimizer.
        clip_val: Their largest norm.
        scale: What they are still multiplied with.
    """
    device = gradients[0].device
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    norm: Tensor = torch.linalg.vector_norm(torch.stack([n.to(device, torch.float32) for n in norms]))
    if scale is not None:
        norm = norm / scale.to(device)
    # The 1e-6 is torch's. A norm of inf or nan gives what clip_grad_norm_ gives: zeros and nan.
    return ((norm + 1e-6) / clip_val).clamp(min=1.0)


def _takes_grad_scale(optimizer: Any) -> bool:
    """Whether a gradient scaler hands this optimizer ``grad_scale`` and ``found_inf`` as attributes."""
    return (
        getattr(optimizer, "_step_supports_amp_scaling", False)
        and "grad_scaler" not in signature(optimizer.step).parameters
    )


def _divides_itself(optimizer: Any, gradients: list[Tensor]) -> bool:
    """Whether ``optimizer.step`` is sure to divide by ``optimizer.grad_scale``: torch's own fused ones do."""
    return (
        type(optimizer).step.__module__.startswith("torch.optim.")
        and all(group.get("fused") for group in optimizer.param_groups)
        and all(gradient.device.type in ("cpu", "cuda") for gradient in gradients)
        # Before 2.5 GradScaler.step drops the attribute.
        and Version(torch.__version__).release >= (2, 5)
    )
