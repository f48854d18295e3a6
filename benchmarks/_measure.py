"""What all benchmarks share: options, fair timing, and results as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
# What is measured is the code beside this file, whatever else may be installed.
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

if TYPE_CHECKING:
    from _bars import Bar

RESULTS = ROOT / "benchmarks" / "results"
Action = Callable[[], object]


def options(about: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run? says nothing of speed")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's choice)")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: cuda where there is one, else cpu"
    )
    parser.add_argument("--repetitions", type=int, help="of each measurement")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON file")
    return parser


def parsed(parser: argparse.ArgumentParser, *, repetitions: int) -> argparse.Namespace:
    """Read the command line, choose what was left open, and set torch's threads."""
    args = parser.parse_args()
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.repetitions = args.repetitions or (2 if args.quick else repetitions)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.cores_given = cores_given()
    return args


def cores_given() -> float:
    """Share of its threads' cores that this process really gets, 1 on a quiet machine.

    Where two threads of OpenMP have to share a core, each waits out a slice of the scheduler's (milliseconds)
    for the other at every operation: a fused AdamW step then takes many times as long, while an engine
    without such barriers does not, and a ratio of the two says nothing.
    """
    values = torch.ones(1 << 22)
    values.sin_()
    wall, used = perf_counter(), process_time()
    while perf_counter() - wall < 0.3:
        values.sin_()
    return (process_time() - used) / (perf_counter() - wall) / torch.get_num_threads()


# --- timing ---


def seconds(action: Action, device: str) -> float:
    """How long ``action`` takes on ``device``.

    On CUDA this is the time of the device alone: it is kept busy until the host has handed over everything,
    so that the host's own time (see `host_seconds`) does not show.
    """
    if device == "cpu":
        return host_seconds(action)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)  # cycles: about a tenth of a second
    start.record()
    action()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def host_seconds(action: Action) -> float:
    """How long the host is busy with ``action``."""
    start = perf_counter()
    action()
    return perf_counter() - start


def interleaved(
    actions: Mapping[str, Action],
    *,
    repetitions: int,
    device: str,
    clock: Callable[[Action, str], float] = seconds,
) -> dict[str, list[float]]:
    """Time ``actions`` in turn, again and again, so that a slow moment of the machine hits all of them.

    One round more is done first and thrown away; every second round goes backwards.

    Returns:
        Seconds of each repetition, by name; entry ``i`` of all lists comes from the same round.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for round_ in range(repetitions + 1):
        for name in list(actions) if round_ % 2 else reversed(list(actions)):
            took = clock(actions[name], device)
            if round_:
                times[name].append(took)
            print(f"\r  round {round_} of {repetitions}: {name:<40}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 70, end="\r", file=sys.stderr, flush=True)
    return times


def ratio(times: Mapping[str, list[float]], above: str, below: str) -> tuple[float, float, float]:
    """Median, least and greatest of the ratio of two actions within a round."""
    found = [a / b for a, b in zip(times[above], times[below], strict=True)]
    return median(found), min(found), max(found)


# --- results ---


@dataclass
class Table:
    """One table: what it shows, and rows that all have the same columns."""

    title: str
    about: str
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Result:
    """What one benchmark found.

    Args:
        name: Of the benchmark; the JSON file is called ``name-device``.
        device: ``"cpu"`` or ``"cuda"``.
        quick: Whether it was only a try.
        tables: What it found.
        bars: Measured values of bars (see `_bars.BARS`) by key.
        notes: What was left out and why.
    """

    name: str
    device: str
    quick: bool
    tables: list[Table] = field(default_factory=list)
    bars: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Say at once, and keep for the file, what was left out or has to be known."""
        print(f"note: {sentence}", flush=True)
        self.notes.append(sentence)


QUIET = 0.85


def finish(
    result: Result, folder: Path, cores_before: float | None, bars: Mapping[str, Bar] | None = None
) -> Path:
    """Print the tables and write everything to one JSON file; a busy machine judges no bar.

    Args:
        result: What was found.
        folder: Where the file goes.
        cores_before: `cores_given` at the start; ``None`` where figures are no times, so that it is all one.
        bars: What is promised; ``None`` takes what the monitor may cost.
    """
    from _bars import BARS, verdicts
    from rich.console import Console
    from rich.table import Table as Rich

    given = None if cores_before is None else min(cores_before, cores_given())
    if given is not None and given < QUIET and not result.quick:
        result.note(
            f"busy machine: this process got {given:.0%} of the cores of its threads, so ratios against "
            "torch's operations are not to be trusted and no bar is judged; measure again on a quiet one"
        )
        result.bars = {}
    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in [*result.tables, verdicts(result.bars, BARS if bars is None else bars)]:
        if not table.rows:
            continue
        shown = Rich(title=table.title, caption=table.about, title_justify="left", caption_justify="left")
        for column in table.rows[0]:
            shown.add_column(column, justify="right" if column not in _WORDS else "left")
        for row in table.rows:
            shown.add_row(*(readable(value) for value in row.values()))
        console.print(shown)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}-{result.device}{'-quick' if result.quick else ''}.json"
    made = {"made": date.today().isoformat(), "machine": machine(result.device), "cores_given": given}
    path.write_text(json.dumps(made | asdict(result), indent=1) + "\n")
    console.print(f"written to {path}", soft_wrap=True, highlight=False)
    return path


_WORDS = {
    *("engine", "dtype", "what", "where", "recipe", "monitor", "from", "to", "verdict"),
    *("sickness", "spikes", "by rule", "wrong", "which", "trial", "half", "not named", "named wrongly"),
    "said instead",
}


def readable(value: Any) -> str:
    """A cell of a table: three significant digits, thousands apart.

    Three are enough for every figure that is a ratio of noisy times.
    """
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine(device: str) -> dict[str, Any]:
    """Hardware and versions that figures depend on."""
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory_total() / 1e9),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    for package in ("torch", "numba", "triton", "lightning", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    about = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    generation = f" family {about['cpu family']} model {about['model']}" if "cpu family" in about else ""
    return about.get("model name", "unknown") + generation  # machines that are rented out have short names


def memory_total() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_free(device: str) -> int:
    """Bytes that may still be used on ``device``."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return memory_total() // 2
