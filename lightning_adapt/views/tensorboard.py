"""Tables into TensorBoard, through the run's one event file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from torch.utils.tensorboard.summary import histogram_raw, text

from lightning_adapt._text import printable
from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, HISTOGRAMS, SECOND_MOMENT, Bins, FloatArray
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.views.checksums import hasten
from lightning_adapt.views.event_file import tag_of, to_summary
from lightning_adapt.views.rollup import floor_cause, worst_rows
from lightning_adapt.views.scalars import ScalarPlan, key


class TensorBoardView:
    """Writes tables through a ``torch.utils.tensorboard.SummaryWriter``.

    Args:
        writer: The logger's own writer: a second event file in a run folder would freeze TensorBoard's
            Python loader.
        worst: Parameters listed in the text page.
        trained: What is trained, as JSON can say it: ``model``, ``settings`` and ``precision``.
    """

    def __init__(self, writer: Any, *, worst: int = 10, trained: Mapping[str, Any] | None = None) -> None:
        self._writer, self._worst, self._trained = writer, worst, trained
        hasten(writer)
        self._described: set[str] = set()
        self._charts: dict[str, list[Any]] = {}

    def write(self, table: DynamicsTable, plan: ScalarPlan) -> None:
        """Write everything but the scalars of one table: itself, histograms, charts, the worst as text."""
        charts = {title: ["Margin", keys] for title, keys in plan.margins().items()}
        if not charts.keys() <= self._charts.keys():
            self._charts |= charts
            self._writer.add_custom_scalars({"effective learning rate, p05 to p95": self._charts})
        tag = tag_of(table)
        summary = to_summary(table, describe=tag not in self._described, trained=self._trained)
        self._described.add(tag)
        if not table.skipped:  # torch says no types of what makes these
            for bins in (EFFECTIVE_LR, SECOND_MOMENT):
                histogram = log10_histogram(table, bins)
                if histogram is not None:
                    name = key(plan.prefix, f"log10_{bins.name}")
                    summary.MergeFrom(histogram_raw(name, **histogram))  # type: ignore[no-untyped-call]
            page = worst_markdown(table, self._worst)
            summary.MergeFrom(text(key(plan.prefix, "worst_parameters"), page))  # type: ignore[no-untyped-call]
        # In one event, because every event wakes the thread that writes the file, in the training's way.
        self._writer._get_file_writer().add_summary(summary, table.step)


def write_scalars(writer: Any, scalars: Mapping[str, float], step: int) -> None:
    """What ``writer.add_scalar`` for each would write, in one event: a dozen times faster.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``.
        scalars: By tag.
        step: Of all of them.
    """
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    writer._get_file_writer().add_summary(Summary(value=values), step)


def log10_histogram(table: DynamicsTable, bins: Bins) -> dict[str, Any] | None:
    """All parameters' counts on a log10 axis, as ``SummaryWriter.add_histogram_raw`` wants them.

    TensorBoard re-bins linearly, so that log-spaced bins of the numbers themselves would show one spike;
    bins of log10 read right. Elements below the lowest or above the highest edge (zero, inf) are left out.

    Returns:
        ``None`` when there is nothing to show.
    """
    if table.histograms is None:
        return None
    counts = table.histograms[:, HISTOGRAMS.index(bins)].sum(axis=0, dtype=np.int64)[1:-1]
    if not counts.any():
        return None
    limits, powers = _log10_edges(bins)
    number, total, squares = (powers @ counts.astype(np.float64)).tolist()
    occupied = counts.nonzero()[0]
    first, last = int(occupied[0]), int(occupied[-1])
    return {
        "min": limits[first],
        "max": limits[last + 1],
        "num": number,
        "sum": total,
        "sum_squares": squares,
        # The first bucket is everything up to its limit: an empty one marks where the first bin begins.
        "bucket_limits": limits[first : last + 2],
        "bucket_counts": [0, *counts[first : last + 1].tolist()],
    }


@cache
def _log10_edges(bins: Bins) -> tuple[list[float], FloatArray]:
    """The edges on a log10 axis, and the powers 0, 1 and 2 of the centres between them."""
    edges = np.log10(bins.edges)
    centres = (edges[1:] + edges[:-1]) / 2
    return edges.tolist(), np.stack([centres**power for power in range(3)])


def worst_markdown(table: DynamicsTable, most: int) -> str:
    """The parameters that deserve a look, as a markdown table."""
    lines = [
        "| parameter | effective lr p05 / p50 / p95 | on the epsilon floor | cause | update ratio |",
        "|---|---|---|---|---|",
    ]
    for index in worst_rows(table, most):
        name = printable(table.names[index]).replace("|", "\\|").replace("`", "'")
        at = dict(zip(table.columns, table.values[index].tolist(), strict=True))
        rates = " / ".join(f"{at[f'effective_lr_{q}']:.3g}" for q in ("p05", "p50", "p95"))
        floor, ratio = f"{100 * at['eps_floor_frac']:.1f} %", f"{at['update_ratio']:.2e}"
        lines.append(f"| `{name}` | {rates} | {floor} | {floor_cause(table, index)} | {ratio} |")
    return "\n".join(lines)
