"""Train what has not been trained yet, and judge what has, several at a time."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import traceback
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from diagnosis.diagnose import Diagnosis, diagnose
from diagnosis.record import load, save
from diagnosis.sickness import Sickness
from diagnosis.trial import Trial

Job = tuple[Trial, Sickness | None]
"""A trial, and what is wrong with it, if anything."""


def train_all(trials: Iterable[Trial], folder: Path, workers: int) -> list[str]:
    """Train each trial that has no record.

    Args:
        trials: What to train.
        folder: Where the records are.
        workers: Processes, each with one thread.

    Returns:
        What went wrong, one sentence a trial.
    """
    left = {trial.key: trial for trial in trials if not (folder / f"{trial.key}.pkl.gz").exists()}
    if not left:
        return []
    faults: list[str] = []
    # Spawned, not forked: torch's threads do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(min(workers, len(left)), _quieten) as pool:
        jobs = [(trial, folder) for trial in left.values()]
        for at, (line, fault) in enumerate(pool.imap_unordered(_one, jobs), start=1):
            print(f"{at:>4} of {len(jobs)}: {line}", flush=True)
            faults += [fault] if fault else []
    return faults


def _quieten() -> None:
    logging.disable(logging.INFO)


def _one(job: tuple[Trial, Path]) -> tuple[str, str]:
    from diagnosis.train import train

    trial, folder = job
    try:
        record = train(trial)
    except Exception as error:  # of one trial; the others go on, and it is told at the end
        traceback.print_exc(file=sys.stderr)
        fault = f"{trial}: {type(error).__name__}: {error}"
        return fault, fault
    save(record, folder)
    losses = record.losses
    told = f"loss {losses[0]:.3f} to {losses[-1]:.3f}" if losses else "no loss"
    return f"{trial}; {len(losses)} batches, {told}, {record.seconds:.1f} s {record.error}".rstrip(), ""


def judge_all(
    jobs: Sequence[Job],
    folder: Path,
    workers: int,
    *,
    every: int | None = None,
    facts: bool = True,
) -> list[tuple[Trial, Diagnosis]]:
    """Judge each trial that has a record.

    Args:
        jobs: Trials with what is wrong with them, if anything.
        folder: Where the records are.
        workers: Processes.
        every: Let the rules see every so-manyth table; ``None`` leaves it to the trial.
        facts: Tell them what only the trainer knows.
    """
    judge = partial(_judged, folder=folder, every=every, facts=facts)
    if workers == 1 or len(jobs) < 8:
        found = [judge(job) for job in jobs]
    else:
        with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
            found = pool.map(judge, jobs, chunksize=4)
    return [(trial, diagnosis) for (trial, _), diagnosis in zip(jobs, found, strict=True) if diagnosis]


def _judged(job: Job, *, folder: Path, every: int | None, facts: bool) -> Diagnosis | None:
    trial, sickness = job
    record = load(trial, folder)
    if record is None:
        return None
    signs, also = (sickness.signs, sickness.also) if sickness else ((), ())
    return diagnose(record, signs, also, every=every or trial.every, facts=facts)
