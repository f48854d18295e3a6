"""Train one trial with a real Trainer and the monitor, and note what a rule may know."""

from __future__ import annotations

import warnings
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins.precision import MixedPrecision

from diagnosis.injections import INJECTIONS, Injection
from diagnosis.recipes import RECIPES
from diagnosis.record import Note, Record
from diagnosis.trial import Trial
from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.recipes._quiet import quiet


def train(trial: Trial) -> Record:
    """Train it; a training that ends in an error leaves what it had."""
    torch.set_num_threads(1)
    began = perf_counter()
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that settings are strange is the point
        seed_everything(trial.seed, verbose=False)
        injection = INJECTIONS[trial.injection](**trial.options) if trial.injection else Injection()
        model, data = RECIPES[trial.recipe].build(trial.model, {"seed": trial.seed, **trial.data})
        injection.arrange(model, data)
        monitor, notes = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True), Notebook()
        trainer = _trainer(trial, [notes, injection, monitor])
        record = Record(trial, precision=str(trainer.precision), clip=float(trainer.gradient_clip_val or 0.0))
        try:
            trainer.fit(model, data)
        except injection.ends_with as error:
            record.error = f"{type(error).__name__}: {error}"
    record.tables, record.notes, record.total_steps = list(monitor.history), notes.notes, notes.total_steps
    record.truth = injection.truth(model)
    record.seconds = perf_counter() - began
    return record


def _trainer(trial: Trial, callbacks: list[Callback]) -> Trainer:
    options: dict[str, Any] = {**RECIPES[trial.recipe].trainer, **trial.trainer}
    if options.get("precision") == "16-mixed":
        # Lightning takes bfloat16 instead on a CPU, where fp16 with a scaler works as well.
        del options["precision"]
        scaler = torch.amp.GradScaler("cpu", init_scale=options.pop("init_scale", 2.0**10))
        options["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler)]
    return Trainer(
        accelerator="cpu",
        devices=1,
        **{"max_steps": trial.steps, "max_epochs": -1, **options},
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class Notebook(Callback):
    """Notes what only the trainer knows; first in the list, so that it sees gradients as they were left."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.total_steps: int | None = None
        self._stepped, self._kept = False, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask how long the run will be."""
        steps = trainer.estimated_stepping_batches
        self.total_steps = int(steps) if 0 < steps < float("inf") else None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Look, after a step, whether gradients are still there."""
        if self._stepped:
            left = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._kept = any(bool(gradient.any()) for gradient in left)
            self._stepped = False

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """A step is about to come."""
        self._stepped = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        configs = trainer.lr_scheduler_configs
        self.notes.append(
            Note(
                step=int(trainer.fit_loop.epoch_loop._batches_that_stepped),
                loss=float("nan") if loss is None else float(loss) * trainer.accumulate_grad_batches,
                gradients_kept=self._kept if pl_module.automatic_optimization else None,
                schedule_steps=configs[0].scheduler.last_epoch if configs else None,
            )
        )
