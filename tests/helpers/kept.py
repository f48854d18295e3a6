"""What a data provider keeps, without TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_adapt.dynamics import DynamicsTable
from lightning_adapt.views.event_file import Description, array_of, describe_table, parts_of, to_summary
from lightning_adapt.views.tab.series import Series


@dataclass
class Kept:
    """One tensor of one event."""

    step: int
    wall_time: float
    numpy: Any


@dataclass
class Logs:
    """Tables by tag, and what was asked for."""

    data: dict[str, list[Any]] = field(default_factory=dict)
    about: dict[str, Description] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)

    def add(self, table: DynamicsTable, wall_time: float) -> None:
        for value in to_summary(table, describe=True).value:
            self.data.setdefault(value.tag, []).append(Kept(table.step, wall_time, array_of(value)))
            self.about[parts_of(value.tag)[0]] = Description.of(describe_table(table))

    def series(self) -> Series:
        return Series(self.about, self.read)

    def read(self, tags: Sequence[str]) -> dict[str, list[Any]]:
        self.asked.append(list(tags))
        return {tag: self.data[tag] for tag in tags if tag in self.data}


def series_of(*tables: DynamicsTable) -> Series:
    """A series of tables that were written one second after another."""
    logs = Logs()
    for time, each in enumerate(tables):
        logs.add(each, float(time))
    return logs.series()
