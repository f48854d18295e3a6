"""A reading under way: measured on the device, copied to the host, turned into a table when it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row, Scalar, host_number
from lightning_adapt.dynamics.engines import Engine
from lightning_adapt.dynamics.engines.packed import ADDED, Layout, Packed, finalise
from lightning_adapt.dynamics.engines.steady import SteadyRows, sampled
from lightning_adapt.dynamics.table import DynamicsTable, RowInfo


def to_host(buffer: Tensor) -> tuple[Tensor, Callable[[], bool], Callable[[], None]]:
    """Start the one copy of a reading to the host.

    Returns:
        The host buffer, a function that tells whether it has arrived, and one that waits for it.
    """
    if not buffer.is_cuda:
        return buffer if buffer.is_cpu else buffer.to("cpu"), _arrived, _nothing_to_wait_for
    host = torch.empty(buffer.shape, dtype=buffer.dtype, pin_memory=True)
    host.copy_(buffer, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(buffer.device))
    return host, arrived.query, arrived.synchronize


def _arrived() -> bool:
    return True


def _nothing_to_wait_for() -> None:
    pass


class Stopwatch:
    """Seconds of the host, and of the device, between its making and `stop`; it waits for neither."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._host = 0.0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._events[0].record()

    def stop(self) -> None:
        """The end."""
        self._host = perf_counter() - self._started
        if self._events is not None:
            self._events[1].record()

    def seconds(self) -> float:
        """The larger of both; of the device only once it has got there, for nothing here waits for it."""
        device = 0.0
        if self._events is not None and self._events[1].query():  # type: ignore[no-untyped-call]
            device = self._events[0].elapsed_time(self._events[1]) / 1e3
        return max(self._host, device)


@dataclass
class Reading:
    """One measured step whose figures may still be on their way."""

    rows: tuple[RowInfo, ...]
    layout: Layout
    host: Tensor
    ready: Callable[[], bool]
    wait: Callable[[], None]
    scalars: Mapping[str, float | int]
    about: Mapping[str, Any]
    watch: Stopwatch

    def table(self, **about: Any) -> DynamicsTable:
        """The table, waiting for the copy if need be.

        Args:
            **about: Fields of `DynamicsTable` that the reader knows (``step``, ``optimizer``, …).
        """
        self.wait()
        measured = self.layout.unpack(self.host)
        # A scalar is the number itself, or the index of a device scalar that came with the buffer.
        scalars = {
            name: measured.scalars[value] if isinstance(value, int) else value
            for name, value in self.scalars.items()
        }
        rates = {n.removeprefix("lr/"): v for n, v in scalars.items() if n.startswith("lr/")}
        skipped = int(scalars.get("fused_skips", 0.0))
        fields: dict[str, Any] = {**self.about, **about}
        fields["cost_s"] = fields.get("cost_s", 0.0) + self.watch.seconds()
        fields["real_steps"] = fields.get("real_steps", 0) - skipped
        fields["skipped_steps"] = fields.get("skipped_steps", 0) + skipped
        return DynamicsTable(
            rows=self.rows,
            values=finalise(measured),
            histograms=None if measured.counts is None else measured.counts.copy(),
            learning_rates=rates,
            loss_scale=scalars.get("loss_scale"),
            skipped=bool(fields.pop("skipped", False)) or scalars.get("found_inf", 0.0) > 0,
            **fields,
        )


def merged(packed: Packed, pieces: Sequence[int]) -> Packed:
    """One row a parameter, from rows of pieces: sums and counts are added, the largest maximum stays.

    Args:
        packed: What an engine measured.
        pieces: How many of its rows belong to each parameter.
    """
    if len(pieces) == packed.layout.rows:
        return packed
    figures = [
        torch.cat([part[:, :ADDED].sum(0), part[:, ADDED:].amax(0)])
        for part in torch.split(packed.figures, list(pieces))
    ]
    counts = packed.counts
    if counts is not None:
        counts = torch.stack([part.sum(0, dtype=counts.dtype) for part in torch.split(counts, list(pieces))])
    ends = np.cumsum(pieces)
    strides = [
        max(packed.strides[end - n : end]) for end, n in zip(ends, pieces, strict=True) if packed.strides
    ]
    return Packed.of(torch.stack(figures), counts, strides)


def _measured(engine: Engine, rows: Iterable[Row], histograms: bool) -> tuple[tuple[RowInfo, ...], Packed]:
    """What each row of the table is about, and its figures."""
    infos: list[RowInfo] = []
    pieces: list[int] = []

    def noted() -> Iterator[Row]:
        for row in rows:
            if row.continues:
                pieces[-1] += 1
            else:
                infos.append(row.info)
                pieces.append(1)
            yield row

    if isinstance(rows, SteadyRows):
        packed = engine(replace(rows, remade=noted), histograms=histograms)
        if not infos:  # nobody wanted to see the rows
            return rows.steady.sampled(tuple(packed.strides)), packed
    else:
        packed = engine(noted(), histograms=histograms)
    packed = merged(packed, pieces)
    return sampled(infos, packed.strides), packed


def take(
    engine: Engine,
    rows: Iterable[Row],
    scalars: Mapping[str, Scalar],
    *,
    histograms: bool,
    about: Mapping[str, Any],
) -> Reading:
    """Measure ``rows`` and start the copy to the host.

    Args:
        engine: From `find_engine`.
        rows: Built lazily.
        scalars: Numbers that belong to the step (``lr/<group>``, ``loss_scale``, ``found_inf``,
            ``fused_skips``); those on a device travel in the same copy.
        histograms: Keep the counts.
        about: Fields of the table that are known now.
    """
    watch = Stopwatch()
    infos, packed = _measured(engine, rows, histograms)
    known: dict[str, float | int] = {}
    on_device: list[Tensor] = []
    for name, value in scalars.items():
        if not isinstance(value, Tensor):
            known[name] = float(value)
        elif value.device.type == "cpu":
            known[name] = host_number(value)
        else:
            known[name] = len(on_device)
            on_device.append(value.detach().reshape(()))
    packed.scalars = on_device
    buffer = packed.buffer()
    watch.stop()
    host, ready, wait = to_host(buffer)
    return Reading(infos, packed.layout, host, ready, wait, known, dict(about), watch)
