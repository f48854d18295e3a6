"""The judging of one run: tables and notes come in, findings go out."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_adapt.callbacks import _trainer
from lightning_adapt.callbacks._black_box import BlackBox
from lightning_adapt.callbacks._guard import Guard
from lightning_adapt.callbacks._health_outlet import NAME, HealthOutlet
from lightning_adapt.callbacks._notes import Flight, Notes
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health import Finding, Judge

MOST_WAITING = 1024
"""Batches noted while no table comes, before they are sent to the host."""

_UNDER_A_SCALER = 3
"""Losses that are not finite in a row before they mean something, where the scaler skips such steps."""


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
        self._pending: deque[tuple[DynamicsTable | None, Flight]] = deque()
        self._tables, self._step = 0, 0
        self._lost = False  # the loss is not finite, and that was told
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
        while self._queue:
            self._pending.append((self._queue.popleft(), self._notes.send()))
        if self._notes.waiting >= MOST_WAITING or (wait and self._notes.waiting):
            self._pending.append((None, self._notes.send()))
        while self._pending and (wait or self._pending[0][1].numbers.ready()):
            table, flight = self._pending.popleft()
            self._judge_one(table, flight)

    def finish(self) -> None:
        """Judge all there is, and sum up."""
        self.work(wait=True)
        self._outlet.sum_up(self._judge.findings, self._tables, self._step)

    def end(self) -> None:
        """Let go of the optimizers."""
        self._notes.end()

    # --- one table ---

    def _judge_one(self, table: DynamicsTable | None, flight: Flight) -> None:
        facts = self._notes.facts(flight, table)
        critical: list[Finding] = []
        if table is not None:
            self._box.add(table)
            self._tables, self._step = self._tables + 1, table.step
            news = self._judge.see(table, facts)
            critical = [f for f in news if f.severity == "critical" and f.ended_at is None]
            self._outlet.tell(news, self._judge.open, table.step)
        self.critical += critical
        most = 1 if _trainer.loss_scale(self._trainer) is None else _UNDER_A_SCALER
        lost, self._lost = self._lost, self._notes.nonfinite >= most
        if critical:
            self._dump(critical[0].rule, critical[0].first_step)
        elif self._lost and not lost:
            step, loss = self._notes.losses[-1]
            rank_zero_warn(f"{NAME}: the loss is {loss} at step {step}")
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
