"""Run one recipe: read its options, train, test, and say what was learned."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.console import Console

from lightning_adapt._text import unknown_name
from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.dynamics import DynamicsTable
from lightning_adapt.optimizers import catalog
from lightning_adapt.recipes._arguments import RecipeCLI, default_logger, parse
from lightning_adapt.recipes._quiet import quiet
from lightning_adapt.recipes.registry import Recipe
from lightning_adapt.views.terminal import print_worst

#: Below this many parameters one thread beats several on a CPU: the operations are shorter than the threads'
#: waiting for each other (a 0.1 M transformer on two shared cores: 38 s with one thread, 105 s with two).
SMALL_MODEL_NUMEL = 2_000_000


@dataclass(frozen=True)
class Outcome:
    """What one run left behind.

    Args:
        recipe: The recipe's name.
        optimizer: The optimizer's class name.
        lr: Its learning rate, before any schedule.
        steps: Optimizer steps taken.
        seconds: Wall time of the training itself, in s.
        metrics: Last values of everything that was logged, and of the test set where there is one.
        log_dir: Where the logs are; ``None`` if the run had no logger.
        table: The monitor's last table; ``None`` if it has none.
    """

    recipe: str
    optimizer: str
    lr: float
    steps: int
    seconds: float
    metrics: Mapping[str, float]
    log_dir: Path | None
    table: DynamicsTable | None


def run(
    recipe: Recipe,
    args: Sequence[str] = (),
    *,
    optimizer: str | None = None,
    preset: str | None = None,
    threads: int | None = None,
    logs: str | Path = "runs",
    name: str | None = None,
    version: str | None = None,
    console: Console | None = None,
) -> Outcome:
    """Train ``recipe`` and return what came out; nothing is printed after training (see :func:`show`).

    Args:
        recipe: What to train.
        args: LightningCLI options as typed on a command line, for example ``["--trainer.max_steps", "100"]``.
        optimizer: A name in the optimizer catalog; ``None`` takes the recipe's.
        preset: A variant of the recipe's values, see :attr:`Recipe.presets`.
        threads: CPU threads for torch; ``None`` chooses.
        logs: Folder in which log folders are made.
        name: Log folder inside ``logs``; ``None`` takes the recipe's name.
        version: Log folder inside that; ``None`` counts up.
        console: Where to say what was chosen.

    Raises:
        ValueError: If an option, a value or a name is not accepted.
        OSError: If the log folder cannot be written.
        KeyboardInterrupt: If the user stopped the training.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"`--threads` must be 1 or more, got {threads}; left out, the recipe chooses")
    opening = _Opening(recipe, threads, console or Console())
    logger = default_logger(Path(logs), name or recipe.name, version)
    threads_before = torch.get_num_threads()
    with quiet():
        try:
            cli = parse(recipe, _words(recipe, args, optimizer, preset), logger, [opening])
            return _outcome(recipe, cli)
        finally:
            torch.set_num_threads(threads_before)


def _outcome(recipe: Recipe, cli: RecipeCLI) -> Outcome:
    """Fit and test, and gather what came out."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    log_dir = _log_dir(trainer)
    started = time.perf_counter()
    _fit(cli, log_dir)
    seconds = time.perf_counter() - started
    metrics = _floats(trainer.callback_metrics)
    # Both are read before the test, which sets up the trainer anew.
    table, steps = _last_table(trainer), trainer.global_step
    lr, optimizer = _rate(trainer)
    if _has_test_set(model, data) and not getattr(trainer, "fast_dev_run", False):
        metrics |= _floats(trainer.test(model, data, ckpt_path=_best(trainer), verbose=False)[0])
    return Outcome(recipe.name, optimizer, lr, steps, seconds, metrics, log_dir, table)


def show(outcome: Outcome, console: Console, *, most: int = 6) -> None:
    """Print what was learned, the worst parameters, and where to look further.

    Args:
        outcome: What a run left behind.
        console: Where to print.
        most: How many parameters to list at most.
    """
    console.rule(f"[bold]{outcome.recipe}[/] · {outcome.optimizer}", align="left")
    learned = [f"{name} [bold]{value:.4g}[/]" for name, value in _readable(outcome.metrics)]
    console.print(f"learned  {' · '.join(learned) or 'nothing was logged'}", highlight=False)
    console.print(f"took     {outcome.steps} steps in {outcome.seconds:.1f} s", highlight=False)
    if outcome.table is not None:
        print_worst([outcome.table], most=most, console=console)
    elif outcome.steps:
        console.print("note     the monitor read no table; --monitor.every_n_steps says how often it reads")
    if outcome.log_dir is not None:
        folder = shlex.quote(str(outcome.log_dir))
        say = {
            "logs": folder,
            "look": f"tensorboard --logdir {folder}",
        }
        if outcome.table is not None:
            say["inspect"] = f"lightning-adapt inspect {folder}"
        for word, line in say.items():
            console.print(f"{word:<8} {line}", soft_wrap=True, highlight=False, markup=False)


def check_optimizer(name: str) -> None:
    """Refuse an optimizer that is not in the catalog, before anything is built.

    Raises:
        ValueError: If it is unknown; the text lists the known ones, nearest first.
    """
    if name not in catalog:
        raise ValueError(unknown_name("--optimizer", name, catalog))


def _words(recipe: Recipe, args: Sequence[str], optimizer: str | None, preset: str | None) -> list[str]:
    # The preset stands first and the optimizer last: what the user typed outranks files.
    words = ["--config", str(recipe.preset(preset))] if preset else []
    words += args
    if optimizer:
        check_optimizer(optimizer)
        words += ["--model.optimizer", optimizer]
    return words


def _fit(cli: RecipeCLI, log_dir: Path | None) -> None:
    trainer = cli.trainer
    try:
        trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.config.get("ckpt_path"))
    except SystemExit as end:
        # Lightning answers Ctrl-C by ending the process; whoever called us decides that.
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        where = f"; what was logged is in {log_dir}" if log_dir else ""
        raise KeyboardInterrupt(f"stopped after step {trainer.global_step}{where}") from None


def _log_dir(trainer: Trainer) -> Path | None:
    """The run's log folder, made and tried; ``None`` without a logger."""
    where = trainer.log_dir if trainer.loggers else None
    if where is None:
        return None
    try:
        Path(where).mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=where):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"the log folder must be writable, got {where!r} ({reason}); name another with --logs DIR"
        ) from error
    return Path(where)


class _Opening(Callback):
    """As soon as the model is built: choose torch's threads, and say in one line what runs and how."""

    def __init__(self, recipe: Recipe, threads: int | None, console: Console) -> None:
        self.recipe, self.threads, self.console = recipe, threads, console

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        numel = sum(p.numel() for p in pl_module.parameters())
        device, precision = trainer.strategy.root_device.type, str(trainer.precision)
        number, why = _threads(self.recipe, numel, device, self.threads)
        torch.set_num_threads(number)
        if not trainer.is_global_zero:
            return
        facts = [
            f"{numel:,} parameters",
            _rate(trainer)[1],
            precision,
            f"{device}, {number} thread{'s' if number > 1 else ''} ({why})",
        ]
        self.console.print(f"[bold]{self.recipe.name}[/]: {' · '.join(facts)}", highlight=False)
        if precision.startswith("bf16") and device == "cpu" and not _cpu_has_bf16():
            self.console.print(
                "note: this CPU has no bf16 units, so bf16 runs several times slower here "
                "(7 to 9 times was measured); --trainer.precision 32-true is faster",
                style="yellow",
            )


def _threads(recipe: Recipe, numel: int, device: str, asked: int | None) -> tuple[int, str]:
    """How many CPU threads torch should use, and why."""
    if asked is not None:
        return asked, "as asked"
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads(), "from OMP_NUM_THREADS"
    if recipe.threads is not None and device == "cpu" and numel < SMALL_MODEL_NUMEL:
        return recipe.threads, "fastest for a small model; see --threads"
    return torch.get_num_threads(), "torch's choice"


def _cpu_has_bf16() -> bool:
    # Private in torch, so ask carefully: not knowing means saying nothing.
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return True


def _last_table(trainer: Trainer) -> DynamicsTable | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it from outside
    monitors = [c for c in callbacks if isinstance(c, OptimizerDynamicsMonitor)]
    return monitors[0].latest if monitors else None


def _rate(trainer: Trainer) -> tuple[float, str]:
    optimizer = trainer.optimizers[0]
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return max(rates), type(optimizer).__name__


def _has_test_set(model: LightningModule, data: LightningDataModule) -> bool:
    return is_overridden("test_step", model, LightningModule) and is_overridden(
        "test_dataloader", data, LightningDataModule
    )


def _best(trainer: Trainer) -> str | None:
    """``"best"`` where a checkpoint was kept by a metric, else the weights as they are."""
    checkpoint = trainer.checkpoint_callback
    monitored = getattr(checkpoint, "monitor", None) and getattr(checkpoint, "best_model_path", "")
    return "best" if monitored else None


def _floats(metrics: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _readable(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    """What tells how well it learned, test first: no figures of the monitors, which have their tables."""
    mine = ("dynamics/", "monitor/", "health/", "loss_scale/", "lr-")
    order = ["test", "val", "train"]

    def rank(item: tuple[str, float]) -> int:
        return next((at for at, part in enumerate(order) if item[0].startswith(part)), len(order))

    found = [
        item for item in metrics.items() if not item[0].startswith(mine) and not item[0].endswith("_step")
    ]
    return sorted(found, key=rank)
