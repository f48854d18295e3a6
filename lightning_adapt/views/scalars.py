"""Log keys: the few scalars that stand for a whole table, a fixed set for a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.views.rollup import summaries, worst

GLOBAL_COLUMNS: tuple[str, ...] = (
    "effective_lr_p05",
    "effective_lr_p50",
    "effective_lr_p95",
    "eps_floor_frac",
    "eps_floor_untouched_frac",
    "eps_floor_underflow_frac",
    "eps_floor_small_frac",
    "eps_share_mean",
    "grad_rms",
    "grad_nonfinite_frac",
    "first_moment_rms",
    "second_moment_rms",
    "second_moment_zero_frac",
    "update_rms",
    "update_ratio",
    "update_lost_frac",
    "update_grad_cosine",
    "decay_rms",
    "param_rms",
    "rms_t",
    "snr_mean",
)
GROUP_COLUMNS: tuple[str, ...] = (
    "effective_lr_p50",
    "eps_floor_frac",
    "update_ratio",
    "effective_lr_p05",
    "effective_lr_p95",
    "grad_rms",
)
WORST_COLUMNS: tuple[str, ...] = ("eps_floor_frac", "update_ratio")
LEDGER: tuple[str, ...] = ("real_steps", "skipped_steps", "global_step", "loss_scale")

_STEP = frozenset(
    {"effective_lr_p05", "effective_lr_p50", "effective_lr_p95", "decay_rms", "update_lost_frac"}
)
_FIRST_MOMENT = frozenset({"first_moment_rms", "snr_mean"})
_SECOND_MOMENT = frozenset(
    c for c in GLOBAL_COLUMNS if c.startswith(("eps_", "second_moment")) or c in ("rms_t", "snr_mean")
)


def key(prefix: str, *parts: str) -> str:
    """The one place where a log key is put together.

    Example:
        >>> key("dynamics", "decay", "update_ratio")
        'dynamics/decay/update_ratio'
    """
    return "/".join((prefix, *parts))


@dataclass(frozen=True)
class ScalarPlan:
    """Which scalars a run logs; made from its first table and never changed.

    Args:
        prefix: ``"dynamics"``, or ``"dynamics/<optimizer>"`` when there are several optimizers.
        overall: Statistics rolled up over all parameters.
        groups: Parameter groups that get scalars of their own.
        per_group: Statistics rolled up over each of them.
        worst: How many of the worst parameters, for each of `WORST_COLUMNS`.
        ledger_names: Which of `LEDGER` are logged under a gradient scaler.
    """

    prefix: str
    overall: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    per_group: tuple[str, ...] = ()
    worst: int = 0
    ledger_names: tuple[str, ...] = LEDGER

    @classmethod
    def of(cls, table: DynamicsTable, *, prefix: str, worst: int, max_tags: int) -> ScalarPlan:
        """Plan at most ``max_tags`` scalars for tables like ``table``.

        Statistics that its optimizer has no notion of are left out. Groups get as many statistics as there
        is room for; when not even one fits, they get none.
        """
        absent: set[str] = set()
        if np.isnan(table["effective_lr_max"]).all():
            absent |= _STEP  # no update rule
        if np.isnan(table["first_moment_rms"]).all():
            absent |= _FIRST_MOMENT
        if np.isnan(table["second_moment_rms"]).all():
            absent |= _SECOND_MOMENT
        if table.histograms is None:
            absent |= {"effective_lr_p05", "effective_lr_p50", "effective_lr_p95"}
        ledger = LEDGER[:max_tags]
        room = max_tags - (len(ledger) if table.loss_scale is not None else 0)
        overall = tuple(c for c in GLOBAL_COLUMNS if c not in absent)[:room]
        room -= len(overall)
        wanted = [c for c in WORST_COLUMNS if c not in absent]
        worst = min(worst, room // len(wanted))
        room -= worst * len(wanted)
        groups = tuple(dict.fromkeys(row.group for row in table.rows))
        each = [c for c in GROUP_COLUMNS if c not in absent]
        each = each[: room // len(groups)] if len(groups) > 1 else []
        return cls(prefix, overall, groups if each else (), tuple(each), worst, ledger)

    def scalars(self, table: DynamicsTable) -> dict[str, float]:
        """The scalars of one table; a skipped step has none but the ledger."""
        found = self.ledger(table)
        if table.skipped:
            return found
        selections: list[npt.NDArray[np.bool_] | None] = [None]
        if self.groups:
            groups = np.array([row.group for row in table.rows])
            selections += [groups == group for group in self.groups]
        for keys, rolled in zip(self._keys, summaries(table, selections), strict=True):
            found |= {name: rolled[column] for name, column in keys}
        if self._worst_keys:  # as many at each step: the key set is fixed
            figures = worst(table, self.worst_columns, self.worst).T.ravel().tolist()
            found |= zip(self._worst_keys, figures, strict=True)
        return found

    @cached_property
    def _keys(self) -> list[list[tuple[str, str]]]:
        """Key and statistic, overall and then for each group."""
        overall = [(key(self.prefix, column), column) for column in self.overall]
        each = [[(key(self.prefix, group, c), c) for c in self.per_group] for group in self.groups]
        return [overall, *each]

    @cached_property
    def _worst_keys(self) -> list[str]:
        """Keys of the worst of each of `worst_columns`."""
        ranks = range(1, self.worst + 1)
        return [
            key(self.prefix, "worst", f"{column}_{rank}") for column in self.worst_columns for rank in ranks
        ]

    @property
    def worst_columns(self) -> tuple[str, ...]:
        """Statistics by which the worst parameters are listed."""
        return tuple(c for c in WORST_COLUMNS if c in self.overall)

    def ledger(self, table: DynamicsTable) -> dict[str, float]:
        """Steps and loss scale, under a gradient scaler only."""
        if table.loss_scale is None:
            return {}
        found: Mapping[str, float | None] = {name: getattr(table, name) for name in self.ledger_names}
        return {key(self.prefix, name): float(v) for name, v in found.items() if v is not None}

    def margins(self) -> dict[str, list[str]]:
        """Charts of p50 between p05 and p95: title to the three keys."""
        ends = ("effective_lr_p50", "effective_lr_p05", "effective_lr_p95")
        if not set(ends) <= set(self.overall):
            return {}
        charts = {self.prefix: [key(self.prefix, end) for end in ends]}
        if set(ends) <= set(self.per_group):
            charts |= {
                key(self.prefix, group): [key(self.prefix, group, end) for end in ends]
                for group in self.groups
            }
        return charts
