"""The last tables before something went wrong."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.health import Finding
from lightning_adapt.views.dump import write_dump


class BlackBox:
    """Keeps the last tables of each optimizer, and writes them down when asked.

    Args:
        keep: Tables of each optimizer.
        most: Dumps of a run; further ones are not written.
        dumped: Dumps of the run before it was resumed.
    """

    def __init__(self, keep: int, most: int, dumped: int = 0) -> None:
        self.dumped = dumped
        self._keep, self._most = keep, most
        self._tables: dict[str, deque[DynamicsTable]] = {}

    def add(self, table: DynamicsTable) -> None:
        """Keep one more table."""
        self._tables.setdefault(table.optimizer, deque(maxlen=self._keep)).append(table)

    @property
    def full(self) -> bool:
        """Whether there have been as many dumps as there may be."""
        return self.dumped >= self._most

    def dump(
        self, folder: Path, reason: str, step: int, findings: Sequence[Finding], about: Mapping[str, Any]
    ) -> Path:
        """Write the tables and ``findings`` into a new folder inside ``folder``.

        Args:
            folder: Of all dumps of the run.
            reason: Why, a rule's name or a few words.
            step: When.
            findings: All there are.
            about: What else to say, as JSON can.

        Returns:
            The new folder.
        """
        self.dumped += 1
        tables = sorted((t for kept in self._tables.values() for t in kept), key=lambda table: table.step)
        name = f"step_{step:06d}_{re.sub(r'[^A-Za-z0-9-]+', '-', reason)}"
        described = {"reason": reason, "step": step, **about}
        return write_dump(folder / name, tables, [finding.to_dict() for finding in findings], described)
