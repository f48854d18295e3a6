"""The report at the end of a training: where it goes, and what is wrong with that at the beginning."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_adapt.callbacks import _trainer

Wanted = bool | str | os.PathLike[str]
NAME = "report.html"


def check(report: object) -> None:
    """Check the argument ``report`` of the monitor.

    Raises:
        ValueError: If it is neither a flag nor the path of a file.
    """
    if isinstance(report, bool):
        return
    if not isinstance(report, str | os.PathLike) or not os.fspath(report) or Path(report).is_dir():
        raise ValueError(
            f"`report` must be True, False or the path of a file, got {report!r}; True writes {NAME} into "
            "the run's folder"
        )


@dataclass(frozen=True)
class ReportPlan:
    """A report that is to be written when the training is over.

    Args:
        board: The logger whose event file it reads.
        path: The file.
    """

    board: Any
    path: Path

    @classmethod
    def of(cls, report: Wanted, trainer: Trainer) -> ReportPlan:
        """Plan it, at the beginning.

        Raises:
            ValueError: If it could not be written; the text says the remedy.
            FileNotFoundError: If plotly is not installed.
        """
        boards, _ = _trainer.split_loggers(trainer)
        if not boards:
            raise ValueError(
                "`report` needs a TensorBoardLogger, whose event file it shows; add one to the Trainer"
            )
        from lightning_adapt.views.tab.static_files import plotly_js

        plotly_js()
        path = Path(boards[0].log_dir, NAME) if isinstance(report, bool) else Path(report)
        return cls(boards[0], path.absolute())

    def write(self) -> None:
        """Write it; all tables must have been written before."""
        from lightning_adapt.health.offline import values_found
        from lightning_adapt.views.report import write_report

        self.board.experiment.flush()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_report([self.board.log_dir], self.path, judge=values_found)
        rank_zero_info(f"OptimizerDynamicsMonitor: the report of this run is {self.path}")
