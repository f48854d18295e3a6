"""One run's event files, read without holding them in memory: an index first, tables when they are wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.views import alerts
from lightning_adapt.views.event_file import HEADER, TAG, array_of, description_of, from_parts, parts_of
from lightning_adapt.views.records import OVERHEAD, Unreadable, record_at, records
from lightning_adapt.views.tab.series import Datum, Series

T = TypeVar("T")
Scalars = dict[str, dict[int, float]]
"""Tag to step to value."""


@dataclass(frozen=True)
class Place:
    """Where the table of one step lies."""

    step: int
    wall_time: float
    tag: str
    file: Path
    offset: int
    header: npt.NDArray[np.float64] = field(compare=False)


@dataclass(frozen=True)
class Kept:
    """One tensor of one event."""

    step: int
    wall_time: float
    numpy: npt.NDArray[Any]


@dataclass
class Recording:
    """What the event files of one folder hold.

    Args:
        folder: The run.
        contents: What each tag's metadata say.
        places: By optimizer, one entry a step, sorted; a step that was written again is the later writing.
        scalars: Of users and ours; the later value of a step that was written again.
        findings: Of `OptimizerHealthMonitor`, empty if it found nothing or did not run.
        judged: Whether that monitor looked at the run.
        damage: A sentence for every file that could be read only in part.
    """

    folder: Path
    contents: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    scalars: Scalars = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    judged: bool = False
    damage: list[str] = field(default_factory=list)

    def rows(self, optimizer: str) -> int:
        """The most parameters that any of its tables has."""
        tags = {place.tag for place in self.places[optimizer]}
        return max(len(description_of(self.contents[tag]).rows) for tag in tags)

    def trained(self, optimizer: str) -> dict[str, Any]:
        """What the last table says of the run: ``model``, ``settings``, ``precision``; empty if nothing."""
        known = json.loads(self.contents[self.places[optimizer][-1].tag]).get("trained")
        return known if isinstance(known, dict) else {}

    def tables(self, optimizer: str, places: Sequence[Place] | None = None) -> Iterator[DynamicsTable]:
        """Its tables one after another, all by default; what does not fit together is left out."""
        for place, values in _reread(self.places[optimizer] if places is None else places):
            parts = {part: array for tag, part, array in values if tag == place.tag}
            if HEADER in parts:
                yield from_parts(self.contents[place.tag], place.step, parts)

    def series(self, optimizer: str, places: Sequence[Place]) -> Series:
        """The tables at ``places`` as the tab's views want them."""
        data: dict[str, list[Datum]] = {}
        for place, values in _reread(places):
            for tag, part, array in values:
                data.setdefault(f"{tag}/{part}", []).append(Kept(place.step, place.wall_time, array))
        tags = dict.fromkeys(place.tag for place in places)
        versions = {tag: description_of(self.contents[tag]) for tag in tags}
        return Series(versions, lambda wanted: {tag: data[tag] for tag in wanted if tag in data})


def read_recording(folder: Path) -> Recording:
    """Index the event files of ``folder`` itself.

    Raises:
        ModuleNotFoundError: If TensorBoard is not installed.
    """
    found = Recording(folder)
    latest: dict[tuple[str, int], Place] = {}
    values: list[tuple[float, int, str, float]] = []
    texts: list[tuple[float, int, Any]] = []
    for file in sorted(path for path in folder.glob("*tfevents*") if path.is_file()):
        for offset, event in _events(file, found.damage):
            _tables_of(event, file, offset, found, latest)
            for value in event.summary.value:
                if value.tag.startswith(f"{alerts.TAG}/"):
                    texts.append((event.wall_time, event.step, array_of(value)))
                elif (number := _scalar(value)) is not None:
                    values.append((event.wall_time, event.step, value.tag, number))
    for place in sorted(latest.values(), key=lambda place: place.step):
        if place.tag in found.contents:
            found.places.setdefault(place.tag.split("/")[1], []).append(place)
    for _, step, tag, number in sorted(values, key=lambda value: value[:2]):
        found.scalars.setdefault(tag, {})[step] = number
    ordered = sorted(texts, key=lambda text: text[:2])
    found.findings = alerts.latest(text for _, _, array in ordered for text in array.ravel())
    if (folder / alerts.DUMP).is_file():
        found.findings, found.judged = alerts.read_findings(folder), True
        return found
    found.judged = bool(texts) or any(tag.startswith("health/") for tag in found.scalars)
    return found


def _tables_of(
    event: Any, file: Path, offset: int, found: Recording, latest: dict[tuple[str, int], Place]
) -> None:
    for value in event.summary.value:
        tag, part = parts_of(value.tag)
        if part != HEADER or not tag.startswith(f"{TAG}/"):
            continue
        if value.metadata.plugin_data.content:
            found.contents.setdefault(tag, value.metadata.plugin_data.content)
        which = (tag.split("/")[1], event.step)
        if which not in latest or latest[which].wall_time <= event.wall_time:
            latest[which] = Place(event.step, event.wall_time, tag, file, offset, array_of(value))


def _scalar(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if value.metadata.plugin_data.plugin_name != "scalars" or not value.HasField("tensor"):
        return None
    array = array_of(value)
    return float(array) if array.shape == () else None


def _parse() -> Callable[[bytes], Any]:
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    parse: Callable[[bytes], Any] = Event.FromString
    return parse


def _events(file: Path, damage: list[str]) -> Iterator[tuple[int, Any]]:
    """Offset and event of every record, as far as the file can be read."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    parse, offset = _parse(), 0
    try:
        for record in records(file):
            yield offset, parse(record)
            offset += len(record) + OVERHEAD
    except (Unreadable, DecodeError) as error:
        reason = error if isinstance(error, Unreadable) else "a record is no event"
        damage.append(f"{file}, which was read only in part: {reason}")


def _reread(places: Sequence[Place]) -> Iterator[tuple[Place, list[tuple[str, str, npt.NDArray[Any]]]]]:
    """Each place with tag, part and array of what lies there."""
    parse = _parse()
    for place in places:
        with place.file.open("rb") as file:
            event = parse(record_at(file, place.offset))
        ours = [value for value in event.summary.value if value.tag.startswith(f"{place.tag}/")]
        yield place, [(*parts_of(value.tag), array_of(value)) for value in ours]


def thinned(places: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of them, evenly spread, the first and the last among them.

    Example:
        >>> thinned(range(10), 4)
        [0, 3, 6, 9]
    """
    if len(places) <= most:
        return list(places)
    at = np.unique(np.linspace(0, len(places) - 1, max(most, 2)).round().astype(int))
    return [places[index] for index in at.tolist()]
