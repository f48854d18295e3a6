"""The TensorBoard tab at scale: time to the first picture, to another statistic, memory, and the start."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
from _measure import ROOT, Result, Table, finish, options, parsed

sys.path.insert(0, str(ROOT / "tests"))

SIZES = ((1_000, 2_000), (10_000, 500))
QUICK = ((20, 30),)
STATISTICS = ("eps_floor_frac", "update_ratio", "grad_rms", "param_rms", "effective_lr_max")
_START = """
import json, sys, time
import tensorboard.default, tensorboard.program  # what TensorBoard loads in any case
from tensorboard import plugin_util
from tensorboard.backend import http_util
before = time.perf_counter()
from lightning_adapt.views.tab.loader import DynamicsLoader
from tensorboard.plugins.base_plugin import TBContext
DynamicsLoader().load(TBContext()).get_plugin_apps()
print(json.dumps(time.perf_counter() - before))
"""


def main() -> None:
    """Measure the start, then each size in a TensorBoard of its own, print and write."""
    parser = options(__doc__ or "")
    parser.add_argument("--loader", choices=["rust", "python"], default="rust", help="TensorBoard's loader")
    args = parsed(parser, repetitions=5)
    result = Result("tab", "cpu", args.quick)
    started = [_start() for _ in range(args.repetitions)]
    sizes = QUICK if args.quick else SIZES
    result.tables.append(_page(sizes, args, result))
    result.tables.append(
        Table(
            "Start of TensorBoard",
            "What the plugin adds to it: its imports and its routes, in a fresh interpreter.",
            [{"what": "seconds", "median": median(started), "least": min(started), "greatest": max(started)}],
        )
    )
    if not args.quick:
        result.bars["tab_start"] = median(started)
    finish(result, args.results, args.cores_given)


def _start() -> float:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _START], capture_output=True, text=True, cwd=ROOT, check=True
    )
    seconds: float = json.loads(done.stdout.splitlines()[-1])
    return seconds


def _page(sizes: Any, args: Any, result: Result) -> Table:
    table = Table(
        "The tab",
        f"TensorBoard's {args.loader} loader has read the file and shows another tab; then: seconds from the "
        "click on ours to the drawn heat map, from choosing another statistic to its heat map, to all lines "
        "at once, to one parameter and to one step; peak memory of TensorBoard and of its data server.",
    )
    from helpers.browser import Missing

    for parameters, steps in sizes:
        with tempfile.TemporaryDirectory() as folder:
            logs = Path(folder, "logs")
            size = _write(logs / "run", parameters, steps)
            try:
                row = _measured(logs, Path(folder), args)
            except Missing as reason:
                result.note(f"nothing is measured in a browser: {reason}")
                row = {}
        table.rows.append({"parameters": parameters, "steps": steps, "file MB": size / 1e6, **row})
        if row and (parameters, steps) == SIZES[0]:
            result.bars["tab_first"], result.bars["tab_switch"] = row["first s"], row["switch s"]
            result.bars["tab_memory"] = row["TensorBoard MB"]
    return table


def _write(folder: Path, parameters: int, steps: int) -> int:
    """An event file as a training leaves it; figures that look like a model's."""
    from helpers.tables import table
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    from lightning_adapt.views.event_file import to_summary

    names = [f"model.h.{at // 12}.part_{at % 12 // 4}.weight_{at % 4}" for at in range(parameters)]
    first = table(names, 1)
    drift = np.linspace(0, 2, steps)
    writer = EventFileWriter(str(folder))
    for step in range(steps):
        values = first.values * 10 ** -drift[step]
        each = table(names, step, values=values, histograms=first.histograms)
        writer.add_event(
            Event(step=step, wall_time=float(step), summary=to_summary(each, describe=step == 0))
        )
        if step % 50 == 0:
            print(f"\r  writing step {step + 1} of {steps}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 40, end="\r", file=sys.stderr)
    writer.close()
    return sum(path.stat().st_size for path in folder.iterdir())


def _measured(logs: Path, folder: Path, args: Any) -> dict[str, float]:
    from helpers.board import board
    from helpers.browser import chromium
    from helpers.tab import Tab

    flag = f"--load_fast={'true' if args.loader == 'rust' else 'false'}"
    with chromium() as browser, board(logs, folder, flag) as url:
        _loaded(url)
        tab = Tab(browser.new_page(viewport={"width": 1280, "height": 900}), url)
        tab.page.goto(f"{url}#timeseries")
        click = tab.page.get_by_text("Optimizer dynamics", exact=True)
        click.wait_for(timeout=60_000)
        first = _seconds(
            lambda: (click.click(), tab.arrived(), tab.frame.wait_for_selector(".grid .heatmaplayer image"))
        )
        switches = [_seconds(lambda name=name: tab.choose("Statistic", name)) for name in STATISTICS]
        row = {"first s": first, "switch s": median(switches)}
        row["all lines s"] = _seconds(
            lambda: (
                tab.button("Open all"),
                tab.frame.get_by_label("All lines at once").check(),
                tab.settled(),
            )
        )
        row["parameter s"] = _seconds(lambda: tab.button("One parameter"))
        row["step s"] = _seconds(lambda: tab.button("One step"))
        if faults := [*tab.errors, *tab.texts(".messages p")]:
            raise RuntimeError(f"the tab had faults: {faults}")
        own, server = _peaks(folder)
        return {**row, "TensorBoard MB": own / 1e6, "server MB": server / 1e6}


def _seconds(action: Any) -> float:
    start = perf_counter()
    action()
    return perf_counter() - start


def _loaded(url: str) -> None:
    """Wait until TensorBoard has read the whole file: what it lists no longer changes."""
    before, same = "", 0
    while same < 8:
        with urllib.request.urlopen(f"{url}data/plugin/lightning_adapt/runs") as answer:
            now = answer.read().decode()
        same = same + 1 if now == before and json.loads(now)["series"] else 0
        before = now
        sleep(0.5)


def _peaks(folder: Path) -> tuple[int, int]:
    """Peak memory of TensorBoard's process and of its data server, in bytes (Linux)."""
    own = server = 0
    for process in _below(folder):
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        peak = int(status.get("VmHWM", "0 kB").split()[0]) * 1024
        if "server" in status["Name"]:
            server = max(server, peak)
        else:
            own = max(own, peak)
    return own, server


def _below(folder: Path) -> Iterator[Path]:
    """Processes that run in ``folder``."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                yield process
        except OSError:
            continue


if __name__ == "__main__":
    main()
