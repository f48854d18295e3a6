"""Findings in a run's event file: written when one begins or ends, and read back.

Each writing is one summary with the tag ``optimizer_health/<optimizer>``: a tensor of strings, each a finding
as JSON. The same finding written again, with its end, replaces the earlier one.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_adapt.views.findings import Values, findings_markdown
from lightning_adapt.views.reader import summaries

TAG = "optimizer_health"
DUMP = "findings.json"
"""What a dump of the black box calls its findings."""


class AlertsView:
    """Writes findings through a ``torch.utils.tensorboard.SummaryWriter``: events, and a page of text.

    Args:
        writer: The logger's own writer.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._described: set[str] = set()

    def write(self, news: Sequence[Values], holding: Sequence[Values], step: int) -> None:
        """Write what is new, and the page of what holds now.

        Args:
            news: Findings that began or ended.
            holding: All that hold.
            step: Of the table.
        """
        self.write_events(news, step)
        self._writer.add_text("health/findings", findings_markdown(holding), step)

    def write_events(self, findings: Sequence[Values], step: int) -> None:
        """Write findings as they are now."""
        for optimizer in dict.fromkeys(finding["optimizer"] for finding in findings):
            tag = f"{TAG}/{optimizer}"
            mine = [finding for finding in findings if finding["optimizer"] == optimizer]
            summary = to_summary(tag, mine, describe=tag not in self._described)
            self._described.add(tag)
            self._writer._get_file_writer().add_summary(summary, step)


def to_summary(tag: str, findings: Sequence[Values], *, describe: bool) -> Any:
    """One summary that holds ``findings``; with metadata, once a tag and file."""
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.util.tensor_util import make_tensor_proto

    from lightning_adapt.views.event_file import PLUGIN_NAME

    texts = np.array([json.dumps(plain(finding)).encode() for finding in findings], dtype=object)
    made: Any = summary_pb2
    value = made.Summary.Value(tag=tag, tensor=make_tensor_proto(texts))
    if describe:
        value.metadata.CopyFrom(
            made.SummaryMetadata(
                plugin_data=made.SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=b"{}"),
                data_class=made.DATA_CLASS_TENSOR,
            )
        )
    return made.Summary(value=[value])


def plain(finding: Values) -> dict[str, Any]:
    """``finding`` as other languages read JSON too: no NaN, no inf."""
    return {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in finding.items()}


def _read(text: bytes | str) -> dict[str, Any]:
    finding: dict[str, Any] = json.loads(text)
    return {**finding, "value": math.nan if finding["value"] is None else finding["value"]}


def read_findings(logdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the findings that `OptimizerHealthMonitor` left in a run folder, or in a dump of its black box.

    Args:
        logdir: The folder that holds the event file, or the dump.

    Returns:
        Plain values (`lightning_adapt.health.Finding.from_dict` takes them), in the order in which they began;
        ``ended_at`` is ``None`` where they held to the end. Empty if nothing was found.

    Raises:
        FileNotFoundError: If there is no such folder, or neither an event file nor a dump in it.

    Example:
        >>> read_findings("no/such/folder")
        Traceback (most recent call last):
        ...
        FileNotFoundError: `logdir` must be a run folder or a dump, got 'no/such/folder', which does not exist; check the name
    """  # noqa: E501
    folder = Path(logdir)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`logdir` must be a run folder or a dump, got {str(folder)!r}, which does not exist; "
            "check the name"
        )
    if (folder / DUMP).is_file():
        return [_read(json.dumps(f)) for f in json.loads((folder / DUMP).read_text())["findings"]]
    files = sorted(folder.glob("*tfevents*"))
    if not files:
        raise FileNotFoundError(
            f"`logdir` must hold a TensorBoard event file or a dump, got {str(folder)!r} without; "
            "pass the run's own folder"
        )
    return _merged(files)


def _merged(files: Sequence[Path]) -> list[dict[str, Any]]:
    from tensorboard.util.tensor_util import make_ndarray

    damage: list[str] = []
    events = [
        (wall_time, step, value)
        for file in files
        for step, wall_time, values in summaries(file, damage, TAG, "findings")
        for value in values
    ]
    for sentence in damage:
        warnings.warn(sentence, RuntimeWarning, stacklevel=3)
    ordered = sorted(events, key=lambda event: event[:2])
    return latest(text for _, _, value in ordered for text in make_ndarray(value.tensor).ravel())


def latest(texts: Iterable[Any]) -> list[dict[str, Any]]:
    """The last word on each finding.

    Args:
        texts: Findings as JSON, in the order in which they were written.

    Returns:
        In the order in which they began.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for text in texts:
        try:
            finding = _read(text)
            which = tuple(finding[key] for key in ("optimizer", "rule", "parameter", "cause", "first_step"))
        except (KeyError, TypeError, ValueError):
            continue  # somebody else's text under our tag, or of another version
        found[which] = finding
    return sorted(found.values(), key=lambda finding: finding["first_step"])
