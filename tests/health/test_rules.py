"""Every rule, and every cause, on real trainings: it speaks where it should and is silent where not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.sick import CASES, Sick, causes, tables_of
from helpers.sick_runs import Net, Tables, infinite_at, loss_of, run, usual, well

from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo
from lightning_adapt.health import Facts, Finding, Judge, default_rules, judge_snapshot, lint_optimizer
from lightning_adapt.health.formats import format_of
from lightning_adapt.health.rules.precision import is_stuck

RULES = {rule.name: rule for rule in default_rules()}


def judged(case: Sick, rules: Any = "default") -> list[Finding]:
    def fail(sentence: str) -> None:
        raise AssertionError(sentence)

    judge = Judge(rules, on_fault=fail)
    for at, table in enumerate(tables_of(case)):
        judge.see(table, case.facts(at))
    return judge.findings


def test_every_cause_of_every_rule_has_a_case() -> None:
    known = {(rule.name, cause) for rule in RULES.values() for cause in causes(rule.severity, rule.sentence)}
    covered = {(case.rule, case.cause) for case in CASES}
    assert covered <= known
    missing = known - covered
    # What `poisoned` and `group` are is tested below, on exact tables.
    assert missing == {("non-finite-gradient", "poisoned"), ("learning-rate-zero", "group")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_rule_speaks(case: Sick) -> None:
    found = [finding for finding in judged(case) if (finding.rule, finding.cause) == (case.rule, case.cause)]
    assert found, [(f.rule, f.cause, f.sentence) for f in judged(case)]
    if case.parameter is not None:
        assert case.parameter in {finding.parameter for finding in found}
    rule = RULES[case.rule]
    for finding in found:
        assert finding.severity == rule.severity_of(case.cause)
        assert finding.sentence
        assert finding.remedy
        assert finding.source == rule.source
        assert "nan" not in finding.sentence + finding.remedy


@pytest.fixture(scope="module")
def calm() -> Tables:
    return well()


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_silent_in_a_healthy_training(name: str, calm: Tables) -> None:
    judge = Judge([RULES[name]], on_fault=pytest.fail)
    facts = Facts(loss=1.0, clipped_frac=0.1, gradients_kept=False, schedule_steps=1, total_steps=80)
    for table in calm:
        judge.see(table, facts)
    assert judge.findings == []


MAKERS = {
    "adamw": usual,
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3),
    "adagrad": lambda model: torch.optim.Adagrad(model.parameters(), lr=3e-2),
    "nadam": lambda model: torch.optim.NAdam(model.parameters(), lr=3e-3),
    "radam": lambda model: torch.optim.RAdam(model.parameters(), lr=3e-3),
    "adamax": lambda model: torch.optim.Adamax(model.parameters(), lr=3e-3),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MAKERS)
def test_a_healthy_training_gives_no_alarm(name: str, seed: int) -> None:
    judge = Judge(on_fault=pytest.fail)
    for table in run(make=MAKERS[name], seed=seed, steps=150):
        judge.see(table)
    assert [finding.sentence for finding in judge.findings if finding.severity != "info"] == []


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize("kind", ["eps", "missing", "lr_decay", "decay"])
def test_the_cadence_of_reading_does_not_hide_what_lasts(kind: str, every: int) -> None:
    cases = {"eps": "epsilon-floor-small", "missing": "no-gradient-missing"}
    cases |= {"lr_decay": "adagrad-decay-lr-decay", "decay": "decay-dominates-decoupled"}
    case = next(case for case in CASES if case.id == cases[kind])
    judge = Judge(on_fault=pytest.fail)
    for table in tables_of(case)[::every]:
        judge.see(table)
    assert (case.rule, case.cause) in {(finding.rule, finding.cause) for finding in judge.findings}


@pytest.mark.parametrize("at", [3, 40])
def test_poisoned_weights_are_found_also_when_the_step_was_not_read(at: int) -> None:
    later = [table for table in run(**infinite_at(at)) if table.step > at]
    judge = Judge(on_fault=pytest.fail)
    (first,) = [f for f in judge.see(later[0]) if f.rule == "non-finite-gradient"]
    assert first.severity == "critical"


def test_a_checkpoint_with_poisoned_moments() -> None:
    state = run(**infinite_at(3), steps=5)[-1]
    values = state.values.copy()
    for column in ("grad_rms", "grad_nonfinite_frac", "update_rms"):
        values[:, state.columns.index(column)] = np.nan
    found = judge_snapshot([replace(state, values=values, update_source="predicted")])
    assert [(f.rule, f.cause) for f in found if f.severity == "critical"] == [
        ("non-finite-gradient", "poisoned")
    ]


def test_one_group_at_rate_0_is_only_worth_knowing() -> None:
    def make(model: torch.nn.Module) -> torch.optim.Optimizer:
        optimizer = usual(model)
        optimizer.param_groups[1]["lr"] = 0.0
        return optimizer

    judge = Judge(on_fault=pytest.fail)
    for table in run(make=make, steps=40, rate=None):
        judge.see(table)
    (found,) = [f for f in judge.findings if f.rule == "learning-rate-zero"]
    assert (found.cause, found.severity) == ("group", "info")
    assert "no_decay" in found.sentence


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("beta", [0.9, 0.99, 0.995, 0.9961, 0.997, 0.998, 0.999, 0.9995, 0.9999])
def test_what_cannot_decay_is_what_torch_leaves_as_it_is(dtype: torch.dtype, beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(20_000, generator=generator, dtype=torch.float64) * 26 - 24  # subnormal ones, too
    v = (2.0**exponents).to(dtype)
    v = v[(v > 0) & (torch.frexp(v.double())[0] != 0.5)]  # powers of two, where the distance halves, are few
    stays = (v * beta == v).numpy()
    form = format_of(str(dtype).removeprefix("torch."))
    assert form is not None
    said = is_stuck(form, beta, v.double().numpy())
    # Numbers at the very limit go either way: beta is float32 in torch's kernel, and ties go to the even one.
    numbers = v.double().numpy()
    near = is_stuck(form, 1 - (1 - beta) * 1.01, numbers) != is_stuck(form, 1 - (1 - beta) * 0.99, numbers)
    np.testing.assert_array_equal(said[~near], stays[~near])
    assert near.mean() < 0.05


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_formats_are_torchs(dtype: str) -> None:
    form, info = format_of(dtype), torch.finfo(getattr(torch, dtype))
    assert form is not None
    assert (form.eps, form.tiny, form.largest, form.bits) == (info.eps, info.tiny, info.max, info.bits)
    smallest = torch.tensor(form.smallest, dtype=getattr(torch, dtype))
    assert smallest.item() == form.smallest
    assert (smallest / 2).item() == 0


@pytest.mark.parametrize(("eps", "lost"), [(1e-8, True), (2.9e-8, True), (3.1e-8, False), (1e-4, False)])
def test_an_epsilon_is_lost_where_torch_rounds_it_to_0(eps: float, lost: bool) -> None:
    assert (torch.tensor(eps, dtype=torch.float64).half().item() == 0) == lost
    optimizer = torch.optim.Adam([torch.zeros(2, 2, dtype=torch.float16)], eps=eps)
    assert ("epsilon-lost" in {finding.rule for finding in lint_optimizer(optimizer)}) == lost


def test_the_suggested_epsilon_takes_the_parameter_off_the_floor() -> None:
    case = next(case for case in CASES if case.id == "epsilon-floor-small")
    found = [f for f in judged(case) if f.cause == "small"]
    for finding in found:
        words = finding.remedy.split()
        suggested = float(words[words.index("to") + 1].rstrip(","))
        tables = run(make=lambda model, eps=suggested: usual(model, eps=eps))
        assert tables[-1][finding.parameter, "eps_floor_small_frac"] < 0.1


def test_the_culprit_is_the_parameter_nearest_to_the_loss() -> None:
    """An inf in the norm's gradient is taken along to what lies before it, not to the head."""
    torch.manual_seed(0)
    model = Net()
    model.norm.register_full_backward_hook(lambda module, into, out: (into[0] * torch.inf,))
    judge = Judge(on_fault=pytest.fail)
    (found,) = [f for t in run(model, steps=1) for f in judge.see(t) if f.severity == "critical"]
    assert found.parameter == "hidden.bias"
    assert found.cause == "gradient"


def test_with_a_scaler_inf_is_no_fault() -> None:
    case = next(case for case in CASES if case.id == "schedule-on-skips-few")
    assert "non-finite-gradient" not in {finding.rule for finding in judged(case)}


def test_a_schedule_that_waits_for_real_steps_is_silent() -> None:
    """Rates of a skipped step and of the next one are the same where the schedule waits."""
    tables = tables_of(next(case for case in CASES if case.id == "schedule-on-skips-few"))
    waited, judge = tables[20].learning_rates, Judge(on_fault=pytest.fail)
    for at, table in enumerate(tables):
        rates = tables[at - 1].learning_rates if at > 20 else table.learning_rates
        judge.see(replace(table, learning_rates=rates))
    assert waited == tables[20].learning_rates
    assert "schedule-on-skips" not in {finding.rule for finding in judge.findings}


def test_under_a_scaler_one_infinite_loss_is_no_fault_and_three_are() -> None:
    tables = tables_of(next(case for case in CASES if case.id == "schedule-on-skips-few"))
    for lost, expected in ((1, []), (2, []), (3, ["loss-not-finite"])):
        judge = Judge([RULES["loss-not-finite"]], on_fault=pytest.fail)
        for at, table in enumerate(tables):
            judge.see(table, Facts(loss=float("nan") if 20 <= at < 20 + lost else 1.0))
        assert [finding.rule for finding in judge.findings] == expected


def test_a_loss_that_nobody_told_is_no_fault(calm: Tables) -> None:
    judge = Judge([RULES["loss-not-finite"]], on_fault=pytest.fail)
    for at, table in enumerate(calm):
        judge.see(table, Facts(loss=None if at % 2 else 1.0))
    assert judge.findings == []


def test_clipping_is_told_by_the_share_of_the_last_tables(calm: Tables) -> None:
    for every, expected in ((1, ["seen"]), (2, [])):
        judge = Judge([RULES["clipping-always"]], on_fault=pytest.fail)
        for at, table in enumerate(calm):
            judge.see(table, Facts(clipped_frac=float(at % every == 0)))
        assert [finding.cause for finding in judge.findings] == expected


def changed(tables: Tables, column: str, factor: float) -> Tables:
    """The same tables with one column times a factor."""
    values = [table.values.copy() for table in tables]
    for table, figures in zip(tables, values, strict=True):
        figures[:, table.columns.index(column)] *= factor
    return [replace(table, values=figures) for table, figures in zip(tables, values, strict=True)]


@pytest.mark.parametrize(
    ("column", "factor", "told"),
    [("param_rms", 1.0, 1), ("update_ratio", 0.3, 0), ("first_moment_rms", 3.0, 0), ("rms_t", 0.3, 0)],
)
def test_an_overshoot_needs_long_steps_and_a_gradient_that_grows_and_turns(
    column: str, factor: float, told: int
) -> None:
    tables = changed(tables_of(next(case for case in CASES if case.rule == "overshoot")), column, factor)
    judge = Judge([RULES["overshoot"]], on_fault=pytest.fail)
    for table in tables:
        judge.see(table)
    assert [finding.first_step for finding in judge.findings] == [40] * told


def adagrad(lr: float, lr_decay: float, steps: int, total: int | None = None) -> list[Finding]:
    def make(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(model.parameters(), lr=lr, lr_decay=lr_decay)

    judge = Judge([RULES["adagrad-decay"], RULES["step-too-small"]], on_fault=pytest.fail)
    for table in run(make=make, rate=None, steps=steps):
        judge.see(table, Facts(total_steps=total))
    return judge.findings


def test_lr_decay_is_told_ahead_by_what_it_does_within_the_known_steps() -> None:
    ahead = adagrad(0.1, 0.2, steps=3, total=80)
    assert {(f.cause, f.first_step) for f in ahead} == {("lr-decay-ahead", 0)}
    assert "17 times smaller within 80 steps" in ahead[0].sentence
    assert adagrad(0.1, 0.1, steps=3, total=80) == []  # 8.9 times
    assert adagrad(0.1, 0.2, steps=30) == []  # 6.8 times so far, and nobody knows how long it will be
    assert {f.cause for f in adagrad(0.1, 0.5, steps=30)} == {"lr-decay-ahead"}


def test_lr_decay_is_the_cause_where_steps_would_be_long_enough_without_it() -> None:
    """Also of weights that it never let move well."""
    (found,) = [f for f in adagrad(4e-3, 1.0, steps=60) if f.parameter == "hidden.weight"][-1:]
    assert (found.rule, found.cause, found.severity) == ("adagrad-decay", "lr-decay", "warning")
    (found,) = [f for f in adagrad(4e-5, 0.05, steps=60) if f.parameter == "hidden.weight"]
    assert found.rule == "step-too-small"


@pytest.mark.parametrize("at", [3, 40])
def test_what_follows_an_infinite_gradient_is_not_called_a_long_step(at: int) -> None:
    judge = Judge([RULES["step-too-large"]], on_fault=pytest.fail)
    for table in run(**infinite_at(at), make=lambda model: usual(model, lr=0.03)):
        loss = 2.0 if table.step < at else torch.inf if table.step == at else torch.nan
        judge.see(table, Facts(loss=loss))
    assert judge.findings == []


def test_a_loss_of_inf_alone_is_no_measure_of_how_far_it_rose() -> None:
    tables = run(make=lambda model: usual(model, lr=0.03), steps=20)
    for losses, told in ([[2.0] * 17 + [torch.inf] * 3, 0], [[2.0] * 17 + [9.0, 9.0, torch.inf], 1]):
        judge = Judge([RULES["step-too-large"]], on_fault=pytest.fail)
        for table, loss in zip(tables, losses, strict=True):
            judge.see(table, Facts(loss=loss))
        assert [finding.cause for finding in judge.findings] == ["loss"] * told


@pytest.mark.parametrize(("lr", "told"), [(2e-5, "persistent"), (5e-5, "slow"), (1e-3, None)])
def test_short_steps_are_a_warning_only_where_they_are_far_too_short(lr: float, told: str | None) -> None:
    judge = Judge([RULES["step-too-small"]], on_fault=pytest.fail)
    for table in run(make=lambda model: usual(model, lr=lr), loss=lambda model, step: loss_of(model, 0)):
        judge.see(table)
    found = {finding.cause for finding in judge.findings if finding.parameter == "hidden.weight"}
    assert found == ({told} if told else set())


@pytest.mark.parametrize(("an_epoch", "told"), [(1 / 80, ["decay"]), (1 / 20, [])])
def test_a_linear_schedule_that_counts_epochs_hardly_moves(an_epoch: float, told: list[str]) -> None:
    judge = Judge([RULES["schedule-stalled"]], on_fault=pytest.fail)
    for table in run(rate=lambda step: 1 - step // 25 * an_epoch):
        judge.see(table, Facts(total_steps=80))
    assert [finding.cause for finding in judge.findings] == told


@pytest.mark.parametrize(
    ("ratio", "growth", "told"), [(0.2, 2.2, 1), (0.2, 1.6, 0), (0.1, 2.2, 0), (0.35, 1.6, 1)]
)
def test_a_steep_start_is_too_long_by_how_far_it_goes_and_grows(
    ratio: float, growth: float, told: int
) -> None:
    judge, row = Judge([RULES["step-too-large"]], on_fault=pytest.fail), RowInfo("w", "all", (3, 2))
    for step, size in enumerate(np.linspace(1.0, growth, 8), start=5):
        values = np.full((1, len(COLUMNS)), np.nan)
        for column, figure in (("numel", 6.0), ("param_rms", size), ("update_ratio", ratio)):
            values[:, COLUMNS.index(column)] = figure
        table = DynamicsTable((row,), values, step, hyperparameters={"all": {"beta1": 0.9}})
        judge.see(replace(table, real_steps=step))
    assert [finding.cause for finding in judge.findings] == ["grew"] * told


@pytest.mark.parametrize(("early", "told"), [(0.8, 1), (0.1, 0)])
def test_rows_that_l2_has_pulled_to_0_are_told_by_what_it_did(early: float, told: int) -> None:
    """At the end decay is next to nothing, as the rows are."""
    case = next(case for case in CASES if case.id == "dead-rows-l2")
    judge = Judge([RULES["dead-rows"]], on_fault=pytest.fail)
    for table in tables_of(case):
        values = table.values.copy()
        share = early if table.step < 45 else 0.1
        update = values[:, COLUMNS.index("update_rms")]
        values[:, COLUMNS.index("decay_rms")] = share * update
        judge.see(replace(table, values=values))
    assert len([finding for finding in judge.findings if finding.parameter == "embed.weight"]) == told
