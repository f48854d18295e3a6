"""Who is told what was found: the terminal, TensorBoard, every logger."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_adapt.callbacks import _trainer
from lightning_adapt.health import Finding
from lightning_adapt.views.findings import counted, in_lines, print_findings
from lightning_adapt.views.scalars import key

NAME = "OptimizerHealthMonitor"


class HealthWarning(UserWarning):
    """Something is likely wrong with the training."""


class HealthOutlet:
    """Tells the findings of one run.

    Args:
        trainer: Of the run.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        boards, _ = _trainer.split_loggers(trainer)
        self._views: list[Any] = []
        if boards:
            from lightning_adapt.views.alerts import AlertsView

            self._views = [AlertsView(board.experiment) for board in boards]

    def tell(self, news: Sequence[Finding], holding: Sequence[Finding], step: int) -> None:
        """Tell what began and ended with a table, and log how many findings hold.

        Args:
            news: Findings that began or ended.
            holding: All that hold.
            step: Of the table.
        """
        values = [finding.to_dict() for finding in holding]
        scalars = {key("health", severity): float(n) for severity, n in counted(values).items()}
        _trainer.log_metrics(self._trainer.loggers, scalars, step)
        _trainer.remember(self._trainer, scalars)
        if not news:
            return
        fresh = [finding.to_dict() for finding in news]
        for view in self._views:
            view.write(fresh, values, step)
        for severity, line in in_lines(fresh):
            if severity == "info":
                rank_zero_info(f"{NAME}: {line}")
            else:
                rank_zero_warn(f"{NAME}: {severity}: {line}", category=HealthWarning)

    def sum_up(self, findings: Sequence[Finding], tables: int, step: int) -> None:
        """The end: write how long findings held, and print all of them.

        Args:
            findings: All there are.
            tables: How many were judged.
            step: Of the last of them.
        """
        values = [finding.to_dict() for finding in findings]
        for view in self._views:  # how long they held
            view.write_events([finding for finding in values if finding["ended_at"] is None], step)
        if not tables:
            rank_zero_info(f"{NAME}: no table was read; `every_n_steps` says how often they are")
        elif not values:
            rank_zero_info(f"{NAME}: nothing was found in {tables} tables")
        elif find_spec("rich") is not None:
            from rich.console import Console

            print_findings(values, console=Console(stderr=True))
        else:
            for severity, line in in_lines([finding for finding in values if finding["ended_at"] is None]):
                rank_zero_info(f"{NAME}: holds at the end: {severity}: {line}")
