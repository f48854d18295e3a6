"""One optimizer of one run, step by step: tables of several row sets put together on one axis.

Rows are known by name and keep their place: those of the first table first, later ones after them. Where a
resumed run wrote a step again, the later writing stays, as in `read_dynamics`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH
from lightning_adapt.dynamics.table import RowInfo
from lightning_adapt.views.event_file import COLUMN, HEADER, HISTOGRAM, Description
from lightning_adapt.views.packed_counts import BLOCK, Counts, unpack, unpack_row

Key = tuple[str, int]

_AT_ONCE = 32 << 20
"""Bytes that are read in one go. A reading has a price of its own, some 40 ms; a large one takes memory."""


class Datum(Protocol):
    """One tensor of one event, as TensorBoard's data provider gives it."""

    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def wall_time(self) -> float: ...  # noqa: D102
    @property
    def numpy(self) -> npt.NDArray[Any]: ...  # noqa: D102


Read = Callable[[Sequence[str]], Mapping[str, Sequence[Datum]]]


class Series:
    """All tables of one optimizer in one run.

    Args:
        versions: Tag to description: one entry a row set.
        read: The data of each of several tags; a tag that does not exist is left out.
    """

    def __init__(self, versions: Mapping[str, Description], read: Read) -> None:
        self._read = read
        self._versions = dict(versions)
        found = read([f"{tag}/{HEADER}" for tag in versions])
        headers = [(datum, tag) for tag in versions for datum in found.get(f"{tag}/{HEADER}", ())]
        headers.sort(key=lambda pair: pair[0].wall_time)  # stable: equal times stay as they were read
        latest = {datum.step: (datum, tag) for datum, tag in headers}
        ordered = [latest[step] for step in sorted(latest)]
        self.steps: list[int] = [datum.step for datum, _ in ordered]
        #: When the table of each step was written: tells a step that was written again.
        self.written: list[float] = [datum.wall_time for datum, _ in ordered]
        self._at = {(tag, datum.step, datum.wall_time): at for at, (datum, tag) in enumerate(ordered)}
        self._headers = [(self._versions[tag], _array(datum)) for datum, tag in ordered]
        self._join_rows(list(dict.fromkeys(tag for _, tag in headers)))

    def _join_rows(self, tags: Sequence[str]) -> None:
        self._index: dict[Key, int] = {}
        self._places: dict[str, npt.NDArray[np.int64]] = {}
        rows: list[RowInfo] = []
        sizes: list[int] = []
        for tag in tags:
            about = self._versions[tag]
            newest = list(zip(_keys(about.rows), about.rows, about.sizes(), strict=True))
            for key, row, size in newest:
                at = self._index.setdefault(key, len(rows))
                rows[at : at + 1], sizes[at : at + 1] = [row], [size]  # the newest description of a row stays
            self._places[tag] = np.array([self._index[key] for key, _, _ in newest], dtype=np.int64)
        self.rows, self.sizes = tuple(rows), tuple(sizes)

    @property
    def rows_version(self) -> str:
        """Changes whenever `rows` do."""
        return hashlib.sha256(repr(self.rows).encode("utf-8", "backslashreplace")).hexdigest()[:12]

    @property
    def columns(self) -> tuple[str, ...]:
        """The statistics that any of its tables has."""
        return tuple(dict.fromkeys(name for about in self._versions.values() for name in about.columns))

    def header(self) -> tuple[list[str], npt.NDArray[np.float64]]:
        """Names and values, shape ``(steps, names)``, of step-wide numbers; NaN where there is none."""
        names = list(dict.fromkeys(name for about, _ in self._headers for name in about.header))
        values = np.full((len(self.steps), len(names)), np.nan)
        for at, (about, numbers) in enumerate(self._headers):
            for name, number in zip(about.header, numbers.ravel().tolist(), strict=False):
                values[at, names.index(name)] = number
        return names, values

    def column(self, name: str) -> npt.NDArray[np.float32]:
        """A statistic, shape ``(steps, rows)``; NaN where a table has no such row or figure."""
        values = np.full((len(self.steps), len(self.rows)), np.nan, dtype=np.float32)
        for at, tag, _, array in self._columns([name]):
            values[at, self._places[tag]] = array
        return values

    def at_step(self, step: int) -> npt.NDArray[np.float32]:
        """All statistics at one of ``steps``, shape ``(columns, rows)``."""
        wanted = self.steps.index(step)
        values = np.full((len(self.columns), len(self.rows)), np.nan, dtype=np.float32)
        for at, tag, column, array in self._columns(self.columns):
            if at == wanted:
                values[column, self._places[tag]] = array
        return values

    def of_row(self, row: int) -> npt.NDArray[np.float32]:
        """All statistics of one row, shape ``(columns, steps)``."""
        values = np.full((len(self.columns), len(self.steps)), np.nan, dtype=np.float32)
        local = {tag: np.flatnonzero(places == row).tolist() for tag, places in self._places.items()}
        for at, tag, column, array in self._columns(self.columns):
            for within in local[tag]:
                values[column, at] = array[within]
        return values

    def histograms(self, row: int) -> npt.NDArray[np.int32]:
        """Counts of one row, shape ``(steps, histograms, bins)``; zeros where a table keeps none."""
        counts = np.zeros((len(self.steps), len(HISTOGRAMS), WIDTH), dtype=np.int32)
        for tag, places in self._places.items():
            for local in np.flatnonzero(places == row).tolist():
                block, within = divmod(local, BLOCK)
                size = min(BLOCK, len(places) - block * BLOCK)
                for at, array in self._parts(tag, [f"{HISTOGRAM}/{block}"])[0]:
                    with suppress(ValueError):  # damaged
                        counts[at] = unpack_row(array, size, within)
        return counts

    def blocks(self, wanted: Collection[int]) -> Iterator[tuple[int, npt.NDArray[np.int64], Counts]]:
        """Position of a step, rows, and their counts: blocks of rows at those steps that are ``wanted``."""
        for tag, places in self._places.items():
            for start in range(0, len(places), BLOCK):
                rows = places[start : start + BLOCK]
                for at, array in self._parts(tag, [f"{HISTOGRAM}/{start // BLOCK}"])[0]:
                    if at in wanted:
                        yield at, rows, unpack(array, len(rows))

    def _columns(self, names: Sequence[str]) -> Iterator[tuple[int, str, int, npt.NDArray[Any]]]:
        """Position of the step, tag, position in ``names``, and the figures of all rows of that tag."""
        for tag, places in self._places.items():
            several = max(1, _AT_ONCE // max(1, 4 * len(self.steps) * len(places)))
            for start in range(0, len(names), several):
                batch = [f"{COLUMN}/{name}" for name in names[start : start + several]]
                for offset, part in enumerate(self._parts(tag, batch)):
                    for at, array in part:
                        if array.shape == places.shape:  # else it was damaged
                            yield at, tag, start + offset, array

    def _parts(self, tag: str, parts: Sequence[str]) -> list[list[tuple[int, npt.NDArray[Any]]]]:
        """Position of the step and array of every event that counts, for each of ``parts``."""
        found = self._read([f"{tag}/{part}" for part in parts])
        return [
            [
                (at, _array(datum))
                for datum in found.get(f"{tag}/{part}", ())
                if (at := self._at.get((tag, datum.step, datum.wall_time))) is not None
            ]
            for part in parts
        ]


def _array(datum: Datum) -> npt.NDArray[Any]:
    """What ``datum`` holds; TensorBoard's fast loader also hands out what a damaged file says."""
    try:
        return datum.numpy
    except (TypeError, ValueError):
        return np.empty((0, 0))


def _keys(rows: Sequence[RowInfo]) -> Iterator[Key]:
    """Names, numbered where one appears more than once."""
    seen: Counter[str] = Counter()
    for row in rows:
        yield row.name, seen[row.name]
        seen[row.name] += 1
