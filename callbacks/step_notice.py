"""OptimizerStepNotice: the hook that Lightning lacks, after a step that the optimizer really made."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adapt.callbacks import _trainer
from lightning_adapt.dynamics.step_hooks import StepHooks, has_step_hooks


class OptimizerStepNotice(Callback):
    """Call ``on_after_optimizer_step(trainer, pl_module, optimizer)`` when an optimizer really stepped.

    Every callback of the trainer that has such a method is called, then the LightningModule if it has one;
    what they raise ends the training, as with any hook. They are called once a step: not for batches that
    only accumulate gradients, not when the gradient scaler skipped the step, not when ``training_step``
    returned ``None``; once for a step with many closure calls, and for each optimizer in manual optimization.

    It is the moment right after the update: parameters and state are new, gradients and learning rates still
    those of the step, and ``trainer.global_step`` has not moved yet. ``optimizer`` is torch's own, as in
    ``on_before_optimizer_step``.

    Under a gradient scaler a fused optimizer alone knows on the device whether it stepped: that is waited for
    if somebody is to be called, as Lightning waits with every optimizer that is not fused.

    Example:
        >>> class Average(Callback):
        ...     def on_after_optimizer_step(self, trainer, pl_module, optimizer):
        ...         self.average.update_parameters(pl_module)
        >>> callbacks = [OptimizerStepNotice(), Average()]  # Trainer(callbacks=callbacks)
    """

    def __init__(self) -> None:
        self._hooks: list[StepHooks] = []

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: hooks belong to the run."""
        return {"_hooks": []}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        notices = [c for c in trainer.callbacks if isinstance(c, OptimizerStepNotice)]  # type: ignore[attr-defined]
        if notices[0] is not self:  # listed twice, everybody would be called twice
            return
        for optimizer in _trainer.optimizers(trainer):
            if has_step_hooks(optimizer):
                call = partial(_notify, trainer, pl_module, optimizer)
                self._hooks.append(StepHooks(optimizer, after=call).attach())
            else:
                rank_zero_warn(
                    f"OptimizerStepNotice: steps of {type(optimizer).__name__} are not noticed; derive it "
                    "from torch.optim.Optimizer and call its __init__"
                )

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def _end(self) -> None:
        for hooks in self._hooks:
            hooks.detach()
        self._hooks = []


def really_stepped(optimizer: Optimizer) -> bool:
    """Whether the call of ``optimizer.step`` that is just over changed anything; may wait for the device.

    Under a gradient scaler a fused optimizer is called with ``found_inf``, and does nothing if that is set.
    Without any gradient, because ``training_step`` returned ``None``, no optimizer does anything.
    """
    if all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
        return False
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is None or not bool(found_inf > 0)


def _notify(trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
    everybody = [*trainer.callbacks, module]  # type: ignore[attr-defined]
    wanted = [hook for who in everybody if callable(hook := getattr(who, "on_after_optimizer_step", None))]
    if wanted and really_stepped(optimizer):
        for hook in wanted:
            hook(trainer, module, optimizer)
