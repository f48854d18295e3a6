"""Other monitors on the same tensors in the same run, in units of one fused AdamW step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from _measure import ROOT, Result, Table, finish, host_seconds, interleaved, options, parsed, ratio
from _peers import environment
from _tensors import Bench, Parameters, engines, gpt2_shapes, quick_gpt2_shapes

from lightning_adapt.dynamics.reading import Reading

OURS = "lightning-adapt, full table"
COMPOSER = "Composer OptimizerMonitor"
Reader = Callable[[], tuple[int, int]]
"""Makes one reading; returns how many figures and how many histogram counts it gave."""


def main() -> None:
    """Make the peers' environment, then measure inside it."""
    parser = options(__doc__ or "")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-peers", help="of the peers")
    parser.add_argument("--inside", action="store_true", help="this is the peers' environment: measure")
    parser.add_argument("--missing", action="append", default=[], help="why a peer is not there")
    args = parsed(parser, repetitions=5)
    if args.inside:
        _measure(args)
        return
    python, missing = environment(args.environment.resolve())
    words = [word for word in sys.argv[1:] if word]
    for name, reason in missing.items():
        words += ["--missing", f"{name} could not be installed: {reason}"]
    raise SystemExit(subprocess.run([str(python), __file__, *words, "--inside"], cwd=ROOT).returncode)


def _measure(args: Any) -> None:
    result = Result("peers", args.device, args.quick)
    for sentence in args.missing:
        result.note(sentence)
    bench = Bench(quick_gpt2_shapes() if args.quick else gpt2_shapes(), args.device)
    with ExitStack() as open_:
        readers: dict[str, Reader] = {}
        for name, make in PEERS.items():
            try:
                readers[name] = open_.enter_context(make(bench))
            except Exception as error:  # a peer's import may fail in any way
                result.note(f"{name} does not run here: {type(error).__name__}: {error}")
        figures = {name: read() for name, read in readers.items()}
        times = interleaved(
            {"step": bench.step, **readers},
            repetitions=args.repetitions,
            device=args.device,
            clock=_waited,
        )
    result.tables.append(_table(bench, times, figures))
    if COMPOSER in times and args.device == "cpu" and not args.quick:
        result.bars["cpu_composer"] = ratio(times, COMPOSER, OURS)[0]
    finish(result, args.results, args.cores_given)


def _waited(action: Callable[[], object], device: str) -> float:
    """Until the figures are there: most peers wait for the device anyway."""

    def whole() -> None:
        action()
        if device == "cuda":
            torch.cuda.synchronize()

    return host_seconds(whole)


def _table(bench: Bench, times: dict[str, list[float]], figures: dict[str, tuple[int, int]]) -> Table:
    table = Table(
        f"Monitors on GPT-2's {len(bench.shapes)} tensors, {bench.numel / 1e6:.3g} M parameters",
        "× AdamW: time of one reading in units of a fused AdamW step on the same tensors, median, least and "
        "greatest. ÷ ours: the same against the full table.",
    )
    for name in figures:
        middle, low, high = ratio(times, name, "step")
        table.rows.append(
            {
                "what": name,
                "figures": figures[name][0],
                "histogram counts": figures[name][1],
                "ms": 1e3 * median(times[name]),
                "× AdamW": middle,
                "least": low,
                "greatest": high,
                "÷ ours": ratio(times, name, OURS)[0],
            }
        )
    return table


# --- the monitors ---


@contextmanager
def _ours(bench: Bench) -> Iterator[Reader]:
    """The fastest engine, up to the finished table."""
    found = engines(bench.device, 10**9)
    name = next(name for name in ("numba", "triton", "eager") if name in found)

    def read() -> tuple[int, int]:
        return _sizes(bench.read(found[name]))

    yield read


def _sizes(reading: Reading) -> tuple[int, int]:
    table = reading.table()
    return table.values.size, 0 if table.histograms is None else table.histograms.size


@contextmanager
def _composer(bench: Bench) -> Iterator[Reader]:
    """Its callback at the end of a batch, with its own optimizer on the same tensors and states."""
    _without_torchvision()
    from composer.callbacks import OptimizerMonitor  # pyright: ignore[reportMissingImports]
    from composer.optim import DecoupledAdamW  # pyright: ignore[reportMissingImports]

    optimizer = DecoupledAdamW(bench.named.values(), lr=1e-6, weight_decay=1e-7)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    optimizer.state = bench.optimizer.state  # the names are the same
    logged: dict[str, float] = {}
    state = SimpleNamespace(
        timestamp=SimpleNamespace(batch=SimpleNamespace(value=0)),
        model=Parameters(bench.named),
        optimizers=[optimizer],
        fsdp_enabled=False,
    )
    monitor = OptimizerMonitor(batch_log_interval=1)

    def read() -> tuple[int, int]:
        monitor.batch_end(state, SimpleNamespace(log_metrics=logged.update))
        return len(logged), 0

    yield read


@contextmanager
def _wandb(bench: Bench) -> Iterator[Reader]:
    """What ``wandb.watch(log="all")`` does when it logs: a histogram of each gradient and parameter."""
    import wandb  # pyright: ignore[reportMissingImports]
    from wandb.integration.torch.wandb_torch import TorchHistory  # pyright: ignore[reportMissingImports]

    os.environ["WANDB_SILENT"] = "true"
    with tempfile.TemporaryDirectory() as folder, wandb.init(mode="offline", dir=folder) as run:
        history = TorchHistory()

        def read() -> tuple[int, int]:
            for name, parameter in bench.named.items():
                assert parameter.grad is not None
                history.log_tensor_stats(parameter.grad.data, f"gradients/{name}")
                history.log_tensor_stats(parameter.data.cpu(), f"parameters/{name}")
            run.log({})
            return 0, 2 * len(bench.named) * history._num_bins

        yield read


@contextmanager
def _grad_norm(bench: Bench) -> Iterator[Reader]:
    """Lightning's function, and the numbers on the host as its loggers need them."""
    from lightning.pytorch.utilities import grad_norm

    module = Parameters(bench.named)

    def read() -> tuple[int, int]:
        return len([float(norm) for norm in grad_norm(module, norm_type=2).values()]), 0

    yield read


class _Anything(ModuleType):
    """A module that has every name, each a class that does nothing, and every submodule."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Torchvision:
    """Finds every module of torchvision and gives an empty one."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Answer for torchvision alone."""
        if name.partition(".")[0] != "torchvision":
            return None
        return ModuleSpec(name, self, is_package=True)  # pyright: ignore[reportArgumentType]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the empty module."""
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def _without_torchvision() -> None:
    """Composer imports torchvision, which its monitor does not need."""
    import torchmetrics  # noqa: F401  looks for torchvision itself: must be there before the empty one is

    if not any(isinstance(finder, _Torchvision) for finder in sys.meta_path):
        sys.meta_path.append(_Torchvision())  # pyright: ignore[reportArgumentType]


PEERS = {
    OURS: _ours,
    COMPOSER: _composer,
    "wandb.watch, all": _wandb,
    "Lightning grad_norm": _grad_norm,
}


if __name__ == "__main__":
    main()
