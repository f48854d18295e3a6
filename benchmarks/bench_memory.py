"""Extra memory at the peak of one reading, as a share of the optimizer's state, for each engine."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from _measure import Result, Table, finish, options, parsed
from _tensors import Bench, engines, equal_shapes, fits, gpt2_shapes, quick_gpt2_shapes


def main() -> None:
    """Measure each engine in a process of its own, print and write."""
    parser = options(__doc__ or "")
    parser.add_argument("--engine", help="measure this engine here and print the figures as JSON")
    args = parsed(parser, repetitions=1)
    shapes = quick_gpt2_shapes() if args.quick else gpt2_shapes()
    if args.engine:
        print(json.dumps(_peak(Bench(shapes, args.device), args.engine)))
        return
    result = Result("memory", args.device, args.quick)
    elements = sum(torch.Size(shape).numel() for shape in shapes.values())
    if not fits(elements, torch.float32, args.device):
        result.note(f"{elements:,} elements do not fit into free memory: nothing measured")
    else:
        result.tables.append(_table(args, result))
    finish(result, args.results, args.cores_given)


def _table(args: Any, result: Result) -> Table:
    table = Table(
        "Extra memory of one reading",
        "At its peak, without a copy of the parameters (snapshot=False). buffers: the packed figures and "
        "counts, which every reading hands over. beyond: the rest, as a share of both moments.",
    )
    for name in engines(args.device, 10**9):
        found = _in_its_own_process(name, args)
        state, extra, buffers = (found[key] for key in ("state", "extra", "buffers"))
        beyond = max(extra - buffers, 0) / state
        table.rows.append(
            {
                "engine": name,
                "state MB": state / 1e6,
                "extra MB": extra / 1e6,
                "buffers MB": buffers / 1e6,
                "beyond": beyond,
                "beyond %": 100 * beyond,
            }
        )
        if name in ("numba", "triton") and not args.quick:
            result.bars[f"{args.device}_memory"] = beyond
    return table


def _in_its_own_process(engine: str, args: Any) -> dict[str, int]:
    """The peak of a process is the peak of all that it ever did: start one for each engine."""
    command = [sys.executable, __file__, "--engine", engine, "--device", args.device]
    command += ["--threads", str(torch.get_num_threads())] + ["--quick"] * args.quick
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring {engine} ended with {done.returncode}:\n{done.stderr}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak(bench: Bench, name: str) -> dict[str, int]:
    """Peak of one reading above what was there before it; code is compiled and loaded before."""
    engine = engines(bench.device, 10**9)[name]
    Bench(equal_shapes(500_000, 4), bench.device).read(engine)
    if bench.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        reading = bench.read(engine)
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
    else:
        _forget_peak()
        before = _status("VmRSS")
        reading = bench.read(engine)
        extra = _status("VmHWM") - before
    return {"state": bench.state_bytes(), "extra": extra, "buffers": reading.host.nbytes}


def _forget_peak() -> None:
    """Let the kernel begin a new peak (Linux); without that a peak before the reading hides a lower one."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        print(f"the peak cannot be reset here ({error}): figures are too low", file=sys.stderr)


def _status(field: str) -> int:
    """Bytes of a field of this process, such as ``VmHWM``, its peak."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[field].split()[0]) * 1024
    except OSError:  # not Linux: only the peak is known
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
