"""How a table is written into an event file, and read back: three tensors of one summary.

- ``<tag>``: the values, float32, shape ``(parameters, columns)``;
- ``<tag>/histograms``: the counts, int32, as runs ``parameter, histogram, first bin, length, counts…``;
- ``<tag>/header``: step-wide numbers, float64 (learning rates and other hyperparameters, loss scale, steps).

``<tag>`` ends in a version of the row set, because TensorBoard keeps only the first metadata of a tag.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.summary_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    DATA_CLASS_TENSOR,  # pyright: ignore[reportAttributeAccessIssue]
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
    SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.util.tensor_util import make_ndarray, make_tensor_proto

from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH, FloatArray
from lightning_adapt.dynamics.table import DynamicsTable, RowInfo

PLUGIN_NAME = "lightning_adapt"
TAG = "optimizer_dynamics"
_HEADER = ("real_steps", "skipped_steps", "global_step", "loss_scale", "skipped")


def tag_of(table: DynamicsTable) -> str:
    """The tag of a table: optimizer and version of the row set."""
    return f"{TAG}/{table.optimizer}/{table.version}"


def to_summary(table: DynamicsTable, *, describe: bool) -> Summary:
    """One summary that holds the whole table.

    Args:
        table: What to write.
        describe: Add the metadata (names, units); needed once a tag and file.

    Returns:
        A protobuf for ``FileWriter.add_summary``.
    """
    tag, content = tag_of(table), describe_table(table) if describe else None
    header = [getattr(table, name) for name in _HEADER] + list(_groups(table).values())
    numbers = np.array([np.nan if x is None else float(x) for x in header], dtype=np.float64)
    values = [_value(tag, table.values.astype(np.float32), content)]
    if table.histograms is not None:
        values.append(_value(f"{tag}/histograms", pack_counts(table.histograms), content))
    values.append(_value(f"{tag}/header", numbers, content))
    return Summary(value=values)


def _value(tag: str, array: npt.NDArray[Any], content: bytes | None) -> Summary.Value:
    value = Summary.Value(tag=tag, tensor=make_tensor_proto(array))
    if content is not None:
        # Without data_class both of TensorBoard's loaders show nothing.
        value.metadata.CopyFrom(
            SummaryMetadata(
                plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content),
                data_class=DATA_CLASS_TENSOR,
            )
        )
    return value


def describe_table(table: DynamicsTable) -> bytes:
    """What stays the same from step to step, as JSON."""
    return json.dumps(
        {
            "format": 1,
            "optimizer": table.optimizer,
            "columns": table.columns,
            "rows": [astuple(row) for row in table.rows],
            "histograms": [[b.name, b.lowest, b.highest, b.mantissa_bits] for b in HISTOGRAMS],
            "header": [*_HEADER, *_groups(table)],
            "update_source": table.update_source,
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


def from_arrays(
    content: bytes,
    step: int,
    values: npt.NDArray[Any],
    header: npt.NDArray[Any],
    counts: npt.NDArray[Any] | None,
) -> DynamicsTable:
    """Put a table together from what an event file holds.

    Args:
        content: Metadata, from `describe_table`.
        step: Of the event.
        values: Shape ``(parameters, columns)``.
        header: From the ``/header`` tensor.
        counts: From the ``/histograms`` tensor, or ``None``.

    Raises:
        ValueError: If they do not fit together.
    """
    about = json.loads(content)
    rows = tuple(RowInfo(name, group, tuple(shape), *rest) for name, group, shape, *rest in about["rows"])
    if values.shape != (len(rows), len(about["columns"])):
        raise ValueError(f"table of shape {values.shape} does not fit its {len(rows)} described rows")
    numbers = dict(zip(about["header"], header.tolist(), strict=True))

    def number(name: str) -> float | None:
        return None if np.isnan(numbers[name]) else numbers[name]

    global_step = number("global_step")
    return DynamicsTable(
        rows=rows,
        values=_with_numel(values.astype(np.float64), rows, about["columns"]),
        step=step,
        histograms=None if counts is None else unpack_counts(counts, len(rows)),
        optimizer=about["optimizer"],
        learning_rates={k.removeprefix("lr/"): v for k, v in numbers.items() if k.startswith("lr/")},
        hyperparameters=_hyperparameters(numbers),
        loss_scale=number("loss_scale"),
        skipped=bool(numbers["skipped"]),
        real_steps=int(numbers["real_steps"]),
        skipped_steps=int(numbers["skipped_steps"]),
        global_step=None if global_step is None else int(global_step),
        update_source=about["update_source"],
        columns=tuple(about["columns"]),
    )


def _with_numel(values: FloatArray, rows: Sequence[RowInfo], columns: Sequence[str]) -> FloatArray:
    """``values`` with exact sizes: float32 rounds those above 2^24."""
    if "numel" in columns:
        sizes = [math.prod(row.shape) * (2 if row.dtype.startswith("complex") else 1) for row in rows]
        at = columns.index("numel")
        values[:, at] = np.where(np.isnan(values[:, at]), np.nan, sizes)
    return values


def pack_counts(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Keep only the occupied run of each histogram: most bins are empty."""
    flat = counts.reshape(-1, counts.shape[-1])
    occupied = flat > 0
    used = occupied.any(axis=1)
    first = occupied.argmax(axis=1)
    last = flat.shape[1] - occupied[:, ::-1].argmax(axis=1)
    parts: list[npt.NDArray[np.integer]] = []
    for index in np.flatnonzero(used):
        start, stop = first[index], last[index]
        row, which = divmod(int(index), len(HISTOGRAMS))
        parts += [np.array([row, which, start, stop - start]), flat[index, start:stop]]
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)


def unpack_counts(packed: npt.NDArray[Any], rows: int) -> npt.NDArray[np.int32]:
    """The inverse of `pack_counts`."""
    counts = np.zeros((rows, len(HISTOGRAMS), WIDTH), dtype=np.int32)
    at, numbers = 0, packed.ravel()
    while at < len(numbers):
        row, which, start, length = numbers[at : at + 4].tolist()
        counts[row, which, start : start + length] = numbers[at + 4 : at + 4 + length]
        at += 4 + length
    return counts


def array_of(value: Summary.Value) -> npt.NDArray[Any]:
    """The numpy array of a tensor summary value."""
    array: npt.NDArray[Any] = make_ndarray(value.tensor)
    return array


def is_ours(tags: Sequence[str]) -> bool:
    """Whether any of ``tags`` belongs to a table."""
    return any(tag.startswith(f"{TAG}/") for tag in tags)
