"""OptimizerDynamicsMonitor: reads the optimizer's dynamics while Lightning trains, and logs them."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer
from typing_extensions import Self, override

from lightning_adapt._text import whole_number
from lightning_adapt.callbacks import _trainer
from lightning_adapt.callbacks._report import ReportPlan, check
from lightning_adapt.callbacks._session import Session
from lightning_adapt.dynamics.engines import find_engine
from lightning_adapt.dynamics.row_groups import Groups, RowGroups
from lightning_adapt.dynamics.table import DynamicsTable


class OptimizerDynamicsMonitor(Callback):
    """Log what the optimizer does to every parameter: effective learning rates, moments, epsilon floor.

    At the trainer's logging cadence, right after an optimizer stepped, its state, gradients and update
    become a `DynamicsTable`. A fixed set of at most ``max_tags`` scalars goes to every logger:

    - ``dynamics/{statistic}``: rolled up over all parameters;
    - ``dynamics/{group}/{statistic}``: over each parameter group, when there are several;
    - ``dynamics/worst/{statistic}_{rank}``: the worst parameters by ``eps_floor_frac`` and ``update_ratio``;
    - ``dynamics/{real_steps,skipped_steps,global_step,loss_scale}``: under a gradient scaler.

    With several optimizers ``dynamics`` becomes ``dynamics/{optimizer}``. A TensorBoard logger also gets the
    whole table (read it back with `lightning_adapt.read_dynamics`), log10 histograms, margin charts of the
    effective learning rate and a text page of the worst parameters.

    The training is not changed by a single bit, and a fault in the monitor never ends it.

    Args:
        every_n_steps: Read every n-th batch that steps; ``None`` takes the trainer's ``log_every_n_steps``.
        history: Tables kept in memory, see `history`; ``None`` keeps all.
        histograms: Count histograms; without them the quantile columns are NaN.
        snapshot: Measure ``update`` from a copy of the parameters, made for steps that are read only;
            ``False`` predicts it from the optimizer's state without a copy; ``None`` measures in small
            models, and in large ones where a prediction would not be exact.
        row_groups: Parameters to show as several rows, such as the rare and the frequent words of an
            embedding: ``{"embed.weight": {"rare": indices}}``; see `lightning_adapt.dynamics.RowGroups`.
        worst: Parameters listed for each of the two worst-of scalars.
        max_tags: Most scalars logged, over all optimizers.
        engine: ``"auto"``, or a name out of `lightning_adapt.dynamics.engines.ENGINES`.
        budget: Most of the step time that readings may take, such as 0.01: the monitor measures what it costs
            and reads less often when that is more. ``None`` keeps to ``every_n_steps``.
        report: Write a page with all views and a summary when the training is over: ``True`` as
            ``report.html`` into the run's folder, or to the path of a file. It needs a TensorBoard logger,
            and takes some seconds after the last step; see ``lightning-adapt report``.
        strict: Let a fault in the monitor end the training instead of switching the monitor off.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> monitor = OptimizerDynamicsMonitor(every_n_steps=10)  # Trainer(callbacks=[monitor])
        >>> monitor.latest is None  # until the tenth batch
        True
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        history: int | None = 16,
        histograms: bool = True,
        snapshot: bool | None = None,
        row_groups: Mapping[str, Groups] | None = None,
        worst: int = 3,
        max_tags: int = 100,
        engine: str = "auto",
        budget: float | None = None,
        report: bool | str | os.PathLike[str] = False,
        strict: bool = False,
    ) -> None:
        if every_n_steps is not None:
            whole_number("every_n_steps", every_n_steps, 1, "None takes the trainer's log_every_n_steps")
        if history is not None:
            whole_number("history", history, 1, "None keeps all tables")
        whole_number("worst", worst, 0, "leave it out for 3")
        whole_number("max_tags", max_tags, 1, "leave it out for 100")
        if budget is not None and not 0 < budget <= 1:
            raise ValueError(
                f"`budget` must be a share of the step time above 0 and up to 1, got {budget}; 0.01 is 1 %"
            )
        check(report)
        find_engine(engine)
        RowGroups(row_groups or {})  # bad groups are told now; whether they fit, when parameters are known
        self._every_n_steps = every_n_steps
        self._options: dict[str, Any] = {
            "engine": engine,
            "histograms": histograms,
            "snapshot": snapshot,
            "row_groups": row_groups,
            "strict": strict,
        }
        self._worst, self._max_tags, self._strict = worst, max_tags, strict
        self._budget, self._report = budget, report
        self._plan: ReportPlan | None = None
        self._tables: deque[DynamicsTable] = deque(maxlen=history)
        self.listeners: list[Callable[[DynamicsTable], None]] = []
        """Called with every table when it has arrived; they belong to the run and are not copied."""
        self._session: Session | None = None
        self._seen: weakref.ref[Trainer] | None = None
        self._ledgers: dict[str, dict[str, int]] = {}
        self._off = False
        self._by_itself = False

    @classmethod
    def _attached_by_itself(cls) -> Self:
        monitor = cls()
        monitor._by_itself = True
        return monitor

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: what was read and counted, but nothing that belongs to the run."""
        return {**self.__dict__, "_seen": None, "_session": None, "_plan": None, "listeners": []}

    # --- what was read ---

    @property
    def latest(self) -> DynamicsTable | None:
        """The last table read, ``None`` before the first."""
        return self._tables[-1] if self._tables else None

    @property
    def history(self) -> tuple[DynamicsTable, ...]:
        """The last tables read, oldest first; as many as ``history`` allows."""
        return tuple(self._tables)

    # --- Lightning's hooks ---

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        others = [c for c in trainer.callbacks if isinstance(c, type(self)) and c is not self]  # type: ignore[attr-defined]
        self._off = self._by_itself and bool(others)
        if self._off or stage != "fit":
            return
        if self._seen is None or self._seen() is not trainer:
            # Another run: what was read and counted belongs to the last one.
            self._seen, self._ledgers = weakref.ref(trainer), {}
            self._tables.clear()
        sentence = _trainer.why_not(trainer)
        if sentence:
            self._refuse(sentence)
        elif not trainer.loggers:
            rank_zero_info(
                "OptimizerDynamicsMonitor: the Trainer has no logger; tables stay in memory, see `latest`"
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The module's `setup` and `configure_model`, which may make parameters, come after our `setup`.
        groups = self._options["row_groups"]
        if groups and not self._off:
            RowGroups(groups, {name: tuple(p.shape) for name, p in pl_module.named_parameters()})

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        self._plan = None
        every = self._every_n_steps or _trainer.cadence(trainer)
        if self._off or not trainer.is_global_zero or not every:
            self._ledgers = {}  # who does not count on has nothing to save
            return
        self._session = Session(
            trainer,
            pl_module,
            every=every,
            share=self._budget,
            worst=self._worst,
            max_tags=self._max_tags,
            probe=self._options,
            on_fault=self._fault,
        )
        self._guarded(lambda session: session.begin(self._ledgers, lambda why: self._refuse(why, off=False)))
        if self._report:
            self._report_guarded(lambda: self._plan_report(trainer))

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        watch = self._session.watch_of(optimizer) if self._session is not None else None
        if watch is not None:
            if not watch.probe.stepping:  # inside step() the closure announces, for LBFGS many times
                self._guarded(lambda _: watch.missing_step(trainer, skipped=True))
            watch.announced_at = watch.probe.steps
            self._guarded(lambda _: watch.arm_when_due(trainer, announced=True))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A training_step that returns None makes no step; that is no skip of the gradient scaler's.
        nothing = pl_module.automatic_optimization and not outputs
        self._guarded(lambda session: session.batch_end(stepped=not nothing))
        self._guarded(lambda session: self._take(session.emit()))
        if self._budget is not None:
            self._guarded(lambda session: session.keep_budget())

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.finish()
        self._write_report()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()
        self._write_report()  # after all callbacks have written what they have at the end of a training

    # The ledgers belong to the run, not to the monitor's options: whoever resumes it goes on counting. Were
    # they its `state_dict`, Lightning would demand a key of its own, which could only be its options.
    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the step ledgers by optimizer: numbers and strings only."""
        ledgers = self._current_ledgers()
        if ledgers:
            checkpoint.setdefault("callbacks", {})[self.state_key] = {"ledgers": ledgers}

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting from the saved ledgers."""
        saved = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("ledgers", {})
        self._ledgers = {label: dict(ledger) for label, ledger in saved.items()}

    # --- tables on their way ---

    def _take(self, tables: Iterable[DynamicsTable]) -> None:
        for table in tables:
            self._tables.append(table)
            for listener in self.listeners:
                listener(table)

    def flush(self) -> None:
        """Wait for tables that are on their way."""
        self._guarded(lambda session: self._take(session.emit(wait=True)))

    # --- the end ---

    def finish(self) -> None:
        """Wait for tables, write everything, and let go of the run; training ends with it by itself."""
        self.flush()
        self._guarded(lambda session: session.drain())
        self._end()

    def _end(self) -> None:
        self._ledgers = self._current_ledgers()
        if self._session is not None:
            self._session.end()
        self._session = None  # kept, it would write the next run into this one's folder

    def _current_ledgers(self) -> dict[str, dict[str, int]]:
        return {**self._ledgers, **(self._session.ledgers() if self._session is not None else {})}

    # --- the report ---

    def _plan_report(self, trainer: Trainer) -> None:
        self._plan = ReportPlan.of(self._report, trainer)

    def _write_report(self) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            self._report_guarded(plan.write)

    def _report_guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            if self._strict:
                raise
            rank_zero_warn(
                f"OptimizerDynamicsMonitor writes no report: {type(error).__name__}: {error}. Nothing else "
                "is lost: `lightning-adapt report` makes one of the run's folder",
                category=RuntimeWarning,
            )

    # --- faults ---

    def _guarded(self, action: Callable[[Session], object]) -> None:
        """Do something with the session, if there is one; a fault in it must not end the training."""
        if self._session is None:
            return
        try:
            action(self._session)
        except Exception as error:
            if self._strict:
                raise
            self._fault(error)

    def _fault(self, error: Exception) -> None:
        self._off = True
        session, self._session, self._ledgers = self._session, None, {}
        if session is not None:
            session.end()
            with suppress(Exception):  # one fault is told
                session.drain()
        rank_zero_warn(
            f"OptimizerDynamicsMonitor switched itself off after a fault: {type(error).__name__}: {error}. "
            "Training goes on unwatched; pass strict=True to see the traceback.",
            category=RuntimeWarning,
        )

    def _refuse(self, sentence: str, *, off: bool = True) -> None:
        if self._strict:
            raise MisconfigurationException(sentence)
        rank_zero_warn(f"{sentence}. Training goes on" + (" unwatched." if off else " without watching it."))
        self._off = self._off or off
