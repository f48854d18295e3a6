"""What the browser asks of a series, as bodies: the same for TensorBoard's tab and for a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import HISTOGRAMS
from lightning_adapt.views.tab import wire
from lightning_adapt.views.tab.series import Series


def rows(series: Series) -> bytes:
    """Names and shapes of the parameters, as JSON."""
    found = [
        {
            "name": row.name,
            "group": row.group,
            "shape": row.shape,
            "dtype": row.dtype,
            "state_dtype": row.state_dtype,
            "stride": row.histogram_stride,
            "numel": size,
        }
        for row, size in zip(series.rows, series.sizes, strict=True)
    ]
    return json.dumps({"version": series.rows_version, "rows": found}).encode()


def steps(series: Series) -> bytes:
    """Steps and step-wide numbers: learning rates, loss scale, skipped or not."""
    names, header = series.header()
    return wire.pack(
        {"names": names, "rows_version": series.rows_version, "columns": series.columns},
        {**_axis(series), "header": header},
    )


def column(series: Series, name: str, after: int | None = None) -> bytes:
    """One statistic of all rows, of all steps or those after one."""
    first = 0 if after is None else int(np.searchsorted(series.steps, after, side="right"))
    values = series.column(name)[first:]
    return wire.pack({"rows_version": series.rows_version}, {**_axis(series, first), "values": values})


def _axis(series: Series, first: int = 0) -> dict[str, npt.NDArray[Any]]:
    steps = np.array(series.steps[first:], dtype=np.float64)
    return {"steps": steps, "written": np.array(series.written[first:], dtype=np.float64)}


def step(series: Series, number: int) -> bytes:
    """All statistics of all rows at one step."""
    meta = {"columns": series.columns, "rows_version": series.rows_version, "step": number}
    return wire.pack(meta, {"values": series.at_step(number)})


def parameter(series: Series, row: int) -> bytes:
    """All statistics of one row, and its histograms trimmed to the bins that are ever occupied."""
    counts = series.histograms(row)
    bins: dict[str, Mapping[str, Any]] = {}
    arrays: dict[str, npt.NDArray[Any]] = {
        "steps": np.array(series.steps, dtype=np.float64),
        "values": series.of_row(row),
    }
    for kind, each in enumerate(HISTOGRAMS):
        occupied = np.flatnonzero(counts[:, kind, 1:-1].any(axis=0))
        first, stop = (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, 0)
        arrays[f"{each.name}/counts"] = counts[:, kind, 1 + first : 1 + stop]
        arrays[f"{each.name}/edges"] = each.edges[first : stop + 1]
        # Zero and what is too small for a bin, and what is too large or inf.
        arrays[f"{each.name}/outside"] = counts[:, kind, [0, -1]]
        bins[each.name] = {"lowest": 2.0**each.lowest, "highest": 2.0**each.highest}
    meta = {"columns": series.columns, "rows_version": series.rows_version, "bins": bins}
    return wire.pack(meta, arrays)
