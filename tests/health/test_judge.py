"""The judge: what begins and ends when, what a resume continues, and that a fault stays where it is."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.sick import CASES, Sick, tables_of
from helpers.sick_runs import run
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo
from lightning_adapt.health import Facts, Finding, Judge, Rule, Verdict, default_rules
from lightning_adapt.health.history import LEAST, MOST, History
from lightning_adapt.health.judge import MOST_FINDINGS
from lightning_adapt.health.rows import Rows
from lightning_adapt.health.tally import REST


def table(step: int, figures: Any, *, names: tuple[str, ...] = ("a", "b"), **fields: Any) -> DynamicsTable:
    """A table whose ``grad_rms`` is given, and nothing else."""
    values = np.full((len(names), len(COLUMNS)), np.nan)
    values[:, COLUMNS.index("grad_rms")] = figures
    rows = tuple(RowInfo(name, "all", (3, 2), "float32", "float32") for name in names)
    return DynamicsTable(rows, values, step, **{"optimizer": "Adam", **fields})


def above(threshold: float = 1.0, **options: Any) -> Rule:
    """Speaks of rows whose gradient is above a threshold."""
    return Rule(
        name="above",
        meaning="A gradient is large.",
        measure=lambda window, limits: Verdict(window["grad_rms"] > limits["threshold"], window["grad_rms"]),
        thresholds={"threshold": threshold},
        sentence="{parameter} has {value:g}, above {threshold:g}, at step {step} of {optimizer}",
        remedy="do something",
        source="a test",
        **options,
    )


def test_a_finding_begins_is_told_once_and_ends() -> None:
    judge = Judge([above()])
    assert judge.see(table(0, [0.5, 0.5])) == []
    (finding,) = judge.see(table(1, [2.0, 0.5]))
    assert (finding.parameter, finding.first_step, finding.last_step, finding.ended_at) == ("a", 1, 1, None)
    assert finding.sentence == "a has 2, above 1, at step 1 of Adam"
    assert judge.see(table(2, [3.0, 0.5])) == []
    assert judge.open == [finding]
    assert finding.last_step == 2
    assert finding.value == 2.0
    for step in range(3, 2 + REST):
        assert judge.see(table(step, [0.5, 0.5])) == []
    assert judge.see(table(2 + REST, [0.5, 0.5])) == [finding]
    assert finding.ended_at == 3
    assert judge.open == []
    assert judge.findings == [finding]


def test_patience_waits_for_tables_in_a_row_and_a_short_pause_does_not_end() -> None:
    judge = Judge([above(patience=2)])
    assert judge.see(table(0, [2.0, 0.0])) == []
    assert judge.see(table(1, [0.0, 2.0])) == []
    (finding,) = judge.see(table(2, [0.0, 2.0]))
    assert finding.parameter == "b"
    for step, figure in enumerate([0.0, 0.0, 2.0, 0.0, 0.0, 2.0], start=3):
        assert judge.see(table(step, [0.0, figure])) == []
    assert judge.open == [finding]


def test_a_more_severe_cause_is_news() -> None:
    def measure(window: Any, limits: Any) -> Verdict:
        figures = window["grad_rms"]
        return Verdict(figures > 1, figures, np.where(figures > 10, "much", "some"))

    rule = replace(above(), measure=measure, severity={"some": "info", "much": "critical"})
    judge = Judge([rule])
    (mild,) = judge.see(table(0, [2.0, 0.0]))
    ended, severe = judge.see(table(1, [20.0, 0.0]))
    assert ended is mild
    assert (mild.severity, mild.ended_at) == ("info", 1)
    assert (severe.severity, severe.cause, severe.ended_at) == ("critical", "much", None)
    assert judge.see(table(2, [2.0, 0.0])) == []  # it does not become milder
    assert judge.open == [severe]


def test_one_verdict_for_the_whole_run() -> None:
    def measure(window: Any, limits: Any) -> Verdict:
        worst = int(window["grad_rms"].argmax())
        return Verdict(
            window["grad_rms"].max() > 1, window["grad_rms"].max(), parameter=window.rows.names[worst]
        )

    judge = Judge([replace(above(), measure=measure)])
    (finding,) = judge.see(table(0, [0.0, 3.0]))
    assert finding.parameter == "b"
    assert judge.see(table(1, [4.0, 3.0])) == []


def test_a_single_row_is_no_whole_run() -> None:
    judge = Judge([above()])
    (finding,) = judge.see(table(0, [2.0], names=("only",)))
    assert finding.parameter == "only"


def test_optimizers_are_judged_apart() -> None:
    judge = Judge([above(patience=2)])
    assert judge.see(table(0, [2.0, 0.0])) == []
    assert judge.see(table(0, [2.0, 0.0], optimizer="SGD")) == []
    assert [f.optimizer for f in judge.see(table(1, [2.0, 0.0]))] == ["Adam"]
    assert [f.optimizer for f in judge.see(table(1, [2.0, 0.0], optimizer="SGD"))] == ["SGD"]


def test_skipped_steps_are_shown_to_those_who_ask() -> None:
    judge = Judge([above(), replace(above(skipped=True), name="asks")])
    assert [f.rule for f in judge.see(table(0, [2.0, 0.0], skipped=True))] == ["asks"]


def test_rows_may_come_and_go() -> None:
    judge = Judge([above(patience=2, window=10, columns=("grad_rms",))])
    judge.see(table(0, [2.0, 0.0]))
    (finding,) = judge.see(table(1, [0.0, 2.0, 0.0], names=("c", "a", "b")))
    assert finding.parameter == "a"
    assert judge.see(table(2, [0.0, 2.0], names=("c", "a"))) == []
    assert judge.open == [finding]
    judge.see(table(3, [0.0, 0.0], names=("c", "b")))
    assert judge.open == []
    assert finding.ended_at == 2


def test_memory_of_rows_that_moved() -> None:
    seen = []

    def measure(window: Any, limits: Any) -> Verdict:
        seen.append(window.past("grad_rms"))
        return Verdict(window["grad_rms"] > 9, window["grad_rms"])

    judge = Judge([replace(above(window=10, columns=("grad_rms",)), measure=measure)])
    judge.see(table(0, [1.0, 2.0]))
    judge.see(table(1, [5.0, 3.0, 4.0], names=("c", "b", "a")))
    np.testing.assert_array_equal(seen[-1], [[np.nan, 2.0, 1.0], [5.0, 3.0, 4.0]])


def test_a_column_that_nobody_knows_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"`columns of above` must be one of grad_rms, .* got 'grad_rmss'"):
        Judge([above(window=5, columns=("grad_rmss",))])


def test_a_column_that_an_older_table_lacks_is_not_known() -> None:
    judge = Judge(on_fault=pytest.fail)
    old = table(0, [1.0, 2.0])
    judge.see(replace(old, values=old.values[:, :5], columns=old.columns[:5]))


@pytest.mark.parametrize("error", [ZeroDivisionError("1 / 0"), KeyError("grad_rmss")])
def test_a_fault_switches_one_rule_off_and_is_told_once(error: Exception) -> None:
    def fails(window: Any, limits: Any) -> Verdict:
        raise error

    told: list[str] = []
    judge = Judge([replace(above(), name="broken", measure=fails), above()], on_fault=told.append)
    for step in range(3):
        judge.see(table(step, [2.0, 0.0]))
    assert [finding.rule for finding in judge.findings] == ["above"]
    (sentence,) = told
    assert "health rule 'broken' is switched off after a fault" in sentence
    assert type(error).__name__ in sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"sentence": "{no_such_word}"},
        {"severity": {"other": "info"}},
        {"measure": lambda window, limits: Verdict(np.zeros(5, dtype=bool), np.zeros(5))},
    ],
)
def test_faults_of_every_kind_stay_in_their_rule(changes: dict[str, Any]) -> None:
    judge = Judge([replace(above(), name="broken", **changes), above()])
    with pytest.warns(RuntimeWarning, match="'broken' is switched off"):
        judge.see(table(0, [2.0, 0.0]))
    assert "above" in {finding.rule for finding in judge.findings}


def test_a_rule_of_a_user_in_a_few_lines() -> None:
    mine = Rule(
        name="rising",
        meaning="The gradient rose in each of the last tables.",
        measure=lambda window, limits: Verdict(
            (np.diff(window.past("grad_rms"), axis=0) > 0).all(axis=0)
            & (len(window.steps) > limits["tables"]),
            window["grad_rms"],
        ),
        columns=("grad_rms",),
        window=10,
        thresholds={"tables": 3},
        sentence="{parameter} rises",
        remedy="look",
        source="mine",
    )
    judge = Judge([*default_rules(), mine], on_fault=pytest.fail)
    news = [finding.rule for step in range(5) for finding in judge.see(table(step, [float(step), 1.0]))]
    assert news == ["rising"]


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    """Saved and loaded as a checkpoint is, with weights_only=True."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


RESUMED = [
    case
    for case in CASES
    if case.id
    in (
        "no-gradient-missing",
        "adagrad-decay-lr-decay",
        "schedule-stalled-warm-up",
        "spike-warning-alarm",
        "loss-scale-collapse-gone",
        "decay-dominates-decoupled",
        "clipping-always-inferred",
        "two-optimizers",
        "state-dtype-narrowed",
        "step-too-large-loss",
    )
]


@pytest.mark.parametrize("case", RESUMED, ids=lambda case: case.id)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_resumed_judge_goes_on_as_if_nothing_had_happened(case: Sick, share: float) -> None:
    tables = tables_of(case)
    whole, first = Judge(on_fault=pytest.fail), Judge(on_fault=pytest.fail)
    cut = int(len(tables) * share)
    for at, one in enumerate(tables):
        whole.see(one, case.facts(at))
        if at < cut:
            first.see(one, case.facts(at))
    second = Judge(on_fault=pytest.fail)
    second.load_state_dict(through_file(first.state_dict()))
    for at, one in enumerate(tables[cut:], start=cut):
        second.see(one, case.facts(at))
    assert [f.to_dict() for f in second.findings] == [f.to_dict() for f in whole.findings]
    assert [f.to_dict() for f in second.open] == [f.to_dict() for f in whole.open]


def test_a_resume_with_other_rules() -> None:
    judge = Judge([above(), replace(above(), name="gone")])
    judge.see(table(3, [2.0, 0.0]))
    resumed = Judge([above(), replace(above(window=4, columns=("grad_rms",)), name="new")])
    resumed.load_state_dict(through_file(judge.state_dict()))
    assert [(f.rule, f.ended_at) for f in resumed.findings] == [("above", None), ("gone", 3)]
    assert [f.rule for f in resumed.see(table(4, [2.0, 0.0]))] == ["new"]


def test_a_run_that_begins_again_forgets_what_comes_later() -> None:
    seen = []

    def measure(window: Any, limits: Any) -> Verdict:
        seen.append(window.steps.tolist())
        return Verdict(window["grad_rms"] > 9, window["grad_rms"])

    judge = Judge([replace(above(window=100, columns=("grad_rms",)), measure=measure)])
    for step in (10, 20, 30, 15, 20):
        judge.see(table(step, [0.0, 0.0]))
    assert seen[-2:] == [[10, 15], [10, 15, 20]]


@settings(max_examples=60, deadline=None)
@given(
    span=st.one_of(st.none(), st.integers(1, 500)),
    gaps=st.lists(st.integers(1, 60), min_size=1, max_size=300),
)
def test_a_memory_is_bounded_and_reaches_back_as_far_as_it_should(span: int | None, gaps: list[int]) -> None:
    history, step = History(span, ["grad_rms"]), 0
    for gap in gaps:
        step += gap
        one = table(step, [float(step), 0.0])
        history.add(one, Rows(one.rows), Facts())
    steps = history.steps
    assert steps == sorted(set(steps))
    assert steps[-1] == step
    assert history.past("grad_rms")[:, 0].tolist() == steps
    assert len(steps) <= 2 * MOST + LEAST
    first = gaps[0]
    if span is None:
        assert steps[0] == first
    elif len(gaps) > LEAST:
        assert steps[0] == first or step - steps[0] >= span


def test_whole_runs_are_remembered_evenly() -> None:
    history = History(None, ["grad_rms"])
    for step in range(10_000):
        one = table(step, [0.0, 0.0])
        history.add(one, Rows(one.rows), Facts())
    gaps = np.diff(history.steps[:-1])
    assert len(history.steps) < 2 * MOST
    assert gaps.max() <= 4 * np.median(gaps)


def test_findings_are_bounded() -> None:
    judge = Judge([above()])
    for step in range(MOST_FINDINGS * (REST + 1) + 50):
        judge.see(table(step, [2.0 if step % (REST + 1) == 0 else 0.0, 2.0]))
    assert len(judge.findings) == MOST_FINDINGS
    assert judge.findings[0].parameter == "b"  # open since the beginning
    assert judge.findings[0].ended_at is None


def test_a_thousand_rows_take_milliseconds() -> None:
    few = run(steps=40)
    tables = []
    for one in few:
        copies = 143
        rows = tuple(replace(row, name=f"{at}.{row.name}") for at in range(copies) for row in one.rows)
        assert one.histograms is not None
        counts = np.tile(one.histograms, (copies, 1, 1))
        tables.append(replace(one, rows=rows, values=np.tile(one.values, (copies, 1)), histograms=counts))
    assert len(tables[0].rows) >= 1000 - 8
    judge = Judge(on_fault=pytest.fail)
    seconds = []
    for one in tables:
        started = time.perf_counter()
        judge.see(one)
        seconds.append(time.perf_counter() - started)
    assert np.median(seconds) < 0.1  # measured: 0.007, on an idle machine


def test_a_finding_survives_json() -> None:
    judge = Judge([above()])
    (finding,) = judge.see(table(1, [2.0, 0.0]))
    again = Finding.from_dict(json.loads(json.dumps(finding.to_dict(), allow_nan=False)))
    assert again == finding
    unknown = replace(finding, value=float("nan"))
    assert json.loads(json.dumps(unknown.to_dict(), allow_nan=False))["value"] is None
    assert np.isnan(Finding.from_dict(unknown.to_dict()).value)
    assert Finding.from_dict({**finding.to_dict(), "from": "the future"}) == finding


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"severity": "fatal"}, "`severity` must be one of"), ({"rule": None}, "got one without rule")],
)
def test_a_finding_that_is_none(change: dict[str, Any], sentence: str) -> None:
    values = Judge([above()]).see(table(1, [2.0, 0.0]))[0].to_dict()
    values |= change
    values = {name: value for name, value in values.items() if value is not None or name == "ended_at"}
    with pytest.raises(ValueError, match=sentence):
        Finding.from_dict(values)


def test_tables_without_histograms_and_hyperparameters_are_judged_as_far_as_they_go() -> None:
    judge = Judge(on_fault=pytest.fail)
    for one in tables_of(next(case for case in CASES if case.id == "epsilon-floor-small")):
        judge.see(replace(one, histograms=None, hyperparameters={}))
    assert "epsilon-floor" in {finding.rule for finding in judge.findings}
