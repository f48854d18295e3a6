"""SkipAwareScheduler: learning-rate schedules that count the steps that were made."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adapt.callbacks import _trainer
from lightning_adapt.callbacks.step_notice import really_stepped
from lightning_adapt.dynamics.step_hooks import StepHooks, has_step_hooks

_NEVER = sys.maxsize


class SkipAwareScheduler(Callback):
    """Keep learning-rate schedules from advancing on a step that the gradient scaler skipped.

    Lightning advances a schedule with ``interval: step`` on every batch that should have stepped; under a
    scaler the first steps are often skipped, and a warm-up loses them. With this callback such a schedule
    counts the steps that were made: with ``frequency: f`` it advances at every f-th of them in an epoch.
    Where nothing is skipped, it advances at the very batches at which it would without. Schedules with
    ``interval: epoch`` and ``ReduceLROnPlateau`` are left alone. A schedule of a fixed length, such as
    ``OneCycleLR``, ends short by as many steps as were skipped.

    Without a scaler there is nothing to do, and it says so. With a fused optimizer each step is waited for to
    learn whether it was skipped, as Lightning waits with every optimizer that is not fused.

    Raises:
        MisconfigurationException: In `setup`, with manual optimization, where your own code steps schedulers;
            do it in ``on_after_optimizer_step``, see `OptimizerStepNotice`.

    Example:
        >>> callbacks = [SkipAwareScheduler()]  # Trainer(callbacks=callbacks, precision="16-mixed")
    """

    def __init__(self) -> None:
        self._hooks: list[StepHooks] = []
        self._held: list[tuple[LRSchedulerConfig, int]] = []  # with the frequency it really has
        self._announced = self._made = False
        self._window = 0  # batches since a step was made or skipped
        self._skipped = 0  # batches of this epoch whose step was not made

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: nothing that belongs to the run but its counts."""
        return {**self.__dict__, "_hooks": [], "_held": []}

    # --- Lightning's hooks ---

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "SkipAwareScheduler must run with automatic optimization, got manual optimization, where "
                "your code steps the schedulers; do it in `on_after_optimizer_step`, see OptimizerStepNotice"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        optimizers = _trainer.optimizers(trainer)
        if _trainer.loss_scale(trainer) is None:
            rank_zero_info(f"SkipAwareScheduler: no gradient scaler in {trainer.precision}; nothing to do")
        elif not all(map(has_step_hooks, optimizers)):
            rank_zero_warn(
                "SkipAwareScheduler: steps of an optimizer without step hooks are not noticed, schedules "
                "advance as ever; derive it from torch.optim.Optimizer and call its __init__"
            )
        else:
            self._hooks = [
                StepHooks(optimizer, after=partial(self._stepped, trainer, optimizer)).attach()
                for optimizer in optimizers
            ]

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._hooks:
            return
        if _trainer.batch_index(trainer) == 0:
            self._window = self._skipped = 0
        self._announced = self._made = False
        for config in trainer.lr_scheduler_configs:
            if config.interval == "step" and not config.reduce_on_plateau:
                self._held.append((config, config.frequency))
                config.frequency = _NEVER  # until the step is made

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._announced = True

    def _stepped(self, trainer: Trainer, optimizer: Optimizer) -> None:
        if not really_stepped(optimizer):
            return
        self._made = True
        # What Lightning looks at, in an epoch without the batches that came to nothing.
        index = _trainer.batch_index(trainer) + 1 - self._skipped
        for config, frequency in self._held:
            if index % frequency == 0:
                config.frequency = 1

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._give_back()
        self._window += 1
        if self._announced:
            self._skipped += 0 if self._made else self._window
            self._window = 0

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Where in the epoch the schedules are."""
        return {"window": self._window, "skipped": self._skipped}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the middle of an epoch."""
        self._window, self._skipped = int(state_dict["window"]), int(state_dict["skipped"])

    # --- the end ---

    def _give_back(self) -> None:
        for config, frequency in self._held:
            config.frequency = frequency
        self._held = []

    def _end(self) -> None:
        self._give_back()
        for hooks in self._hooks:
            hooks.detach()
        self._hooks = []
