"""The dynamics table: what every parameter's optimizer state did in one step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from lightning_adapt._text import unknown_name
from lightning_adapt.dynamics.histograms import HISTOGRAMS, FloatArray
from lightning_adapt.dynamics.statistics import COLUMNS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RowInfo:
    """What a row is about.

    Args:
        name: Parameter name as in ``named_parameters()``.
        group: Name of its parameter group.
        shape: Shape of the parameter.
        dtype: Its dtype without the ``torch.`` prefix.
        state_dtype: Dtype of its second moment (or first moment, or buffer), empty when it has no state.
        histogram_stride: Its histograms, and the quantiles read from them, are of every so-manyth element,
            each counted so many times; 1: of all. Every other figure is always of all elements.
        requires_grad: ``False`` for a parameter that is frozen, and still is in the optimizer.
    """

    name: str
    group: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    state_dtype: str = ""
    histogram_stride: int = 1
    requires_grad: bool = True

    def __hash__(self) -> int:
        """Of the name alone, which nearly always tells rows apart: they are hashed at every reading."""
        return hash(self.name)


@lru_cache(maxsize=64)  # the same for most readings of a run
def _version(rows: tuple[RowInfo, ...], *others: object) -> str:
    text = json.dumps([[astuple(row) for row in rows], *others])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, eq=False)
class DynamicsTable:
    """Parameters × statistics of one optimizer after one step.

    Args:
        rows: One entry a parameter, in model order.
        values: Shape ``(parameters, len(COLUMNS))``, float64; NaN where the optimizer has no such notion.
        histograms: Shape ``(parameters, 3, bins)``, integer counts in the fixed bins of ``HISTOGRAMS``:
            effective learning rate, bias-corrected second moment, |update|. ``None`` when not kept.
        step: Position on the logging axis: optimizer steps seen by a probe, the trainer's batch step in
            Lightning.
        optimizer: Class name of the optimizer, with ``-1``, ``-2``, … when a run has several.
        learning_rates: Learning rate of each parameter group as the step used it.
        hyperparameters: The other numbers of each parameter group as the step used them, such as ``eps``,
            ``beta2`` and ``weight_decay``; flags, such as ``decoupled_weight_decay`` and ``fused``, are 1 or
            0. Empty in tables from event files that do not have them.
        loss_scale: Scale of the gradient scaler for this step, ``None`` without one.
        skipped: Whether the gradient scaler found inf, so that the optimizer did not step.
        real_steps: Steps the optimizer really took so far, as counted by the observer.
        skipped_steps: Steps that were skipped so far.
        global_step: ``trainer.global_step`` (counts skipped steps too), ``None`` without a trainer.
        update_source: ``"measured"`` when ``update`` is the difference of the parameter before and after,
            ``"predicted"`` when it is computed from the optimizer's state, ``"mixed"`` when some parameters'
            are measured.
        cost_s: Seconds that the reading took of the training: of the host, or of the device where that is
            more; ``None`` for tables that were read back.

    Example:
        >>> table = DynamicsTable(rows=(RowInfo("weight"),), values=np.full((1, len(COLUMNS)), 0.5), step=7)
        >>> table["weight", "grad_rms"]
        0.5
        >>> table["grad_rms"]
        array([0.5])
    """

    rows: tuple[RowInfo, ...]
    values: FloatArray
    step: int
    histograms: npt.NDArray[np.integer] | None = None
    optimizer: str = ""
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    loss_scale: float | None = None
    skipped: bool = False
    real_steps: int = 0
    skipped_steps: int = 0
    global_step: int | None = None
    update_source: str = "measured"
    cost_s: float | None = None
    columns: tuple[str, ...] = COLUMNS

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, in model order."""
        return tuple(row.name for row in self.rows)

    @property
    def version(self) -> str:
        """Eight characters that change whenever something does that is not written anew each step."""
        set_up = tuple((group, tuple(numbers)) for group, numbers in self.hyperparameters.items())
        return _version(
            tuple(self.rows), self.columns, tuple(self.learning_rates), self.update_source, set_up
        )

    @overload
    def __getitem__(self, key: str) -> FloatArray: ...

    @overload
    def __getitem__(self, key: tuple[str, str]) -> float: ...

    def __getitem__(self, key: str | tuple[str, str]) -> FloatArray | float:
        """``table[name, column]`` is one number, ``table[column]`` a column over all parameters."""
        if isinstance(key, tuple):
            name, column = key
            return float(self.values[self._row(name), self._column(column)])
        values: FloatArray = self.values[:, self._column(key)]
        return values

    def row(self, name: str) -> dict[str, float]:
        """All statistics of the parameter ``name``."""
        return dict(zip(self.columns, self.values[self._row(name)].tolist(), strict=True))

    def histogram(self, name: str, which: str) -> npt.NDArray[np.integer]:
        """Counts of ``name`` in the bins of ``which``: effective_lr, second_moment or update."""
        known = [bins.name for bins in HISTOGRAMS]
        if which not in known:
            raise KeyError(unknown_name("which", which, known))
        if self.histograms is None:
            raise ValueError("this table keeps no histograms; read it with `histograms=True`")
        counts: npt.NDArray[np.integer] = self.histograms[self._row(name), known.index(which)]
        return counts

    def to_pandas(self) -> pd.DataFrame:
        """One row a parameter, one column a statistic, ``group`` and ``dtype`` first."""
        import pandas as pd

        frame = pd.DataFrame(self.values, columns=list(self.columns))
        frame.insert(0, "dtype", [row.dtype for row in self.rows])
        frame.insert(0, "group", [row.group for row in self.rows])
        frame.index = pd.Index(self.names, name="parameter")
        return frame

    def _row(self, name: str) -> int:
        names = self.names
        if name not in names:
            raise KeyError(unknown_name("parameter", name, names))
        return names.index(name)

    def _column(self, column: str) -> int:
        if column not in self.columns:
            raise KeyError(unknown_name("statistic", column, self.columns, most=40))
        return self.columns.index(column)


class DynamicsHistory(Sequence[DynamicsTable]):
    """Tables in the order they were read, one or more optimizers.

    Args:
        tables: Sorted by step.
        source: Where they come from, for messages.
    """

    def __init__(self, tables: Sequence[DynamicsTable], source: str = "") -> None:
        self._tables = tuple(tables)
        self.source = source

    @overload
    def __getitem__(self, index: int) -> DynamicsTable: ...

    @overload
    def __getitem__(self, index: slice) -> DynamicsHistory: ...

    def __getitem__(self, index: int | slice) -> DynamicsTable | DynamicsHistory:
        """The table at ``index``, or a shorter history."""
        if isinstance(index, slice):
            return DynamicsHistory(self._tables[index], self.source)
        return self._tables[index]

    def __len__(self) -> int:
        """Number of tables."""
        return len(self._tables)

    def __iter__(self) -> Iterator[DynamicsTable]:
        """Tables in order."""
        return iter(self._tables)

    def __repr__(self) -> str:
        """How many tables of which optimizers and steps."""
        steps = f", steps {self._tables[0].step} to {self._tables[-1].step}" if self._tables else ""
        return f"DynamicsHistory({len(self)} tables of {', '.join(self.optimizers) or 'nothing'}{steps})"

    @property
    def optimizers(self) -> tuple[str, ...]:
        """Names of the optimizers, in order of appearance."""
        return tuple(dict.fromkeys(table.optimizer for table in self._tables))

    @property
    def steps(self) -> tuple[int, ...]:
        """Step of each table."""
        return tuple(table.step for table in self._tables)

    @property
    def latest(self) -> DynamicsTable | None:
        """The last table, ``None`` when there is none."""
        return self._tables[-1] if self._tables else None

    def of(self, optimizer: str) -> DynamicsHistory:
        """Only the tables of ``optimizer``."""
        if optimizer not in self.optimizers:
            raise KeyError(unknown_name("optimizer", optimizer, self.optimizers))
        return DynamicsHistory([t for t in self._tables if t.optimizer == optimizer], self.source)

    def to_pandas(self) -> pd.DataFrame:
        """All tables as one frame, indexed by ``optimizer``, ``step`` and ``parameter``."""
        import pandas as pd

        if not self._tables:
            index = pd.MultiIndex.from_arrays([[], [], []], names=["optimizer", "step", "parameter"])
            return pd.DataFrame(columns=list(COLUMNS), index=index)
        return pd.concat(
            [table.to_pandas() for table in self._tables],
            keys=[(table.optimizer, table.step) for table in self._tables],
            names=["optimizer", "step"],
        )
