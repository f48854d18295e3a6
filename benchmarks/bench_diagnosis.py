"""Is the diagnosis true? Some hundred real trainings, sick and healthy, and what the health rules say of them.

Trainings are made once and kept (benchmarks/results/diagnosis-records); rules are judged on what was kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from _measure import RESULTS, Result, Table, finish

sys.path.insert(0, str(Path(__file__).resolve().parent))

from diagnosis.bars import BARS
from diagnosis.healthy import healthy
from diagnosis.run import judge_all, train_all
from diagnosis.score import Case, healthy_rows, missed_rows, sick_row, sick_shares
from diagnosis.sickness import Sickness
from diagnosis.sicknesses import sicknesses
from diagnosis.trial import HALVES, Trial


def main() -> None:
    """Train what is missing, judge, print and write."""
    args = _arguments()
    sick = [one for one in sicknesses() if any(word in one.name for word in args.only or [""])]
    well = healthy() if not args.only or any(word in "healthy" for word in args.only) else ()
    if args.quick:
        sick, well = [_short(one, args.steps) for one in sick], tuple(_shortened(well, args.steps))
    chosen = [trial for one in sick for trial in one.trials if trial.of(args.half)]
    chosen += [trial for trial in well if trial.of(args.half)]
    result = Result("diagnosis", "cpu", args.quick or bool(args.only))
    faults = train_all(chosen, args.records, args.workers)
    for fault in faults:
        result.note(f"could not be trained: {fault}")
    jobs = [(trial, one) for one in sick for trial in one.trials if trial in chosen]
    jobs += [(trial, None) for trial in well if trial in chosen]
    cases = judge_all(jobs, args.records, args.workers, every=args.every, facts=not args.no_facts)
    _fill(result, sick, cases)
    if not faults and not result.quick:
        _judge_bars(result, cases)
    finish(result, args.results, None, BARS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=HALVES, default="both", help="thresholds are set on tune alone")
    parser.add_argument("--only", nargs="*", help="sicknesses whose name has one of these words")
    parser.add_argument("--every", type=int, help="let the rules see every so-manyth table only")
    parser.add_argument("--no-facts", action="store_true", help="tell the rules nothing beside the tables")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--quick", action="store_true", help="few short trainings: does it run?")
    parser.add_argument("--steps", type=int, default=12, help="length of a quick training")
    parser.add_argument("--records", type=Path, default=RESULTS / "diagnosis-records", help="what was trained")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON file")
    return parser.parse_args()


def _short(sickness: Sickness, steps: int) -> Sickness:
    return replace(sickness, trials=tuple(_shortened(sickness.trials, steps)))


def _shortened(trials: tuple[Trial, ...], steps: int) -> list[Trial]:
    return [replace(trial, steps=steps) for trial in trials[:2]]


def _fill(result: Result, sick: list[Sickness], cases: list[Case]) -> None:
    about = {one.name: [case for case in cases if case[0].name == one.name] for one in sick}
    table = Table(
        "Sick trainings",
        "tuning, held-out: variations in which the sickness was told, with its parameters and its cause. told "
        "after: steps from its beginning, median. before loss: steps until the loss shows it, median over those "
        "where it does. loss silent: told, and the loss never shows it. wrong: warnings and critical findings "
        "that have nothing to do with it.",
        [sick_row(name, found) for name, found in about.items() if found],
    )
    missed = Table(
        "Not found",
        "by name: parameters not named, or named and not sick.",
        missed_rows(case for found in about.values() for case in found),
    )
    healthy_cases = [case for case in cases if case[0].name == "healthy"]
    well = Table(
        "Healthy trainings",
        "Every warning and every critical finding is a false alarm.",
        healthy_rows(healthy_cases) if healthy_cases else [],
    )
    result.tables += [shown for shown in (table, missed, well) if shown.rows]


def _judge_bars(result: Result, cases: list[Case]) -> None:
    held_out = [case for case in cases if case[0].held_out]
    sick = [case for case in held_out if case[0].name != "healthy"]
    well = [diagnosis for trial, diagnosis in held_out if trial.name == "healthy"]
    if sick:
        result.bars["found_least"] = min(sick_shares(sick).values())
    if well:
        for severity, key in (("critical", "healthy_critical"), ("warning", "healthy_warnings")):
            alarms = sum(f.severity == severity for diagnosis in well for f in diagnosis.findings)
            result.bars[key] = alarms / len(well)


if __name__ == "__main__":
    main()
