"""What does not change from table to table: names, groups, shapes and dtypes of the rows, as arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.dynamics.table import RowInfo
from lightning_adapt.health.formats import Format, format_of

Flags = npt.NDArray[np.bool_]
Texts = npt.NDArray[Any]


class Rows:
    """The rows of an optimizer's tables, read once.

    Args:
        rows: Of a table.

    Example:
        >>> rows = Rows([RowInfo("0.weight", "decay", (2, 3), "float32"), RowInfo("0.bias", "rest", (2,))])
        >>> rows.matrices.tolist(), rows.bits.tolist(), rows.groups
        ([True, False], [32.0, nan], ('decay', 'rest'))
    """

    def __init__(self, rows: Sequence[RowInfo]) -> None:
        self.rows = tuple(rows)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Parameter names."""
        return tuple(row.name for row in self.rows)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the parameter groups, in order of appearance."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    @cached_property
    def group_index(self) -> npt.NDArray[np.int64]:
        """Index of each row's group in `groups`."""
        place = {group: at for at, group in enumerate(self.groups)}
        return np.array([place[row.group] for row in self.rows], dtype=np.int64)

    @cached_property
    def matrices(self) -> Flags:
        """Weight matrices: two dimensions or more that are larger than 1; no biases, norms or scalars."""
        return np.array([sum(size > 1 for size in row.shape) >= 2 for row in self.rows], dtype=bool)

    @cached_property
    def tables(self) -> Flags:
        """Two dimensions or more: what may be an embedding."""
        return np.array([len(row.shape) >= 2 for row in self.rows], dtype=bool)

    @cached_property
    def trainable(self) -> Flags:
        """``requires_grad``."""
        return np.array([row.requires_grad for row in self.rows], dtype=bool)

    @cached_property
    def named(self) -> Flags:
        """Whether the name is the model's, and not a position in a group."""
        return np.array([_is_named(row) for row in self.rows], dtype=bool)

    @cached_property
    def dtypes(self) -> Texts:
        """Dtype of each parameter."""
        return np.array([row.dtype for row in self.rows], dtype=object)

    @cached_property
    def state_dtypes(self) -> Texts:
        """Dtype of each second moment (or first moment, or buffer)."""
        return np.array([row.state_dtype for row in self.rows], dtype=object)

    @cached_property
    def bits(self) -> FloatArray:
        """Bits of a number of each parameter; NaN where its dtype is no floating-point one."""
        return _of(self.dtypes, lambda form: form.bits)

    @cached_property
    def state_bits(self) -> FloatArray:
        """Bits of a number of each state; NaN without one."""
        return _of(self.state_dtypes, lambda form: form.bits)

    @cached_property
    def eps(self) -> FloatArray:
        """Distance from 1 to the next number in each parameter's dtype."""
        return _of(self.dtypes, lambda form: form.eps)

    @cached_property
    def state_eps(self) -> FloatArray:
        """Distance from 1 to the next number in each state's dtype."""
        return _of(self.state_dtypes, lambda form: form.eps)

    @cached_property
    def state_smallest(self) -> FloatArray:
        """Smallest number above 0 in each state's dtype."""
        return _of(self.state_dtypes, lambda form: form.smallest)

    @cached_property
    def depth(self) -> FloatArray:
        """Number of the layer, such as 3 in ``encoder.layer.3.output.weight``; NaN outside the stack."""
        found = np.full(len(self.rows), np.nan)
        stacks: dict[str, list[tuple[int, int]]] = {}
        for at, name in enumerate(self.names):
            for match in re.finditer(r"(?:^|\.)(\d+)(?=\.|$)", name):
                stacks.setdefault(name[: match.start(1)], []).append((at, int(match[1])))
        longest = max(stacks.values(), key=lambda members: len({depth for _, depth in members}), default=[])
        for at, depth in longest:
            found[at] = depth
        return found


def _is_named(row: RowInfo) -> bool:
    tail = row.name.rpartition(".")[2] if row.name.startswith(f"{row.group}.") else ""
    return not tail.isdigit() and re.fullmatch(r"parameter_\d+", row.name) is None


def _of(dtypes: Texts, number: Any) -> FloatArray:
    known: dict[str, Format | None] = {dtype: format_of(dtype) for dtype in set(dtypes)}
    values = {dtype: np.nan if form is None else float(number(form)) for dtype, form in known.items()}
    return np.array([values[dtype] for dtype in dtypes], dtype=np.float64)
