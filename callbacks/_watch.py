"""One optimizer of the run under watch: when its next reading is due, and which steps never came."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from lightning.pytorch import Trainer

from lightning_adapt.callbacks import _trainer
from lightning_adapt.dynamics.probe import DynamicsProbe
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.dynamics.update_rules import rule_for
from lightning_adapt.views.scalars import LEDGER, ScalarPlan


@dataclass
class Watch:
    """What belongs to one optimizer of the run.

    Args:
        label: Class name of the optimizer, numbered when there are several.
        probe: What reads it.
        every: Read every n-th batch that steps.
        lengthened: That was once more often.
        due: The next batch step to read at.
        announced_at: The probe's step count when Lightning announced a step.
        early: The reading was armed when ``step()`` began, before its closure ran.
        plan: The scalars that are logged, once known.
    """

    label: str
    probe: DynamicsProbe
    every: int
    due: int
    lengthened: bool = False
    announced_at: int | None = None
    early: bool = False
    plan: ScalarPlan | None = None

    def arm_when_due(self, trainer: Trainer, *, announced: bool) -> None:
        """Arm the probe if the step about to come is to be read.

        Args:
            trainer: Of the run.
            announced: Lightning announced the step, after its closure ran. A raw optimizer stepped by hand is
                not announced, but an optimizer of Lightning's is, a moment after its ``step()`` began: then
                what was kept is from before the closure, which may have changed parameters.
        """
        step = _trainer.batch_step(trainer)
        if self.probe.armed:
            if not (announced and self.early):
                return
            self.probe.disarm()  # first, so that there are never two copies
        elif step + 1 < self.due:
            return
        self.early = not announced
        # The multiples of an interval that grew may begin a few steps from here.
        least = step + 1 + (self.every if self.lengthened else 1)
        self.due = math.ceil(least / self.every) * self.every
        self.probe.arm(
            loss_scale=_trainer.loss_scale(trainer),
            step=step,
            optimizer=self.label,
            # Lightning counts the steps of its own optimizers only, each when it is done.
            global_step=trainer.global_step + int(announced),
        )

    def lengthen(self, every: int) -> None:
        """Read every ``every``-th batch from the next one due on."""
        if every != self.every:
            self.due += every - self.every
            self.every, self.lengthened = every, True

    def missing_step(self, trainer: Trainer, *, skipped: bool) -> None:
        """See whether Lightning announced a step that the optimizer did not make.

        Args:
            trainer: Of the run.
            skipped: Under a gradient scaler such a step counts as skipped.
        """
        if self.announced_at == self.probe.steps:
            if skipped and _trainer.loss_scale(trainer) is not None:
                self.probe.note_skipped()
            elif self.probe.armed:  # no step at all: read the next one instead
                self.probe.disarm()
                self.due = _trainer.batch_step(trainer) + 1
        self.announced_at = None

    def plan_for(self, table: DynamicsTable, *, prefix: str, worst: int, max_tags: int) -> ScalarPlan:
        """The scalars to log of ``table``: only steps and loss scale until every statistic can be seen.

        Args:
            table: Of this optimizer.
            prefix: Of the log keys.
            worst: Parameters listed for each of the worst-of scalars.
            max_tags: Most scalars.
        """
        stepped = not np.isnan(table["effective_lr_max"]).all()  # not before its first real step
        if self.plan is None and not table.skipped and (stepped or rule_for(self.probe.optimizer) is None):
            self.plan = ScalarPlan.of(table, prefix=prefix, worst=worst, max_tags=max_tags)
        return self.plan or ScalarPlan(prefix, ledger_names=LEDGER[:max_tags])
