"""Is the diagnosis true? Some hundred real trainings, sick and healthy, and what the rules say of them.

Trainings are made once and kept (benchmarks/results/diagnosis-records); rules are judged on what was kept.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from _measure import RESULTS, Result, Table, finish
from diagnosis.bars import BARS
from diagnosis.healthy import healthy
from diagnosis.run import Job, judge_all, train_all
from diagnosis.score import Case, healthy_rows, measured, missed_rows, sick_row, spike_row
from diagnosis.sicknesses import sicknesses
from diagnosis.spikes import ORGANIC, PROVOKED, spiking
from diagnosis.trial import HALVES


def main() -> None:
    """Train what is missing, judge, print and write."""
    args = _arguments()
    sick = [one for one in sicknesses() if _asked(one.name, args.only)]
    others = [trial for trial in (*spiking(), *healthy()) if _asked(trial.name, args.only)]
    jobs: list[Job] = [(trial, one) for one in sick for trial in one.trials]
    jobs += [(trial, None) for trial in others]
    if args.quick:
        jobs = [(replace(trial, steps=args.steps), one) for trial, one in jobs if trial.number < 2]
    jobs = [(trial, one) for trial, one in jobs if trial.of(args.half)]
    result = Result("diagnosis", "cpu", args.quick or bool(args.only))
    faults = train_all((trial for trial, _ in jobs), args.records, args.workers)
    for fault in faults:
        result.note(f"could not be trained: {fault}")
    cases = judge_all(jobs, args.records, args.workers, every=args.every, facts=not args.no_facts)
    _fill(result, cases)
    if not faults and not result.quick:
        result.bars |= measured(cases)
    finish(result, args.results, None, BARS)


def _asked(name: str, words: list[str] | None) -> bool:
    return words is None or any(word in name for word in words)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=HALVES, default="both", help="thresholds are set on tune alone")
    parser.add_argument("--only", nargs="*", help="sicknesses whose name has one of these words")
    parser.add_argument("--every", type=int, help="let the rules see every so-manyth table only")
    parser.add_argument("--no-facts", action="store_true", help="tell the rules nothing beside the tables")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--quick", action="store_true", help="few short trainings: does it run?")
    parser.add_argument("--steps", type=int, default=12, help="length of a quick training")
    parser.add_argument(
        "--records", type=Path, default=RESULTS / "diagnosis-records", help="what was trained"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON file")
    return parser.parse_args()


def _fill(result: Result, cases: list[Case]) -> None:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case[0].name, []).append(case)
    well, spiky = groups.pop("healthy", []), {name: groups.pop(name, []) for name in (PROVOKED, ORGANIC)}
    tables = [
        Table(
            "Sick trainings",
            "tuning, held-out: variations in which the sickness was told, with parameters and cause. "
            "told after: steps from its beginning, median. before loss: steps until the loss shows it, of "
            "those where it does, median. loss silent: told, and the loss never shows it. wrong: warnings "
            "and critical findings that have nothing to do with it.",
            [sick_row(name, found) for name, found in groups.items()],
        ),
        Table(
            "Not found",
            "Parameters that are sick and were not named, or were named and are not sick.",
            missed_rows(case for found in groups.values() for case in found),
        ),
        Table(
            "Loss spikes",
            "warned: spikes of the loss with a warning in the 20 steps before. lead: steps between, median. "
            "by chance: steps with a warning in the 20 before, of all. in vain: warnings without a spike in "
            "the 20 steps around them.",
            [spike_row(name, found) for name, found in spiky.items() if found],
        ),
        Table(
            "Healthy trainings",
            "Every warning and every critical finding is a false alarm.",
            healthy_rows(well) if well else [],
        ),
    ]
    result.tables += [table for table in tables if table.rows]


if __name__ == "__main__":
    main()
