"""Each engine against a measured copy and against a fused AdamW step, over sizes, tensors and dtypes."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from _measure import Action, Result, Table, finish, host_seconds, interleaved, options, parsed, ratio, seconds
from _tensors import Bench, Copy, Shapes, engines, equal_shapes, fits, gpt2_shapes, quick_gpt2_shapes

if TYPE_CHECKING:
    from lightning_adapt.dynamics.engines import Engine

FAST = {"cpu": "numba", "cuda": "triton"}
#: The eager engine needs milliseconds a tensor and tens of AdamW steps: beyond these it only costs patience.
EAGER_ELEMENTS, EAGER_TENSORS = 130_000_000, 1000


def main() -> None:
    """Measure, print and write."""
    args = parsed(options(__doc__ or ""), repetitions=7)
    result = Result("engines", args.device, args.quick)
    speed = Table(
        "Engines",
        "GB/s: bytes that must be read ÷ time. of copy: the same against a copy that moves as many bytes. "
        "× AdamW: time in units of a fused AdamW step on the same tensors, median, least and greatest.",
    )
    result.tables.append(speed)
    for label, shapes, dtype in _cases(args.quick, args.device):
        elements = sum(torch.Size(shape).numel() for shape in shapes.values())
        if not fits(elements, dtype, args.device):
            result.note(f"{elements:,} elements of {dtype} do not fit into free memory: left out")
            continue
        rows = _speed(shapes, dtype, args)
        speed.rows += rows
        if label == "gpt2" and dtype == torch.float32:
            _bars(result, rows, args)
        if label == "1b":
            _copy_bar(result, rows, "cuda_copy_1b")
    result.tables.append(_flatness(result, args))
    finish(result, args.results, args.cores_given)


def _cases(quick: bool, device: str) -> list[tuple[str, Shapes, torch.dtype]]:
    """Sizes, then tensors at a constant total, then dtypes."""
    sizes = [10_000, 100_000] if quick else [10**5, 10**6, 10**7, 10**8, 3 * 10**8]
    total, counts = (10_000, [10, 100]) if quick else (10**7, [10, 100, 1000, 10_000])
    gpt2 = quick_gpt2_shapes() if quick else gpt2_shapes()
    cases: list[tuple[str, Shapes, torch.dtype]]
    cases = [("size", equal_shapes(size, 10), torch.float32) for size in sizes]
    if not quick:
        cases.append(("1b", equal_shapes(10**9, 10), torch.float32))
    cases += [("tensors", equal_shapes(total, count), torch.float32) for count in counts if count > 10]
    return cases + [("gpt2", gpt2, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]


def _speed(shapes: Shapes, dtype: torch.dtype, args: Any) -> list[dict[str, Any]]:
    """One row for each engine."""
    bench = Bench(shapes, args.device, dtype)
    found = engines(args.device, bench.numel)
    if bench.numel > EAGER_ELEMENTS or len(shapes) > EAGER_TENSORS:
        found.pop("eager", None)
    copy, needed = Copy(bench.bytes_to_read(), args.device), bench.bytes_to_read()
    actions: dict[str, Action] = {"copy": copy, "step": bench.step}
    actions |= {name: lambda engine=engine: bench.read(engine) for name, engine in found.items()}
    times = interleaved(actions, repetitions=args.repetitions, device=args.device)
    rows: list[dict[str, Any]] = []
    for name in found:
        middle, low, high = ratio(times, name, "step")
        row = {
            "elements": bench.numel,
            "tensors": len(shapes),
            "dtype": str(dtype).removeprefix("torch."),
            "engine": name,
            "ms": 1e3 * median(times[name]),
            "GB/s": needed / 1e9 / median(times[name]),
            "copy GB/s": needed / 1e9 / (median(times["copy"]) * copy.share),
            "of copy": ratio(times, "copy", name)[0] * copy.share,
            "AdamW ms": 1e3 * median(times["step"]),
            "× AdamW": middle,
            "least": low,
            "greatest": high,
        }
        if args.device == "cuda":
            row["host ms"] = 1e3 * median(
                host_seconds(lambda name=name: bench.read(found[name])) for _ in range(args.repetitions)
            )
        rows.append(row)
    _progress(rows)
    return rows


def _progress(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(
            f"{row['elements']:>13,} elements {row['tensors']:>6,} tensors {row['dtype']:>8} "
            f"{row['engine']:>9} {row['ms']:10.3f} ms {row['× AdamW']:8.2f} × AdamW",
            flush=True,
        )


def _bars(result: Result, rows: list[dict[str, Any]], args: Any) -> None:
    """The bars for GPT-2's tensors."""
    fast = next((row for row in rows if row["engine"] == FAST[args.device]), None)
    if fast is None or args.quick:
        return
    if args.device == "cpu":
        result.bars["cpu_step"] = fast["× AdamW"]
        return
    _copy_bar(result, rows, "cuda_copy_124m")
    bench = Bench(gpt2_shapes(), args.device)
    result.bars |= {"cuda_syncs": float(_waits(bench)), "cuda_launches": float(_launches(bench))}


def _copy_bar(result: Result, rows: list[dict[str, Any]], key: str) -> None:
    for row in rows:
        if row["engine"] == "triton":
            result.bars[key] = row["of copy"]


def _waits(bench: Bench) -> bool:
    """Whether a reading makes the host wait for the device."""
    engine = engines(bench.device, bench.numel)[FAST[bench.device]]
    torch.cuda.set_sync_debug_mode("error")
    try:
        bench.read(engine)
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def _launches(bench: Bench) -> int:
    """Kernels that a reading launches, copies not counted."""
    engine = engines(bench.device, bench.numel)[FAST[bench.device]]
    bench.read(engine)
    with torch.profiler.profile() as profile:
        bench.read(engine)
        torch.cuda.synchronize()
    on_device = [event for event in profile.events() or [] if event.device_type.name == "CUDA"]
    return sum(not event.name.lower().startswith(("memcpy", "memset")) for event in on_device)


def _flatness(result: Result, args: Any) -> Table:
    """Cost per element as one tensor grows, and per tensor as they get more; all sizes in the same rounds."""
    table = Table(
        "Flatness",
        "The fastest engine, as in training: step, reading, step, reading; all rows of a kind in turn. "
        "÷ least: cost against the cheapest row, median over rounds. AdamW ÷ least: the same of a fused "
        "AdamW step on the same tensors, in the same rounds. first ÷ least: of the first reading after "
        "another row's turn and one step of its own, which is the only one from 100 M elements on.",
    )
    if args.quick:
        sizes, counts, each = [10**6, 2 * 10**6], [10, 100], 1000
    else:
        sizes, counts, each = [10**6, 10**7, 10**8, 10**9], [10, 100, 1000, 10_000], 30_000
    by_size = _held([equal_shapes(size, 1) for size in sizes], result, args)
    _flat_rows(table, "per element", by_size, result, args)
    by_size.clear()
    _flat_rows(
        table, "per tensor", _held([equal_shapes(n * each, n) for n in counts], result, args), result, args
    )
    return table


def _held(many: list[Shapes], result: Result, args: Any) -> list[Bench]:
    """Tensors of all these sizes at once, so that they can be measured in turn."""
    held: list[Bench] = []
    for shapes in many:
        elements = sum(torch.Size(shape).numel() for shape in shapes.values())
        if fits(elements, torch.float32, args.device):
            held.append(Bench(shapes, args.device))
        else:
            result.note(
                f"flatness: {elements:,} elements beside the others do not fit into free memory: left out"
            )
    return held


@dataclass
class _Turns:
    """Seconds of each turn of a row: medians of its steps and readings, and its first reading."""

    step: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def take(self, bench: Bench, engine: Engine) -> None:
        """Step and read as often as takes a moment."""
        most = 30 if bench.device == "cpu" else 5
        steps, reads = [], []
        for _ in range(max(min(most, 10**8 // bench.numel), 1)):
            steps.append(seconds(bench.step, bench.device))
            reads.append(seconds(lambda: bench.read(engine), bench.device))
        self.step.append(median(steps))
        self.read.append(median(reads))
        self.first.append(reads[0])


def _flat_rows(table: Table, what: str, held: list[Bench], result: Result, args: Any) -> None:
    found = engines(args.device, 10**9)
    name = FAST[args.device] if FAST[args.device] in found else "eager"
    turns = [_Turns() for _ in held]
    for round_ in range(args.repetitions + 1):
        pairs = list(zip(held, turns, strict=True))
        for bench, mine in pairs if round_ % 2 else reversed(pairs):
            (mine if round_ else _Turns()).take(bench, found[name])  # the first round is thrown away
    units = [bench.numel if what == "per element" else len(bench.shapes) for bench in held]

    cheapest = {
        kind: min(zip(turns, units, strict=True), key=lambda pair: median(getattr(pair[0], kind)) / pair[1])
        for kind in ("step", "read")
    }

    def share(mine: _Turns, unit: int, kind: str, of: str) -> float:
        """Against the cheapest row, round by round: slow minutes of the machine hit both."""
        least, its_unit = cheapest[of]
        rounds = zip(getattr(mine, kind), getattr(least, of), strict=True)
        return median([own / unit / (other / its_unit) for own, other in rounds])

    for bench, mine, unit in zip(held, turns, units, strict=True):
        taken = median(mine.read)
        table.rows.append(
            {
                "what": what,
                "engine": name,
                "elements": bench.numel,
                "tensors": len(bench.shapes),
                "ms": 1e3 * taken,
                "ns per element": 1e9 * taken / bench.numel,
                "µs per tensor": 1e6 * taken / len(bench.shapes),
                "÷ least": share(mine, unit, "read", "read"),
                "AdamW ÷ least": share(mine, unit, "step", "step"),
                "first ÷ least": share(mine, unit, "first", "read"),
            }
        )
    if not args.quick and name != "eager":
        key = "elements" if what == "per element" else "tensors"
        result.bars[f"{args.device}_{key}"] = max(row["÷ least"] for row in table.rows[-len(held) :])


if __name__ == "__main__":
    main()
