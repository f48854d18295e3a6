"""Row groups: one parameter as several rows of the table, such as rare and frequent words of an embedding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lightning_adapt._text import unknown_name
from lightning_adapt.dynamics.canonical import CanonicalStep, Row
from lightning_adapt.dynamics.engines.descriptors import SLOTS

Groups = Tensor | Mapping[str, Tensor | Sequence[int]]
"""Which rows of a parameter belong together: a number a row, or names with row indices or masks."""

REST = "rest"
"""Name of the group of those rows that no other group has."""


def split_row(row: Row, groups: Mapping[str, Tensor]) -> Iterator[Row]:
    """Turn one row of the table into one for each group of the parameter's first dimension.

    Sums, counts and maxima of the parts come together to those of the whole when the groups are a partition
    (see `RowGroups`, which makes them one).

    Args:
        row: One parameter with its step, at least one dimension.
        groups: Name to indices into the first dimension: shape ``(rows of the group,)``, int64, on the device
            of the parameter.

    Yields:
        A `Row` called ``parameter[group]``, with copies of those rows; lazily, so that only one group is in
        memory at a time.

    Example:
        >>> from lightning_adapt.dynamics import RowInfo
        >>> weight = torch.arange(6.0).reshape(3, 2)
        >>> row = Row(RowInfo("embed", shape=(3, 2)), weight, None, None, None)
        >>> parts = split_row(row, {"a": torch.tensor([0, 2]), "b": torch.tensor([1])})
        >>> [(part.info.name, part.parameter.tolist()) for part in parts]
        [('embed[a]', [[0.0, 1.0], [4.0, 5.0]]), ('embed[b]', [[2.0, 3.0]])]
    """
    for name, index in groups.items():
        part = row.parameter.index_select(0, index)
        yield replace(
            row,
            info=replace(row.info, name=f"{row.info.name}[{name}]", shape=(len(index), *row.info.shape[1:])),
            parameter=part,
            before=None if row.before is None else row.before.index_select(0, index),
            gradient=None if row.gradient is None else row.gradient.index_select(0, index),
            canonical=None if row.canonical is None else _part(row.canonical, index),
            temporary=5 * part.nbytes,  # parameter before and after, gradient, two moments: about
        )


def _part(step: CanonicalStep, index: Tensor) -> CanonicalStep:
    """The step of some rows: tensors of the parameter's shape are cut, numbers stay."""
    values = {field.name: getattr(step, field.name) for field in fields(step)}
    cut: dict[str, Any] = {
        name: value.index_select(0, index)
        for name, value in values.items()
        if isinstance(value, Tensor) and name in SLOTS
    }
    return replace(step, **cut)


@dataclass(frozen=True)
class _Spec:
    """Groups of one parameter, and how many rows it must have where the groups say so."""

    groups: dict[str, Tensor]
    rows: int | None


class RowGroups:
    """Partitions of the rows of some parameters; each group becomes a row of the table.

    A group stands in the table as ``parameter[group]`` in place of the parameter. Rows that no group has
    become ``parameter[rest]``, and no row may be in two groups, so that everything that is summed over the
    table stays true.

    Args:
        groups: Parameter name to its groups: either a tensor of shape ``(rows,)``, integer, the number of the
            group of each row (negative: in none); or names with row indices (integer) or masks (bool, shape
            ``(rows,)``).
        shapes: Shapes of all parameters, to check against; ``None`` checks what can be without them.

    Raises:
        ValueError: If a name is unknown, an index out of range, or groups are empty or overlap.

    Example:
        >>> embed = torch.nn.Embedding(5, 3)
        >>> groups = RowGroups({"weight": {"rare": [0, 4]}}, {"weight": (5, 3)})
        >>> groups.names
        ('weight[rare]', 'weight[rest]')
    """

    def __init__(
        self, groups: Mapping[str, Groups], shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        if not isinstance(groups, Mapping):
            raise ValueError(
                f"`row_groups` must map parameter names to groups, got {groups!r}; "
                "for example {'embed.weight': {'rare': [0, 4]}}"
            )
        self._specs = {name: _spec(name, of) for name, of in groups.items()}
        self._on_device: dict[tuple[str, torch.device], dict[str, Tensor]] = {}
        if shapes is not None:
            for name, spec in self._specs.items():
                if name not in shapes:
                    raise ValueError(unknown_name("row_groups", name, shapes))
                _complete(name, spec, shapes[name])

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that have groups."""
        return tuple(self._specs)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows in the table."""
        return tuple(f"{name}[{group}]" for name, spec in self._specs.items() for group in spec.groups)

    def split(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield ``rows``, those of grouped parameters as one row a group."""
        for row in rows:
            if row.info.name in self._specs:
                yield from split_row(row, self._indices(row.info.name, row.parameter.device))
            else:
                yield row

    def _indices(self, name: str, device: torch.device) -> dict[str, Tensor]:
        """The groups' indices on ``device``: copied there once, so that a reading waits for nothing."""
        key = (name, device)
        if key not in self._on_device:
            groups = self._specs[name].groups
            self._on_device[key] = {group: index.to(device) for group, index in groups.items()}
        return self._on_device[key]


def _spec(name: str, of: Groups) -> _Spec:
    if isinstance(of, Tensor):
        _check(name, of, torch.bool)
        numbers = of.detach().cpu()
        found = sorted({number for number in numbers.tolist() if number >= 0})
        groups = {str(number): (numbers == number).nonzero().flatten() for number in found}
        rows = {len(numbers)}
    elif not isinstance(of, Mapping):
        raise ValueError(
            f"`row_groups` must be names with indices, or a tensor of numbers, got {of!r} for {name!r}; "
            "for example {'rare': [0, 4]}"
        )
    else:
        given = {group: torch.as_tensor(index).detach().cpu() for group, index in of.items()}
        for group, index in given.items():
            _check(f"{name}[{group}]", index)
        rows = {len(index) for index in given.values() if index.dtype == torch.bool}
        groups = {
            group: (index.nonzero().flatten() if index.dtype == torch.bool else index.long())
            for group, index in given.items()
        }
    if len(rows) > 1:
        raise ValueError(
            f"`row_groups` must have masks of one length, got {sorted(rows)} for {name!r}; one entry a row"
        )
    for group, index in groups.items():
        if not len(index):
            raise ValueError(
                f"`row_groups` must have rows in each group, got none in {name}[{group}]; leave it out"
            )
    if not groups:
        raise ValueError(f"`row_groups` must have groups, got none for {name!r}; leave the parameter out")
    everything = torch.cat(list(groups.values()))
    if len(set(everything.tolist())) < len(everything):
        raise ValueError(
            f"`row_groups` must name each row once, got some twice for {name!r}; rows in two groups would be "
            "counted twice"
        )
    return _Spec(groups, next(iter(rows), None))


def _check(name: str, index: Tensor, *refused: torch.dtype) -> None:
    whole = not (index.is_floating_point() or index.is_complex()) or not index.numel()
    if not whole or index.dim() != 1 or index.dtype in refused:
        kind = str(index.dtype).removeprefix("torch.")
        raise ValueError(
            f"`row_groups` must be whole numbers in one dimension, got {kind} of shape {tuple(index.shape)} "
            f"for {name!r}; give row indices, masks, or a group number a row"
        )


def _complete(name: str, spec: _Spec, shape: tuple[int, ...]) -> None:
    """Compare ``spec`` with the parameter it is for, and add the rows that are left over."""
    if not shape:
        raise ValueError(
            f"`row_groups` must name parameters with rows, got {name!r}, a single number; leave it out"
        )
    rows, everything = shape[0], torch.cat(list(spec.groups.values()))
    if spec.rows not in (None, rows) or int(everything.min()) < 0 or int(everything.max()) >= rows:
        raise ValueError(
            f"`row_groups` must fit the {rows} rows of {name!r}, got "
            + (f"{spec.rows} entries" if spec.rows not in (None, rows) else "an index out of range")
            + f"; indices count from 0 to {rows - 1}"
        )
    left = torch.ones(rows, dtype=torch.bool)
    left[everything] = False
    if left.any():
        if REST in spec.groups:
            raise ValueError(
                f"`row_groups` must not call a group {REST!r} that leaves rows of {name!r} out, got one; "
                "that is the name of what is left over"
            )
        spec.groups[REST] = left.nonzero().flatten()
