"""LossScaleMonitor: what the gradient scaler does, and which steps it costs."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adapt._text import whole_number
from lightning_adapt.callbacks import _trainer
from lightning_adapt.callbacks._guard import Guard
from lightning_adapt.callbacks._scale_ledger import COUNTS, Report, ScaleLedger
from lightning_adapt.dynamics.step_hooks import has_step_hooks
from lightning_adapt.views.scalars import key


class LossScaleMonitor(Callback):
    """Log the scale of the gradient scaler, its moves, and the steps it skips.

    - ``loss_scale/scale``: for the next step;
    - ``loss_scale/growths``, ``loss_scale/backoffs``: times it rose and fell;
    - ``loss_scale/skipped_steps``, ``loss_scale/real_steps``: steps skipped, and steps made;
    - ``loss_scale/skipped_frac``: share of all steps that were skipped;
    - ``loss_scale/skipped_frac_recent``: the same since it was last logged;
    - ``loss_scale/global_step``: what Lightning counts, skipped steps included.

    Counts are since training began, and go on when a run is resumed. Without a scaler the monitor says so
    and does nothing. It never waits for the device: a step costs the copy of one number there, and all of
    them are brought to the host when they are logged.

    Args:
        every_n_steps: Log every n-th batch that steps; ``None`` takes the trainer's ``log_every_n_steps``.
        strict: Let a fault in the monitor end the training instead of switching the monitor off.

    Raises:
        ValueError: If ``every_n_steps`` is not a positive whole number.

    Example:
        >>> monitor = LossScaleMonitor()  # Trainer(callbacks=[monitor], precision="16-mixed")
        >>> monitor.counts["skipped_steps"]
        0
    """

    def __init__(self, every_n_steps: int | None = None, *, strict: bool = False) -> None:
        if every_n_steps is not None:
            whole_number("every_n_steps", every_n_steps, 1, "None takes the trainer's log_every_n_steps")
        self._every, self._strict = every_n_steps, strict
        self._counts = dict.fromkeys(COUNTS, 0)
        self._seen: weakref.ref[Trainer] | None = None
        self._ledger: ScaleLedger | None = None
        self._guard = Guard(type(self).__name__)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: what was counted, but nothing that belongs to the run."""
        guard = Guard(type(self).__name__)
        return {**self.__dict__, "_counts": self.counts, "_seen": None, "_ledger": None, "_guard": guard}

    @property
    def counts(self) -> dict[str, int]:
        """Growths, backoffs, skipped and real steps, as far as they have come to the host."""
        return dict(self._counts if self._ledger is None else self._ledger.counts)

    # --- Lightning's hooks ---

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and (self._seen is None or self._seen() is not trainer):
            # Another run: what was counted belongs to the last one.
            self._seen, self._counts = weakref.ref(trainer), dict.fromkeys(COUNTS, 0)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        self._guard = Guard(type(self).__name__, strict=self._strict, clean_up=self._end)
        if _trainer.loss_scale(trainer) is None:
            rank_zero_info(f"LossScaleMonitor: no gradient scaler in {trainer.precision}; nothing to log")
        elif trainer.is_global_zero and (self._every or _trainer.cadence(trainer)):
            watched = filter(has_step_hooks, _trainer.optimizers(trainer))
            self._ledger = ScaleLedger(watched, partial(_scale, trainer), self._counts, self._guard)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self._ledger is not None:
            self._guard(self._ledger.announced)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._ledger is not None:
            nothing = pl_module.automatic_optimization and not outputs
            self._guard(partial(self._batch_end, self._ledger, trainer, nothing=nothing))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._finish(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    @override
    def state_dict(self) -> dict[str, Any]:
        """The counts; waits for those on their way."""
        if self._ledger is not None and self._seen is not None:
            self._guard(partial(self._log, self._ledger, self._seen(), wait=True))
        return self.counts

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._counts = {name: int(state_dict.get(name, 0)) for name in COUNTS}

    # --- what they do ---

    def _batch_end(self, ledger: ScaleLedger, trainer: Trainer, *, nothing: bool) -> None:
        step, every = _trainer.batch_step(trainer), self._every or _trainer.cadence(trainer)
        if ledger.over(nothing=nothing) and (step + 1) % every == 0:
            ledger.send({"step": step, "global_step": trainer.global_step})
        self._log(ledger, trainer)

    def _log(self, ledger: ScaleLedger, trainer: Trainer | None, *, wait: bool = False) -> None:
        if wait:
            ledger.send(None)
        for report in ledger.collect(wait=wait):
            if trainer is not None:
                scalars = _scalars(report)
                _trainer.log_metrics(trainer.loggers, scalars, report.about["step"])
                _trainer.remember(trainer, scalars)

    def _finish(self, trainer: Trainer) -> None:
        if self._ledger is not None:
            self._guard(partial(self._log, self._ledger, trainer, wait=True))
        self._end()

    def _end(self) -> None:
        self._counts = self.counts
        if self._ledger is not None:
            self._ledger.detach()
        self._ledger = None


def _scale(trainer: Trainer) -> Any:
    scale = _trainer.loss_scale(trainer)
    return float("nan") if scale is None else scale


def _scalars(report: Report) -> dict[str, float]:
    counts = report.counts
    steps = counts["skipped_steps"] + counts["real_steps"]
    figures = {
        "scale": report.scale,
        **counts,
        "skipped_frac": counts["skipped_steps"] / steps if steps else 0.0,
        "skipped_frac_recent": report.recent_skips / report.recent_steps if report.recent_steps else 0.0,
        "global_step": report.about["global_step"],
    }
    return {key("loss_scale", name): float(figure) for name, figure in figures.items()}
