"""Learning-rate schedules that do not do what was meant."""

from __future__ import annotations

import numpy as np

from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.health.rule import Limits, Rule, Verdict
from lightning_adapt.health.window import Window

_NEARLY_ZERO = 1e-8


def _zero(window: Window, limits: Limits) -> Verdict | None:
    rates = window.past("learning_rate")
    if not rates.shape[1] or window.steps[-1] - window.steps[0] < limits["steps"]:
        return None
    near = window.steps >= window.steps[-1] - limits["steps"]
    top = np.fmax(np.fmax.reduce(rates, axis=0), np.nan_to_num(window["initial_lr"]))
    at_zero = np.asarray((rates[near] <= _NEARLY_ZERO * top).all(axis=0))
    groups = sorted({row.group for row, zero in zip(window.table.rows, at_zero, strict=True) if zero})
    largest = float(np.fmax.reduce(top))
    return Verdict(
        bool(at_zero.any()),
        float(at_zero.mean()),
        "all" if at_zero.all() else "group",
        {"groups": ", ".join(groups), "top": largest},
    )


def _stretches(rate: FloatArray, steps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The levels at which a rate stood still, and for how many steps each."""
    begins = np.flatnonzero(np.append(True, rate[1:] != rate[:-1]))
    ends = np.append(begins[1:], len(rate) - 1)
    return rate[begins], (steps[ends] - steps[begins]).astype(np.float64)


def _stalled(window: Window, limits: Limits) -> Verdict | None:
    base = window["initial_lr"]
    if np.isnan(base).all() or len(window.steps) < 3:
        return None
    at = int(np.nanargmax(base))
    rate, steps = window.past("learning_rate")[:, at], window.steps
    levels, lengths = _stretches(rate, steps)
    seen, total = int(steps[-1] - steps[0]), window.facts.total_steps
    passed = 0.0 if not total else seen / total
    still = float(lengths.max()) >= limits["steps"]
    late = passed >= limits["passed"]
    # Where it will be at the end, if it goes on as it did.
    expected = rate[-1] if not passed else rate[0] + (rate[-1] - rate[0]) / min(passed, 1.0)
    rising = rate.max() < limits["below"] * base[at] and (levels[-1] >= levels[0])
    warm_up = rising and (
        rate.max() <= limits["first"] * base[at] or (late and expected < limits["below"] * base[at])
    )
    moved = abs(float(rate[-1] / rate[0]) - 1)
    decay = late and len(levels) > 2 and moved < limits["moved"] and rate[0] > limits["below"] * base[at]
    return Verdict(
        bool(still and (warm_up or decay)),
        float(rate[-1] / base[at]),
        "warm-up" if warm_up else "decay",
        {
            "still": float(lengths.max()),
            "base": float(base[at]),
            "changes": len(levels) - 1,
            "moved": moved,
            "seen": seen,
        },
    )


def _on_skips(window: Window, limits: Limits) -> Verdict | None:
    skipped, real = window.table.skipped_steps, window.table.real_steps
    if not skipped or np.isnan(window["initial_lr"]).all():
        return None
    counted = window.facts.schedule_steps
    after = window.past("skipped")[:-1] > 0
    next_step = np.diff(window.steps) == 1
    changed = (np.diff(window.past("learning_rate"), axis=0) != 0).any(axis=1)
    seen = bool((after & next_step & changed).any())
    ahead = counted is not None and counted > real + 1
    share = skipped / (skipped + real)
    many = share >= limits["threshold"] and skipped >= limits["least"]
    return Verdict(seen or ahead, share, "many" if many else "few", {"skipped": skipped, "real": real})


RULES = [
    Rule(
        name="learning-rate-zero",
        meaning="The learning rate stands at 0: the schedule has ended before the training.",
        measure=_zero,
        columns=("learning_rate",),
        thresholds={"steps": 20.0},
        window=None,
        patience=3,
        severity={"all": "warning", "group": "info"},
        sentence={
            "all": "the learning rate is 0, and has been {top:g}: nothing is learned any more",
            "group": "the learning rate of {groups} is 0 ({value:.0%} of the parameters)",
        },
        remedy={
            "all": "make the schedule as long as the run (T_max, total_steps), or let it end above 0",
            "group": "if these are to be frozen, requires_grad_(False) saves their gradients, too",
        },
        source="an update is proportional to the learning rate",
    ),
    Rule(
        name="schedule-stalled",
        meaning="The schedule counts something else than steps: the rate stands still where it should move.",
        measure=_stalled,
        facts=("total_steps",),
        columns=("learning_rate",),
        thresholds={"steps": 20.0, "first": 0.05, "below": 0.5, "passed": 0.25, "moved": 0.05},
        window=None,
        sentence={
            "warm-up": (
                "the learning rate is at {value:.1%} of its base {base:g} after {seen} steps, and stands "
                "still for {still:.0f} steps at a time: warm-up does not go on"
            ),
            "decay": (
                "the learning rate changed {changes} times in {seen} steps, and by {moved:.2%} in all: the "
                "schedule hardly moves"
            ),
        },
        remedy=(
            'step the schedule with every optimizer step: in Lightning return {{"scheduler": …, "interval": '
            '"step"}}; the default is "epoch"'
        ),
        source=(
            "Lightning's default interval is an epoch; a schedule made for steps then moves once an epoch, "
            "and a linear one by 1/20 at most in all where an epoch has 20 steps"
        ),
    ),
    Rule(
        name="schedule-on-skips",
        meaning=(
            "The schedule went on at steps that the gradient scaler skipped: it is ahead of the training."
        ),
        measure=_on_skips,
        facts=("schedule_steps",),
        columns=("learning_rate", "skipped"),
        thresholds={"threshold": 0.05, "least": 5.0},
        window=8,
        skipped=True,
        severity={"many": "warning", "few": "info"},
        sentence={
            "many": "the schedule advanced on skipped steps, too: {skipped} of them beside {real} real ones",
            "few": "the schedule advanced on skipped steps, too: {skipped} of them beside {real} real ones",
        },
        remedy=(
            "advance the schedule only after real steps; a lower initial scale of the gradient scaler skips "
            "less"
        ),
        source=(
            "Lightning issues 5558, 16228 and 18828: schedulers step although the scaler skipped the "
            "optimizer"
        ),
    ),
]
