"""Series and scalars through TensorBoard's data provider, and through nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.data.provider import RunTagFilter

from lightning_adapt._text import unknown_name
from lightning_adapt.views import alerts
from lightning_adapt.views.event_file import HEADER, PLUGIN_NAME, TAG, Description, parts_of
from lightning_adapt.views.findings import worst_first
from lightning_adapt.views.tab.faults import Unknown
from lightning_adapt.views.tab.series import Datum, Read, Series

_ALL = 1_000_000
_describe = lru_cache(maxsize=64)(Description.of)


class Logs:
    """What one request may read.

    Args:
        provider: TensorBoard's data provider.
        context: Of the request.
        experiment: Id of the experiment, mostly empty.
    """

    def __init__(self, provider: Any, context: Any, experiment: str) -> None:
        self._provider, self._about = provider, {"ctx": context, "experiment_id": experiment}

    def runs(self) -> dict[str, list[dict[str, Any]]]:
        """Every series with its size and when it last changed, and what cannot be read, in words."""
        found: list[dict[str, Any]] = []
        problems: list[dict[str, Any]] = []
        for run, tags in sorted(self._tensors().items()):
            by_optimizer: dict[str, list[Any]] = {}
            for tag, listed in tags.items():
                stem, part = parts_of(tag)
                if part != HEADER or not stem.startswith(f"{TAG}/"):
                    continue
                try:
                    _describe(listed.plugin_content)
                    by_optimizer.setdefault(stem.split("/")[1], []).append(listed)
                except ValueError as error:
                    problems.append({"run": run, "problem": str(error)})
            for optimizer, each in by_optimizer.items():
                found.append(
                    {
                        "run": run,
                        "optimizer": optimizer,
                        "rows": max(len(_describe(listed.plugin_content).rows) for listed in each),
                        "last_step": max(listed.max_step for listed in each),
                        "changed": max(listed.max_wall_time for listed in each),
                    }
                )
        return {"series": found, "problems": problems}

    def series(self, run: str, optimizer: str) -> Series:
        """One optimizer of one run.

        Raises:
            Unknown: If there is none.
        """
        return Series(self._versions(run, optimizer), self._reader(run))

    def _versions(self, run: str, optimizer: str) -> dict[str, Description]:
        """Tags of the row sets of one optimizer, and what they say."""
        tags = self._tensors([run]).get(run)
        if not tags:
            raise Unknown(unknown_name("run", run, self._tensors()))
        versions: dict[str, Description] = {}
        optimizers: dict[str, None] = {}
        for tag, listed in tags.items():
            stem, part = parts_of(tag)
            if part == HEADER and stem.startswith(f"{TAG}/"):
                optimizers[stem.split("/")[1]] = None
                if stem.split("/")[1] == optimizer:
                    versions[stem] = _describe(listed.plugin_content)
        if not versions:
            raise Unknown(unknown_name("optimizer", optimizer, optimizers))
        return versions

    def _tensors(self, runs: Sequence[str] | None = None) -> Mapping[str, Mapping[str, Any]]:
        chosen = RunTagFilter(runs=runs)
        found: Mapping[str, Mapping[str, Any]] = self._provider.list_tensors(
            **self._about, plugin_name=PLUGIN_NAME, run_tag_filter=chosen
        )
        return found

    def _reader(self, run: str) -> Read:
        def read(tags: Sequence[str]) -> Mapping[str, Sequence[Datum]]:
            found: Mapping[str, Mapping[str, Sequence[Datum]]] = self._provider.read_tensors(
                **self._about,
                plugin_name=PLUGIN_NAME,
                downsample=_ALL,
                run_tag_filter=RunTagFilter(runs=[run], tags=tags),
            )
            return found.get(run, {})

        return read

    def findings(self, run: str, optimizer: str) -> list[dict[str, Any]]:
        """What health monitoring found: the last word on each finding, worst first.

        Raises:
            Unknown: If there is no such run or optimizer.
        """
        self._versions(run, optimizer)
        tag = f"{alerts.TAG}/{optimizer}"
        data = sorted(self._reader(run)([tag]).get(tag, ()), key=lambda datum: datum.wall_time)
        found = alerts.latest(text for datum in data for text in datum.numpy.ravel())
        return [alerts.plain(finding) for finding in worst_first(found)]

    def scalar_tags(self, run: str) -> list[str]:
        """Tags of the scalars of a run.

        Raises:
            Unknown: If there is no such run with scalars.
        """
        listed = self._provider.list_scalars(
            **self._about, plugin_name="scalars", run_tag_filter=RunTagFilter(runs=[run])
        )
        if run not in listed and run not in self._tensors([run]):
            raise Unknown(unknown_name("run", run, self._tensors()))
        return sorted(listed.get(run, ()))

    def scalar(self, run: str, tag: str) -> dict[str, npt.NDArray[np.float64]]:
        """Steps and values of one scalar; the later one stays where a step was written again.

        Raises:
            Unknown: If there is none.
        """
        found = self._provider.read_scalars(
            **self._about,
            plugin_name="scalars",
            downsample=_ALL,
            run_tag_filter=RunTagFilter(runs=[run], tags=[tag]),
        )
        data = found.get(run, {}).get(tag)
        if data is None:
            raise Unknown(unknown_name("tag", tag, self.scalar_tags(run)))
        latest = {datum.step: datum.value for datum in sorted(data, key=lambda datum: datum.wall_time)}
        steps = sorted(latest)
        values = [latest[step] for step in steps]
        return {"steps": np.array(steps, dtype=np.float64), "values": np.array(values, dtype=np.float64)}
