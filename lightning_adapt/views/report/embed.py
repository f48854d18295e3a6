"""What the views of a report need, as compressed bodies: the same answers that the tab's back end gives."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_adapt.dynamics.histograms import HISTOGRAMS
from lightning_adapt.views.report.bins import histograms
from lightning_adapt.views.report.numbers import EXACT, ROUGH, ROUNDED, encode
from lightning_adapt.views.report.recording import Recording, thinned
from lightning_adapt.views.tab import answers, wire
from lightning_adapt.views.tab.catalogue import catalogue
from lightning_adapt.views.tab.series import Series

EXACT_CELLS = 60_000
"""Parameters × steps up to which every figure is kept as it is: some 5 MB."""
MOST_CELLS = 1_000_000
"""Parameters × steps of a whole report: some 30 MB."""
CELLS, ROOM = 200_000, 9.5e6
"""So many parameters × steps get so many bytes; figures are rounded further where that is not enough."""
HISTOGRAM_CELLS = 60_000
"""Parameters × steps with histograms, where figures are rounded."""
_HISTOGRAM_BITS = 4
_MOST_POINTS = 5_000
_MOST_TAGS = 100
Run = tuple[str, Recording, Mapping[str, Sequence[Mapping[str, Any]]]]
_OURS = ("dynamics/", "monitor/", "health/")


@dataclass
class Bodies:
    """Bodies of a page, compressed; the first is the index."""

    all: list[bytes] = field(default_factory=lambda: [b""])

    def add(self, content: bytes) -> int:
        """Add what is compressed already; returns its place."""
        self.all.append(content)
        return len(self.all) - 1

    def pack(self, content: bytes) -> int:
        """Compress and add."""
        return self.add(zlib.compress(content, 6))


@dataclass(frozen=True)
class Counted:
    """Histograms of one series, encoded.

    Args:
        steps: Of which they are kept.
        bits: Mantissa bits of the counts.
        kinds: First bin and number of bins of each row, counts, and what lies outside of all bins.
    """

    steps: list[int]
    bits: int
    kinds: list[tuple[list[int], list[int], bytes, bytes]]


@dataclass(frozen=True)
class Embedded:
    """Bodies, and sentences about what they leave out."""

    bodies: list[bytes]
    notes: dict[tuple[str, str], list[str]]


def embed(runs: Sequence[Run]) -> Embedded:
    """Put the tables of runs into bodies.

    Args:
        runs: Name, recording, and findings by optimizer of each.
    """
    cells = sum(r.rows(o) * len(places) for _, r, _ in runs for o, places in r.places.items())
    share = min(1.0, MOST_CELLS / max(cells, 1))
    shown = min(cells, MOST_CELLS)
    counted: dict[tuple[str, str], Counted] = {}
    if cells <= EXACT_CELLS:
        return _embed(runs, share, EXACT, counted)
    found = _embed(runs, share, ROUNDED, counted)
    # Base64 takes four bytes for three.
    size = sum(map(len, found.bodies)) * 4 / 3
    return found if size <= ROOM * max(1.0, shown / CELLS) else _embed(runs, share, ROUGH, counted)


def _embed(
    runs: Sequence[Run], share: float, mantissa: int, counted: dict[tuple[str, str], Counted]
) -> Embedded:
    """Put it together; histograms that are in ``counted`` are not made again."""
    bodies, series, notes = Bodies(), [], {}
    for run, recording, findings in runs:
        for optimizer, places in recording.places.items():
            kept = thinned(places, max(2, int(len(places) * share)))
            one = recording.series(optimizer, kept)
            about = {"run": run, "optimizer": optimizer, "findings": findings[optimizer]}
            if (run, optimizer) not in counted:
                counted[run, optimizer] = _counted(one, mantissa == EXACT)
            series.append({**about, **_series(one, bodies, mantissa, counted[run, optimizer])})
            histograms = len(series[-1]["histograms"]["steps"])
            notes[run, optimizer] = _notes(len(places), len(kept), histograms, mantissa)
    index = {
        "catalogue": catalogue(),
        "runs": [_listed(each) for each in series],
        "series": series,
        "scalars": [[run, _scalars(recording, bodies)] for run, recording, _ in runs],
    }
    bodies.all[0] = zlib.compress(json.dumps(index, allow_nan=False).encode(), 9)
    return Embedded(bodies.all, notes)


def _listed(series: dict[str, Any]) -> dict[str, Any]:
    rows = len(series["rows"]["rows"])
    return {**{key: series[key] for key in ("run", "optimizer", "last_step")}, "rows": rows, "changed": 0}


def _series(series: Series, bodies: Bodies, mantissa: int, counted: Counted) -> dict[str, Any]:
    return {
        "rows": json.loads(answers.rows(series)),
        "last_step": series.steps[-1],
        "count": len(series.steps),
        "columns": series.columns,
        "mantissa": mantissa,
        "steps": bodies.pack(answers.steps(series)),
        "bodies": [bodies.add(encode(series.column(name), mantissa)) for name in series.columns],
        "histograms": _histograms(counted, bodies),
    }


def _counted(series: Series, exact: bool) -> Counted:
    count = len(series.steps)
    most = count if exact else max(2, HISTOGRAM_CELLS // len(series.rows))
    at = thinned(range(count), most)
    # Counts are drawn as colours, so four bits of each are enough.
    bits = EXACT if exact else _HISTOGRAM_BITS
    kinds = [
        (kind.firsts, kind.lengths, encode(kind.counts, bits), encode(kind.outside))
        for kind in histograms(series, at)
    ]
    return Counted([series.steps[index] for index in at], bits, kinds)


def _histograms(counted: Counted, bodies: Bodies) -> dict[str, Any]:
    return {
        "steps": counted.steps,
        "kinds": {
            bins.name: {
                "firsts": firsts,
                "lengths": lengths,
                "edges": bins.edges.tolist(),
                "mantissa": counted.bits,
                "exact": EXACT,
                "counts": bodies.add(counts),
                "outside": bodies.add(outside),
            }
            for bins, (firsts, lengths, counts, outside) in zip(HISTOGRAMS, counted.kinds, strict=True)
        },
    }


def _scalars(recording: Recording, bodies: Bodies) -> dict[str, int]:
    tags = [tag for tag in recording.scalars if not tag.startswith(_OURS)]
    tags.sort(key=lambda tag: "loss" not in tag.lower())
    found = {}
    for tag in tags[:_MOST_TAGS]:
        points = sorted(recording.scalars[tag].items())
        points = points[:: -(-len(points) // _MOST_POINTS)]
        steps, values = np.array(points, dtype=np.float64).T
        found[tag] = bodies.pack(wire.pack({}, {"steps": steps.copy(), "values": values.copy()}))
    return found


def _notes(written: int, kept: int, histograms: int, mantissa: int) -> list[str]:
    found = []
    if kept < written:
        found.append(
            f"The views show {kept:,} of the {written:,} steps that were read, evenly spread, to keep this "
            "file small; TensorBoard and `read_dynamics` have all of them."
        )
    if mantissa < EXACT:
        off = 100 * 2.0 ** -(mantissa + 1)
        found.append(f"To keep this file small, figures in the views are rounded, by at most {off:.2g} %.")
    if histograms < kept:
        found.append(f"Histograms are kept of {histograms:,} steps, evenly spread.")
    return found
