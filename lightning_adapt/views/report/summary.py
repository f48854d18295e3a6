"""What a run was and how it went, as plain values: the top of a report, and all of its ``--format json``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.views.event_file import description_of
from lightning_adapt.views.findings import worst_first
from lightning_adapt.views.report.recording import Place, Recording
from lightning_adapt.views.rollup import floor_cause, summarise, worst_rows

MOST_WORST = 10
_MOST_SETTINGS = 24
Values = dict[str, Any]


def summary_of(
    run: str, recording: Recording, optimizer: str, findings: Sequence[Mapping[str, Any]]
) -> Values:
    """Sum up one optimizer of one run.

    Args:
        run: What the run is called.
        recording: Its event files.
        optimizer: One of those in it.
        findings: What is wrong with it; worst first in what comes out.
    """
    places = recording.places[optimizer]
    last, shown = _last_tables(recording, optimizer)
    return {
        "run": run,
        "optimizer": optimizer,
        **trained(recording.folder, recording.trained(optimizer)),
        "parameters": len(last.rows),
        "elements": sum(_sizes(recording, places[-1])),
        "steps": {
            "read": len(places),
            "first": places[0].step,
            "last": places[-1].step,
            "made": last.real_steps,
            "skipped": last.skipped_steps,
        },
        "dtypes": _dtypes(last),
        "loss": _loss(recording),
        **_numbers(places, recording),
        "findings_from": "training" if recording.judged else "afterwards",
        "findings": [dict(finding) for finding in worst_first(findings)],
        "worst": None if shown is None else _worst(shown),
        "notes": list(recording.damage),
    }


def _last_tables(recording: Recording, optimizer: str) -> tuple[DynamicsTable, DynamicsTable | None]:
    """The last table, and the last one of a step that was not skipped."""
    last = None
    for place in reversed(recording.places[optimizer]):
        for table in recording.tables(optimizer, [place]):
            last = last or table
            if not table.skipped:
                return last, table
    if last is None:
        raise ValueError(f"the tables of {optimizer} in {recording.folder} are damaged; none can be read")
    return last, None


def _sizes(recording: Recording, place: Place) -> list[int]:
    return description_of(recording.contents[place.tag]).sizes()


def _dtypes(table: DynamicsTable) -> list[Values]:
    counted = Counter((row.dtype, row.state_dtype) for row in table.rows)
    return [
        {"parameter": dtype, "state": state or None, "parameters": count}
        for (dtype, state), count in counted.most_common()
    ]


def _numbers(places: Sequence[Place], recording: Recording) -> Values:
    """Learning rates, other hyperparameters and loss scale over all steps."""
    series: dict[str, list[float]] = {}
    for place in places:
        names = description_of(recording.contents[place.tag]).header
        for name, number in zip(names, place.header.tolist(), strict=False):
            series.setdefault(name, []).append(number)
    ranges = {name: found for name, numbers in series.items() if (found := span(numbers))}
    others: dict[str, dict[str, Any]] = {}
    for name, found in ranges.items():
        if name.startswith("hyper/"):
            group, _, key = name.removeprefix("hyper/").rpartition("/")
            others.setdefault(group, {})[key] = found
    rates = {name.removeprefix("lr/"): found for name, found in ranges.items() if name.startswith("lr/")}
    return {"learning_rates": rates, "hyperparameters": others, "loss_scale": ranges.get("loss_scale")}


def span(numbers: Iterable[float]) -> Values | None:
    """First, last, smallest and largest of what is known; ``None`` where nothing is.

    Example:
        >>> span([float("nan"), 3.0, 1.0, 2.0])
        {'first': 3.0, 'last': 2.0, 'min': 1.0, 'max': 3.0}
    """
    known = [number for number in numbers if not math.isnan(number)]
    if not known:
        return None
    return {"first": known[0], "last": known[-1], "min": min(known), "max": max(known)}


def _loss(recording: Recording) -> Values | None:
    tag = likely_loss(recording.scalars)
    if tag is None:
        return None
    values = [value for _, value in sorted(recording.scalars[tag].items())]
    found = span(values)
    return None if found is None else {"tag": tag, **found}


def likely_loss(tags: Iterable[str]) -> str | None:
    """The tag that is most likely the training loss, as the views choose it.

    Example:
        >>> likely_loss(["val/loss", "train/acc", "train/loss"])
        'train/loss'
    """

    def score(tag: str) -> float:
        text = tag.lower()
        if "loss" not in text or "loss_scale" in text:
            return 0
        return 1 + 2 * ("train" in text) + ("step" in text) - 0.5 * ("val" in text)

    best = max(sorted(tags), key=score, default=None)
    return best if best is not None and score(best) > 0 else None


def _worst(table: DynamicsTable) -> Values:
    rows = []
    for at in worst_rows(table, MOST_WORST):
        row = table.rows[at]
        figures = dict(zip(table.columns, table.values[at].tolist(), strict=True))
        rows.append(
            {
                "parameter": row.name,
                "group": row.group,
                "shape": list(row.shape),
                "dtype": row.dtype,
                "state_dtype": row.state_dtype or None,
                "floor_cause": floor_cause(table, at),
                "statistics": figures,
            }
        )
    with np.errstate(all="ignore"):  # the figures may be inf
        return {"step": table.step, "overall": summarise(table), "rows": rows}


def trained(folder: Path, told: Mapping[str, Any]) -> Values:
    """Model, its settings and precision.

    Args:
        folder: Of the run, where LightningCLI leaves ``config.yaml`` and Lightning ``hparams.yaml``.
        told: What the event file says; where it does not, the folder does, or nobody.
    """
    config = _yaml(folder / "config.yaml")
    model, trainer = _mapping(config.get("model")), _mapping(config.get("trainer"))
    settings = _mapping(model.get("init_args", model if "class_path" not in model else {}))
    settings = _mapping(told.get("settings")) or settings or _yaml(folder / "hparams.yaml")
    plain = {
        str(key): value
        for key, value in settings.items()
        if isinstance(value, str | int | float) and not str(key).startswith("_")
    }
    name, precision = told.get("model") or model.get("class_path"), trainer.get("precision")
    return {
        "model": None if name is None else str(name),
        "settings": dict(list(plain.items())[:_MOST_SETTINGS]),
        "precision": told.get("precision") or (None if precision is None else str(precision)),
    }


def _yaml(file: Path) -> Mapping[str, Any]:
    try:
        import yaml

        return _mapping(yaml.safe_load(file.read_text(encoding="utf-8")))
    except Exception:  # it is the user's file: whatever it holds, the report goes without
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def strict(values: Any) -> Any:
    """``values`` as all languages read JSON: NaN becomes null, inf the text ``"inf"``, numpy's numbers plain.

    Example:
        >>> strict({"a": [float("nan"), float("-inf"), 1.5]})
        {'a': [None, '-inf', 1.5]}
    """
    if isinstance(values, Mapping):
        return {str(key): strict(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [strict(value) for value in values]
    if isinstance(values, np.generic):
        values = values.item()
    if isinstance(values, float) and not math.isfinite(values):
        return None if math.isnan(values) else "inf" if values > 0 else "-inf"
    return values
