"""The judging of one run: tables and notes come in, findings go out."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_adapt.callbacks._black_box import BlackBox
from lightning_adapt.callbacks._guard import Guard
from lightning_adapt.callbacks._health_outlet import NAME, HealthOutlet, HealthWarning
from lightning_adapt.callbacks._notes import Flight, Notes
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health import Finding, Judge

MOST_WAITING = 1024
"""Batches noted while no table comes, before they are sent to the host."""


class HealthSession:
    """Judges the tables of one run.

    Args:
        trainer: Of the run.
        module: What it trains.
        judge: Goes on from what it knows.
        box: Keeps the last tables.
        folder: For its dumps; ``None`` where there is no place for them.
        guard: Runs what is done inside optimizer steps.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        judge: Judge,
        box: BlackBox,
        folder: Path | None,
        guard: Guard,
    ) -> None:
        self._trainer, self._judge, self._box, self._folder = trainer, judge, box, folder
        self._notes = Notes(trainer, module, guard)
        self._outlet = HealthOutlet(trainer)
        self._queue: deque[DynamicsTable] = deque()
        self._pending: deque[tuple[Flight, list[DynamicsTable]]] = deque()
        self._tables, self._step = 0, 0
        self._told = False
        self.critical: list[Finding] = []
        """Critical findings that nobody has acted on."""

    def queue(self, table: DynamicsTable) -> None:
        """Take a table; it is judged later, outside of whoever read it."""
        self._queue.append(table)

    def before_backward(self) -> None:
        """A backward pass is about to begin."""
        self._notes.before_backward()

    def batch_end(self, outputs: Any) -> None:
        """A batch is over: note it, and judge what has arrived."""
        self._notes.batch_end(outputs)
        self.work()

    def work(self, *, wait: bool = False) -> None:
        """Judge what has arrived.

        Args:
            wait: Wait for what is on its way.
        """
        if self._queue or self._notes.waiting >= MOST_WAITING or (wait and self._notes.waiting):
            self._pending.append((self._notes.send(), list(self._queue)))
            self._queue.clear()
        while self._pending and (wait or self._pending[0][0].numbers.ready()):
            flight, tables = self._pending.popleft()
            lost, dumped = self._notes.arrive(flight), self._box.dumped
            for table in tables:
                self._judge_one(table)
            if lost is not None:
                self._tell_loss(*lost, dump=self._box.dumped == dumped)

    def finish(self) -> None:
        """Judge all there is, and sum up."""
        self.work(wait=True)
        self._outlet.sum_up(self._judge.findings, self._tables, self._step)

    def end(self) -> None:
        """Let go of the optimizers."""
        self._notes.end()

    def _judge_one(self, table: DynamicsTable) -> None:
        self._box.add(table)
        self._tables, self._step = self._tables + 1, table.step
        news = self._judge.see(table, self._notes.facts(table))
        self._outlet.tell(news, self._judge.open, table.step)
        critical = [f for f in news if f.severity == "critical" and f.ended_at is None]
        if critical:
            self.critical += critical
            self._dump(critical[0].rule, critical[0].first_step)

    def _tell_loss(self, step: int, loss: float, *, dump: bool) -> None:
        rank_zero_warn(f"{NAME}: the loss is {loss} at step {step}", category=HealthWarning)
        if dump:  # not for a finding that says the same
            self._dump("loss is not finite", step)

    def _dump(self, reason: str, step: int) -> None:
        if self._box.full:
            return
        if self._folder is None:
            if not self._told:
                rank_zero_info(f"{NAME}: no log folder, the last tables are not written; pass `folder`")
            self._told = True
            return
        losses = [[at, str(loss)] for at, loss in self._notes.losses]
        about = {"precision": str(self._trainer.precision), "losses": losses}
        place = self._box.dump(self._folder, reason, step, self._judge.findings, about)
        rank_zero_info(f"{NAME}: the last tables are in {place}; `lightning-adapt inspect` reads them")
