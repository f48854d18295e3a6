"""How a table is written into an event file, and read back: tensors of one summary.

- ``<tag>/header``: step-wide numbers, float64 (learning rates and other hyperparameters, loss scale,
  steps);
- ``<tag>/column/<statistic>``: one column, float32, shape ``(parameters,)``;
- ``<tag>/histograms/<block>``: the counts of 128 rows, packed.

``<tag>`` is ``optimizer_dynamics/<optimizer>/<version>``: of the row set, because TensorBoard keeps only the
first metadata of a tag. Columns have tags of their own because TensorBoard can only read all steps of a tag
at once: a viewer of one statistic then reads a thirtieth of the table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.summary_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    DATA_CLASS_TENSOR,  # pyright: ignore[reportAttributeAccessIssue]
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.compat.proto.types_pb2 import (
    DT_DOUBLE,  # pyright: ignore[reportAttributeAccessIssue]
    DT_FLOAT,  # pyright: ignore[reportAttributeAccessIssue]
    DT_UINT8,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.util.tensor_util import make_ndarray

from lightning_adapt.dynamics.histograms import HISTOGRAMS, FloatArray
from lightning_adapt.dynamics.table import DynamicsTable, RowInfo
from lightning_adapt.views.packed_counts import BLOCK, pack, unpack

PLUGIN_NAME = "lightning_adapt"
TAG = "optimizer_dynamics"
FORMAT = 2
HEADER, COLUMN, HISTOGRAM = "header", "column", "histograms"
_TYPES = {np.dtype("<f4"): DT_FLOAT, np.dtype("<f8"): DT_DOUBLE, np.dtype("u1"): DT_UINT8}
_HEADER = ("real_steps", "skipped_steps", "global_step", "loss_scale", "skipped")


def tag_of(table: DynamicsTable) -> str:
    """The tag of a table: optimizer and version of the row set."""
    return f"{TAG}/{table.optimizer}/{table.version}"


def to_summary(table: DynamicsTable, *, describe: bool, trained: Mapping[str, Any] | None = None) -> Summary:
    """One summary that holds the whole table.

    Args:
        table: What to write.
        describe: Add the metadata (names, units); needed once a tag and file.
        trained: What the metadata say of the run, see `describe_table`.

    Returns:
        A protobuf for ``FileWriter.add_summary``.
    """
    tag, content = tag_of(table), describe_table(table, trained) if describe else None
    header = [getattr(table, name) for name in _HEADER] + list(_groups(table).values())
    numbers = np.array([np.nan if x is None else float(x) for x in header], dtype="<f8")
    short = b"{}" if describe else None
    summary = Summary()
    _add(summary, f"{tag}/{HEADER}", numbers, content)
    columns = np.ascontiguousarray(table.values.T, dtype="<f4")
    for name, column in zip(table.columns, columns, strict=True):
        _add(summary, f"{tag}/{COLUMN}/{name}", column, short)
    if table.histograms is not None:
        for start in range(0, len(table.rows), BLOCK):
            packed = pack(table.histograms[start : start + BLOCK])
            _add(summary, f"{tag}/{HISTOGRAM}/{start // BLOCK}", packed, short)
    return summary


def _add(summary: Summary, tag: str, array: npt.NDArray[Any], content: bytes | None) -> None:
    """Add a tensor, as ``make_tensor_proto`` would make it: its checks take longer than all the rest."""
    value = summary.value.add(tag=tag)
    tensor = value.tensor
    tensor.dtype, tensor.tensor_content = _TYPES[array.dtype], array.tobytes()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if content is not None:
        # Without data_class both of TensorBoard's loaders show nothing.
        value.metadata.data_class = DATA_CLASS_TENSOR
        value.metadata.plugin_data.plugin_name = PLUGIN_NAME
        value.metadata.plugin_data.content = content


def describe_table(table: DynamicsTable, trained: Mapping[str, Any] | None = None) -> bytes:
    """What stays the same from step to step, as JSON.

    Args:
        table: The first of its row set.
        trained: ``model``, ``settings`` and ``precision`` of the run, for those who read it later.
    """
    return json.dumps(
        {
            "format": FORMAT,
            "optimizer": table.optimizer,
            "columns": table.columns,
            "rows": [astuple(row) for row in table.rows],
            "histograms": [[b.name, b.lowest, b.highest, b.mantissa_bits] for b in HISTOGRAMS],
            "header": [*_HEADER, *_groups(table)],
            "update_source": table.update_source,
            **({"trained": trained} if trained else {}),
        }
    ).encode()


def _groups(table: DynamicsTable) -> dict[str, float]:
    """The numbers of all parameter groups; only their names are written once, for schedules move many."""
    rates = {f"lr/{group}": rate for group, rate in table.learning_rates.items()}
    others = {
        f"hyper/{group}/{name}": number
        for group, numbers in table.hyperparameters.items()
        for name, number in numbers.items()
    }
    return rates | others


def _hyperparameters(numbers: Mapping[str, float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for key, number in numbers.items():
        if key.startswith("hyper/"):
            group, _, name = key.removeprefix("hyper/").rpartition("/")
            found.setdefault(group, {})[name] = number
    return found


@dataclass(frozen=True)
class Description:
    """What `describe_table` wrote."""

    optimizer: str
    columns: tuple[str, ...]
    rows: tuple[RowInfo, ...]
    header: tuple[str, ...]
    update_source: str

    @classmethod
    def of(cls, content: bytes) -> Description:
        """Read it back.

        Raises:
            ValueError: If it is of another format, or no description at all.
        """
        try:
            about = json.loads(content)
            if about["format"] != FORMAT:
                raise ValueError(
                    f"tables of format {about['format']!r} were written by another version of "
                    f"lightning-adapt, this one reads format {FORMAT}; train again, or use that version"
                )
            rows = (RowInfo(name, group, tuple(shape), *rest) for name, group, shape, *rest in about["rows"])
            return cls(
                optimizer=about["optimizer"],
                columns=tuple(about["columns"]),
                rows=tuple(rows),
                header=tuple(about["header"]),
                update_source=about["update_source"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"a table without a sound description: {error!r}") from error

    def numbers(self, header: npt.NDArray[Any]) -> dict[str, float]:
        """The step-wide numbers by name.

        Raises:
            ValueError: If there are more or fewer than described.
        """
        return dict(zip(self.header, header.tolist(), strict=True))

    def sizes(self) -> list[int]:
        """Elements of each row; exact, where float32 rounds those above 2^24."""
        return [math.prod(row.shape) * (2 if row.dtype.startswith("complex") else 1) for row in self.rows]


@lru_cache(maxsize=64)
def description_of(content: bytes) -> Description:
    """`Description.of`, kept: it is the same for all steps, and long where there are many parameters."""
    return Description.of(content)


def parts_of(tag: str) -> tuple[str, str]:
    """``<tag>/<part>`` into ``<tag>`` and ``<part>``.

    Example:
        >>> parts_of("optimizer_dynamics/AdamW/3abaf9c1/column/grad_rms")
        ('optimizer_dynamics/AdamW/3abaf9c1', 'column/grad_rms')
    """
    pieces = tag.split("/", 3)
    return "/".join(pieces[:3]), "".join(pieces[3:])


def from_parts(content: bytes, step: int, parts: Mapping[str, npt.NDArray[Any]]) -> DynamicsTable:
    """Put a table together from what an event file holds.

    Args:
        content: Metadata, from `describe_table`.
        step: Of the event.
        parts: Its tensors, by what follows the tag.

    Raises:
        ValueError: If they do not fit together.
    """
    about = description_of(content)
    numbers = about.numbers(parts[HEADER])

    def number(name: str) -> float | None:
        return None if np.isnan(numbers[name]) else numbers[name]

    global_step = number("global_step")
    return DynamicsTable(
        rows=about.rows,
        values=_values(about, parts),
        step=step,
        histograms=_histograms(about, parts),
        optimizer=about.optimizer,
        learning_rates={k.removeprefix("lr/"): v for k, v in numbers.items() if k.startswith("lr/")},
        hyperparameters=_hyperparameters(numbers),
        loss_scale=number("loss_scale"),
        skipped=bool(numbers["skipped"]),
        real_steps=int(numbers["real_steps"]),
        skipped_steps=int(numbers["skipped_steps"]),
        global_step=None if global_step is None else int(global_step),
        update_source=about.update_source,
        columns=about.columns,
    )


def _values(about: Description, parts: Mapping[str, npt.NDArray[Any]]) -> FloatArray:
    columns = [parts.get(f"{COLUMN}/{name}") for name in about.columns]
    if any(column is None or column.shape != (len(about.rows),) for column in columns):
        raise ValueError(f"a table's columns do not fit its {len(about.rows)} described rows")
    values = np.stack(columns, axis=1).astype(np.float64)  # type: ignore[arg-type]
    if "numel" in about.columns:
        at = about.columns.index("numel")
        values[:, at] = np.where(np.isnan(values[:, at]), np.nan, about.sizes())
    return values


def _histograms(about: Description, parts: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int32] | None:
    if f"{HISTOGRAM}/0" not in parts:
        return None
    blocks = []
    for start in range(0, len(about.rows), BLOCK):
        size = min(BLOCK, len(about.rows) - start)
        blocks.append(unpack(parts[f"{HISTOGRAM}/{start // BLOCK}"], size))
    return np.concatenate(blocks)


def array_of(value: Summary.Value) -> npt.NDArray[Any]:
    """The numpy array of a tensor summary value."""
    array: npt.NDArray[Any] = make_ndarray(value.tensor)
    return array
