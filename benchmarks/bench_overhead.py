"""Paired runs of recipes with and without the monitor: how much longer a step takes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch
from _measure import Result, Table, finish, options, parsed
from lightning.pytorch import Callback, Trainer

from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.recipes._arguments import default_logger, parse
from lightning_adapt.recipes._quiet import quiet
from lightning_adapt.recipes.registry import find

MONITORS = {"without": None, "every step": 1, "default cadence": 0}
"""What runs: no monitor, or one that reads every n-th step; 0 leaves the cadence to the recipe."""


@dataclass(frozen=True)
class Case:
    """A recipe with its options, and the bars it is measured for."""

    recipe: str
    preset: str | None
    steps: int
    words: tuple[str, ...] = ()
    bars: tuple[tuple[str, str], ...] = ()  # monitor, key of the bar

    @property
    def label(self) -> str:
        """What the table calls it."""
        return self.recipe + (f" --preset {self.preset}" if self.preset else "")


class StepTimer(Callback):
    """Notes when each step begins, from the end of the warm-up on."""

    def __init__(self, warm_up: int, window: int) -> None:
        self.starts: list[float] = []
        self._warm_up, self._window = warm_up, window

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the time; on a GPU wait for it once a window, so that a window's length is true."""
        done = trainer.global_step - self._warm_up
        if done < 0:
            return
        if done % self._window == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.starts.append(perf_counter())

    def steps(self) -> list[float]:
        """Seconds from the start of each step to that of the next."""
        return [after - before for before, after in zip(self.starts, self.starts[1:], strict=False)]

    def windows(self) -> list[float]:
        """Mean step time of each whole window: a reading every so many steps shows in it, not in a median."""
        steps = self.steps()
        return [
            mean(steps[at : at + self._window])
            for at in range(0, len(steps) - self._window + 1, self._window)
        ]


def main() -> None:
    """Measure, print and write."""
    parser = options(__doc__ or "")
    parser.add_argument("--cora", type=Path, help="folder with Cora/raw: the GNN recipe's preset for Cora")
    parser.add_argument("--text", type=Path, help="a text of some megabytes for the language models")
    args = parsed(parser, repetitions=5)
    result = Result("overhead", args.device, args.quick)
    table = Table(
        "What the monitor adds to a step",
        "Medians over pairs of runs. × step: ratio of median step times; × window: ratio of median mean step "
        "times over as many steps as the default cadence, which sees readings that are not at every step.",
    )
    result.tables.append(table)
    for case in _cases(args):
        rows = _measured(case, args)
        table.rows += rows
        for monitor, key in case.bars if not args.quick else ():
            result.bars[key] = next(row["× window"] for row in rows if row["monitor"] == monitor)
    finish(result, args.results, args.cores_given)


def _cases(args: Any) -> list[Case]:
    cuda = args.device == "cuda"
    steps = 12 if args.quick else 240
    text = ("--data.path", str(args.text)) if args.text else ()
    cora = ("--data.root", str(args.cora)) if args.cora else ()
    cases = [
        Case("nlp/char-lm", None, steps, text),
        Case(
            "gnn/node-classification",
            "cora" if args.cora else None,
            steps,
            cora,
            (("every step", "cuda_gnn_every"),) if cuda else (),
        ),
    ]
    if cuda and not args.quick:
        bars = (("every step", "cuda_gpt2_every"), ("default cadence", "cuda_gpt2_default"))
        cases.append(Case("nlp/char-lm", "gpt2-124m", 200, text, bars))
    return cases


def _measured(case: Case, args: Any) -> list[dict[str, Any]]:
    """One row for each cadence: the runs of a round one after the other, each round in another order."""
    timers: dict[str, list[StepTimer]] = {name: [] for name in MONITORS}
    names, cadence = list(MONITORS), 0
    for round_ in range(args.repetitions):
        for name in names[round_ % 3 :] + names[: round_ % 3]:
            timer, cadence = _run(case, MONITORS[name], args)
            timers[name].append(timer)
            print(f"{case.label}, {name}: {1e3 * median(timer.windows()):.3f} ms a step", flush=True)
    rows: list[dict[str, Any]] = []
    for name in names[1:]:
        pairs = list(zip(timers[name], timers["without"], strict=True))
        by_step = [median(with_.steps()) / median(without.steps()) for with_, without in pairs]
        by_window = [median(with_.windows()) / median(without.windows()) for with_, without in pairs]
        rows.append(
            {
                "recipe": case.label,
                "monitor": name,
                "every": MONITORS[name] or cadence,
                "ms without": 1e3 * median(median(timer.windows()) for timer in timers["without"]),
                "× step": median(by_step),
                "× window": median(by_window),
                "least": min(by_window),
                "greatest": max(by_window),
            }
        )
    return rows


def _run(case: Case, every: int | None, args: Any) -> tuple[StepTimer, int]:
    """Train once; returns the step times and the recipe's own cadence."""
    recipe, warm_up = find(case.recipe), 2 if args.quick else 40
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as logs, quiet():
        cli = parse(recipe, _words(case, warm_up, args.device), default_logger(Path(logs), recipe.name, None))
        trainer: Any = cli.trainer  # Lightning gives it its attributes from outside
        cadence = trainer.log_every_n_steps
        timer = StepTimer(warm_up, cadence if case.steps > cadence else 4)
        kept = [c for c in trainer.callbacks if not isinstance(c, OptimizerDynamicsMonitor)]
        monitor = (
            [] if every is None else [OptimizerDynamicsMonitor(every_n_steps=every or None, strict=True)]
        )
        trainer.callbacks = [timer, *monitor, *kept]
        if args.threads is None and recipe.threads and args.device == "cpu":
            torch.set_num_threads(recipe.threads)  # as `lightning-adapt run` does
        try:
            trainer.fit(cli.model, cli.datamodule)
        finally:
            torch.set_num_threads(threads)
    return timer, cadence


def _words(case: Case, warm_up: int, device: str) -> Sequence[str]:
    """Options of the run: so many steps and nothing beside training."""
    preset = ("--config", str(find(case.recipe).preset(case.preset))) if case.preset else ()
    steps = str(warm_up + case.steps + 1)
    length = ("--trainer.max_epochs", "-1", "--trainer.max_steps", steps)
    plain = ("--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0")
    bare = ("--trainer.callbacks", "null", "--trainer.enable_checkpointing", "false")
    return [
        *preset,
        *case.words,
        *length,
        *plain,
        *bare,
        "--trainer.accelerator",
        device.replace("cuda", "gpu"),
    ]


if __name__ == "__main__":
    main()
