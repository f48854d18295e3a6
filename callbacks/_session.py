"""The watching of one run, from its first step to its last: optimizers under watch, output, cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from time import perf_counter
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_adapt.callbacks import _trainer
from lightning_adapt.callbacks._budget import Budget
from lightning_adapt.callbacks._output import Output
from lightning_adapt.callbacks._watch import Watch
from lightning_adapt.dynamics.engines import prepare
from lightning_adapt.dynamics.probe import DynamicsProbe
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.dynamics.update_rules import rule_for
from lightning_adapt.views.scalars import ScalarPlan, key

Ledger = Mapping[str, int]


#: Fewer tags than this, and the monitor's own two are left out.
_ROOM = 10


class Session:
    """Watches the optimizers of one run.

    Args:
        trainer: Of the run.
        module: What it trains.
        every: Read every n-th batch that steps.
        share: Most of the step time that readings may take, or ``None``.
        worst: Parameters listed for each of the worst-of scalars.
        max_tags: Most scalars logged.
        probe: Options of `DynamicsProbe`.
        on_fault: Told when a probe has failed.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        *,
        every: int,
        share: float | None,
        worst: int,
        max_tags: int,
        probe: Mapping[str, Any],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._trainer, self._module = trainer, module
        self._worst, self._share = worst, share
        self._max_tags = max_tags
        self._probe, self._on_fault = probe, on_fault
        self._began = _trainer.batch_step(trainer)
        self._budget = Budget(every, share)
        self._told = False
        self._written = 0.0  # seconds of the writer that the budget knows
        self._last = 0  # step of the last table
        self.watches: list[Watch] = []
        self._output: Output | None = None

    def begin(self, ledgers: Mapping[str, Ledger], refuse: Callable[[str], None]) -> None:
        """Put every optimizer under watch.

        Args:
            ledgers: Steps counted so far, by optimizer.
            refuse: Told, in a sentence, why an optimizer cannot be watched.
        """
        for label, optimizer in _trainer.labelled(self._trainer):
            sentence = _trainer.why_not_optimizer(optimizer, label)
            if sentence:
                refuse(sentence)
            else:
                self.watches.append(self._watch(optimizer, label, ledgers.get(label, {})))
        if self.watches:
            line = prepare(self._probe["engine"], self._module.device, rank_zero_info)
            rank_zero_info(f"OptimizerDynamicsMonitor: every {self._budget.every} steps, {line}")
            self._output = Output(self._trainer)
        self._budget.start()

    def _watch(self, optimizer: Any, label: str, ledger: Ledger) -> Watch:
        if rule_for(optimizer) is None:
            rank_zero_warn(
                f"OptimizerDynamicsMonitor: no update rule for {label}: only gradients, parameters and "
                "measured updates are shown; teach it with lightning_adapt.dynamics.register_rule"
            )
        probe = DynamicsProbe(optimizer, self._module, **self._probe)
        probe.on_step, probe.on_fault = None, self._on_fault
        probe.restore(ledger)
        every = self._budget.every
        watch = Watch(label, probe.attach(), every, (self._began // every + 1) * every)
        if not self._module.automatic_optimization:  # a raw optimizer's step is not announced by Lightning
            probe.on_step = partial(watch.arm_when_due, self._trainer, announced=False)
        return watch

    def watch_of(self, optimizer: Any) -> Watch | None:
        """The watch of an optimizer of Lightning's or torch's."""
        inner = _trainer.unwrap(optimizer)
        return next((watch for watch in self.watches if watch.probe.optimizer is inner), None)

    def ledgers(self) -> dict[str, dict[str, int]]:
        """Steps taken and skipped so far, by optimizer."""
        return {watch.label: watch.probe.ledger() for watch in self.watches}

    def batch_end(self, *, stepped: bool) -> None:
        """A batch is over.

        Args:
            stepped: Whether a step that was announced but never came was skipped by the gradient scaler; a
                training_step that returns None makes no step.
        """
        for watch in self.watches:
            watch.missing_step(self._trainer, skipped=stepped)

    def emit(self, *, wait: bool = False) -> Iterator[DynamicsTable]:
        """Write the tables that have arrived, and hand them out.

        Args:
            wait: Wait for those still on their way.
        """
        started = perf_counter()
        found = [(watch, table) for watch in self.watches for table in watch.probe.collect(wait=wait)]
        if found:
            written = 0.0 if self._output is None else self._output.seconds
            cost = sum(table.cost_s or 0.0 for _, table in found) + written - self._written
            self._written = written
            self._budget.add(cost + perf_counter() - started)
        for index, (watch, table) in enumerate(found):
            started = perf_counter()
            if self._output is not None:
                costs = self._costs(self._output) if index == 0 else {}
                self._output.write(table, self._plan(watch, table), costs)
            self._last = table.step
            self._budget.spend(perf_counter() - started)
            yield table

    def keep_budget(self) -> None:
        """Read less often when readings take more than their share."""
        before = self._budget.every
        every = self._budget.interval(_trainer.batch_step(self._trainer) + 1 - self._began)
        if every == before:
            return
        for watch in self.watches:
            watch.lengthen(every)
        if not self._told:
            self._told = True
            rank_zero_info(
                f"OptimizerDynamicsMonitor: a reading every {before} steps takes more than the budget of "
                f"{self._share:.2%}; from now on every {every} steps, and less often still if need be"
            )

    def drain(self) -> None:
        """Wait until everything is written, and tell what was not."""
        if self._output is None:
            return
        self._output.drain()
        if self._output.dropped:
            self._output.tell(self._costs(self._output), self._last)
            rank_zero_warn(
                f"OptimizerDynamicsMonitor: {self._output.dropped} readings are not in TensorBoard, which "
                "could not be written as fast; read less often, or log to a faster disk"
            )

    def end(self) -> None:
        """Let go of the optimizers."""
        for watch in self.watches:
            watch.probe.detach()

    def _costs(self, output: Output) -> dict[str, float]:
        """Scalars about the monitor itself; there is no room for them among a handful of tags."""
        if self._max_tags < _ROOM:
            return {}
        return {
            key("monitor", "overhead_frac"): self._budget.overhead_frac(),
            key("monitor", "dropped_readings"): float(output.dropped),
        }

    def _plan(self, watch: Watch, table: DynamicsTable) -> ScalarPlan:
        several = len(self.watches) > 1
        prefix = key("dynamics", watch.label) if several else "dynamics"
        room = self._max_tags - (2 if self._max_tags >= _ROOM else 0)
        return watch.plan_for(table, prefix=prefix, worst=self._worst, max_tags=room // len(self.watches))
