"""OptimizerHealthMonitor: says what is wrong with a training, why, and what to do."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adapt._text import unknown_name, whole_number
from lightning_adapt.callbacks import _trainer
from lightning_adapt.callbacks._black_box import BlackBox
from lightning_adapt.callbacks._guard import Guard
from lightning_adapt.callbacks._health_outlet import NAME
from lightning_adapt.callbacks._health_session import HealthSession
from lightning_adapt.callbacks.dynamics_monitor import OptimizerDynamicsMonitor
from lightning_adapt.health import Finding, Judge

ACTIONS = ("warn", "stop", "raise")


class CriticalFindingError(RuntimeError):
    """A critical finding, raised by ``OptimizerHealthMonitor(on_critical="raise")``."""


class OptimizerHealthMonitor(Callback):
    """Judge the optimizer's dynamics while it trains: what is wrong, why, and what to do.

    It looks at the tables of the `OptimizerDynamicsMonitor` in the trainer's callbacks, wherever in the list
    that is, or brings one of its own where there is none; nothing is measured twice. A finding is told once
    when it begins, and once when it is over: in the terminal, in TensorBoard's Text tab, and as an event that
    `lightning_adapt.read_findings` reads back. ``health/critical``, ``health/warning`` and ``health/info``
    count those that hold. At the end of ``fit`` all are listed.

    The last tables are kept, and written to a folder of their own (with all findings) when a critical finding
    begins or the loss turns inf or NaN (under a gradient scaler: three times in a row);
    ``lightning-adapt inspect`` reads such a folder. What the monitor knows goes into checkpoints, and a
    resumed run goes on. Nothing of the training changes unless ``on_critical`` acts, and a fault in the
    monitor never ends it.

    Args:
        rules: ``"default"``, rules, or a mapping of changes to the default ones, such as
            ``{"epsilon-floor": {"threshold": 0.2}, "spike-warning": false}``; see
            `lightning_adapt.health.Judge`.
        on_critical: What to do when a critical finding begins: ``"warn"`` only tells, ``"stop"`` ends the
            training as early stopping does, ``"raise"`` raises `CriticalFindingError`. With several processes
            these two act at the reading that follows.
        keep: Last tables kept of each optimizer.
        dumps: Most folders written, 0 for none.
        folder: Where they are made; ``None`` takes ``health_dumps`` in the trainer's log folder.
        every_n_steps: How often the monitor reads that it brings; one in the list keeps its own.
        strict: Let a fault in the monitor end the training instead of switching the monitor off.

    Raises:
        ValueError: If an argument is out of range or a rule is not known.

    Example:
        >>> monitor = OptimizerHealthMonitor(on_critical="stop")  # Trainer(callbacks=[monitor])
        >>> monitor.findings
        []
    """

    def __init__(
        self,
        rules: str | list[Any] | dict[str, Any] = "default",
        *,
        on_critical: Literal["warn", "stop", "raise"] = "warn",
        keep: int = 16,
        dumps: int = 3,
        folder: str | os.PathLike[str] | None = None,
        every_n_steps: int | None = None,
        strict: bool = False,
    ) -> None:
        if on_critical not in ACTIONS:
            raise ValueError(unknown_name("on_critical", on_critical, ACTIONS))
        whole_number("keep", keep, 1, "leave it out for 16")
        whole_number("dumps", dumps, 0, "0 writes none")
        self._own = OptimizerDynamicsMonitor(every_n_steps, strict=strict)
        self._rules, self._on_critical, self._strict = rules, on_critical, strict
        self._keep, self._dumps, self._folder = keep, dumps, folder
        self._judge, self._dumped = self._new_judge(), 0
        self._seen: weakref.ref[Trainer] | None = None
        self._source: OptimizerDynamicsMonitor | None = None
        self._box: BlackBox | None = None
        self._session: HealthSession | None = None
        self._guard = Guard(NAME)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: what was found, but nothing that belongs to the run."""
        gone = dict.fromkeys(("_seen", "_source", "_box", "_session"))
        return {**self.__dict__, **gone, "_guard": Guard(NAME), "_dumped": self._count_of_dumps()}

    def _new_judge(self) -> Judge:
        return Judge(self._rules, on_fault=_tell_fault)

    @property
    def findings(self) -> list[Finding]:
        """All findings so far, oldest first; ``ended_at`` is ``None`` while one holds."""
        return list(self._judge.findings)

    # --- Lightning's hooks ---

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self._seen is None or self._seen() is not trainer:
            # Another run: what was found belongs to the last one.
            self._seen = weakref.ref(trainer)
            self._judge, self._dumped, self._box = self._new_judge(), 0, None
        listed = [c for c in trainer.callbacks if isinstance(c, OptimizerDynamicsMonitor)]  # type: ignore[attr-defined]
        # One that attached itself steps back where another is listed.
        self._source = min(listed, key=lambda monitor: monitor._by_itself, default=self._own)
        self._own_does("setup", trainer, pl_module, stage)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._own_does("on_fit_start", trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()
        self._own_does("on_train_start", trainer, pl_module)
        log_dir = trainer.log_dir if trainer.loggers else None  # every rank takes part in finding it
        if not trainer.is_global_zero:
            return
        self._guard = Guard(NAME, strict=self._strict, clean_up=self._end)
        place = Path(self._folder) if self._folder else Path(log_dir) / "health_dumps" if log_dir else None
        self._box = BlackBox(self._keep, self._dumps, self._count_of_dumps())
        begin = partial(HealthSession, trainer, pl_module, self._judge, self._box, place, self._guard)
        self._session = self._guard(begin)
        if self._session is not None and self._source is not None:
            self._source.listeners.append(self._session.queue)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._session is not None:
            self._guard(self._session.before_backward)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._own_does("on_before_optimizer_step", trainer, pl_module, optimizer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._own_does("on_train_batch_end", trainer, pl_module, outputs, batch, batch_idx)
        if self._session is not None:
            self._guard(partial(self._session.batch_end, outputs))
        self._act(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        critical = self._finish()
        if self._on_critical == "raise" and _trainer.any_rank(trainer, bool(critical)):
            raise CriticalFindingError(_sentence(critical))

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._finish()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._own_does("teardown", trainer, pl_module, stage)
        self._end()

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let the monitor it brought go on from one that was listed when the checkpoint was made."""
        self._own_does("on_load_checkpoint", trainer, pl_module, checkpoint)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Windows, counters and findings; waits for tables that are on their way."""
        if self._session is not None and self._source is not None:
            self._source.flush()
            self._guard(partial(self._session.work, wait=True))
        # Not under the key of the monitor it brought: Lightning would want that among the callbacks.
        ledgers = self._own._current_ledgers() if self._source is self._own else {}
        return {"judge": self._judge.state_dict(), "dumps": self._count_of_dumps(), "ledgers": ledgers}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on judging where the saved run was."""
        self._dumped, self._box = int(state_dict.get("dumps", 0)), None
        self._own._ledgers.update(state_dict.get("ledgers", {}))
        judge = self._new_judge()
        try:
            judge.load_state_dict(state_dict["judge"])
        except Exception as error:  # such as one of another version
            if self._strict:
                raise
            _tell_fault(
                f"what it knew could not be read from the checkpoint, {type(error).__name__}: {error}; "
                "it begins anew"
            )
        else:
            self._judge = judge

    # --- what they do ---

    def _own_does(self, hook: str, *arguments: Any) -> None:
        if self._source is self._own:
            getattr(self._own, hook)(*arguments)

    def _count_of_dumps(self) -> int:
        return self._dumped if self._box is None else self._box.dumped

    def _act(self, trainer: Trainer) -> None:
        """Stop or raise, if there is a critical finding and that was asked for."""
        critical = self._session.critical if self._session is not None else []
        if self._on_critical == "warn":
            critical.clear()
            return
        several = trainer.world_size > 1
        if several and not self._due(trainer):
            return
        # Only rank 0 has tables; what follows concerns all.
        if not (_trainer.any_rank(trainer, bool(critical)) if several else critical):
            return
        sentence = _sentence(critical)
        critical.clear()
        if self._on_critical == "raise":
            raise CriticalFindingError(sentence)
        rank_zero_info(f"{NAME} stops the training: {sentence}")
        trainer.should_stop = True

    def _due(self, trainer: Trainer) -> bool:
        every = (self._source and self._source._every_n_steps) or _trainer.cadence(trainer)
        return bool(every) and (_trainer.batch_step(trainer) + 1) % every == 0

    def _finish(self) -> list[Finding]:
        """The end of a training: read and judge what there is. Returns critical findings not acted on."""
        critical: list[Finding] = []
        if self._source is not None:
            self._source.finish()  # its tables first, whoever comes first in the list
        if self._session is not None:
            self._guard(self._session.finish)
        if self._session is not None:
            critical = self._session.critical
        self._end()
        return critical

    def _end(self) -> None:
        if self._session is not None:
            self._session.end()
            listener: Callable[..., None] = self._session.queue
            if self._source is not None and listener in self._source.listeners:
                self._source.listeners.remove(listener)
        self._session = None


def _sentence(critical: list[Finding]) -> str:
    if not critical:
        return "a critical finding on the first process, which says what"
    first = critical[0]
    more = f" ({len(critical) - 1} more critical findings)" if len(critical) > 1 else ""
    return f"{first.rule} at step {first.first_step}: {first.sentence}; {first.remedy}{more}"


def _tell_fault(sentence: str) -> None:
    rank_zero_warn(f"{NAME}: {sentence}", category=RuntimeWarning)
