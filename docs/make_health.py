"""Writes docs/health.md anew: every rule as it is registered, with a picture from a small real training.

    python docs/make_health.py

The trainings are those of the tests (tests/helpers/sick.py); they take about half a minute.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.sick import CASES, Sick, causes, tables_of  # noqa: E402
from helpers.sick_runs import Tables, well  # noqa: E402

from lightning_adapt.health import (  # noqa: E402
    Facts,
    Finding,
    Judge,
    Rule,
    Verdict,
    Window,
    default_rules,
    print_findings,
)

PAGE = ROOT / "docs" / "health.md"
WIDTH, HEIGHT = 64, 9

HEAD = """\
# Health: what the rules say

A rule looks at the tables of a run (one table a reading, see [statistics.md](statistics.md)) and speaks
when something is wrong: which parameter, why, and what to do. The same rules judge a run while it trains, a
finished run, a checkpoint, and a set-up before its first step:

```
lightning-adapt check RUN_OR_CKPT            # exit status 1 when a finding is critical: for CI
lightning-adapt check RUN --rules mine.yaml --format json
lightning-adapt lint CONFIG                  # a YAML file of LightningCLI, before it runs
```

```python
from lightning_adapt import read_dynamics
from lightning_adapt.health import Judge, judge_run, lint_optimizer

for finding in judge_run(read_dynamics("runs/nlp/char-lm/version_0")):
    print(finding.severity, finding.sentence, finding.remedy)

judge = Judge({"epsilon-floor": {"threshold": 0.2}, "dead-rows": False})
# after each step that was read: judge.see(table) returns what began and what ended
```

*info* is worth knowing, nothing has to be done; *warning* is likely wrong; *critical* means that the
training is lost or will not start.

**Window and patience.** A window is counted in steps (it reaches back so far, but over four tables at
least, however seldom tables are read); patience is counted in tables: so many in a row must show it before
it is told. A finding is told once, and once more when it has ended. Where a window says *the whole run*, at
most 64 tables, evenly spaced, are remembered. A resumed run goes on with what was remembered.

**Changing rules.** In Python or YAML, by name: any threshold, `window`, `patience`, `severity`; `false`
leaves a rule out. A rule of your own is an object, `Judge([*default_rules(), mine])`, or in YAML a dotted
path to one, `my_package.rules.mine: {}`:

```python
from lightning_adapt.health import Rule, Verdict

mine = Rule(
    name="gradient-outlier-element",
    meaning="One element's gradient is far above the others.",
    measure=lambda window, limits: Verdict(
        hit=window["grad_absmax"] > limits["threshold"] * window["grad_rms"],
        value=window["grad_absmax"] / window["grad_rms"],
    ),
    thresholds={"threshold": 1000.0},
    sentence="{parameter}: one gradient is {value:.0f} times the root mean square",
    remedy="look at the batch of step {step}",
    source="where the threshold comes from",
)
```

A fault inside a rule switches that rule off, says so once, and changes nothing else.

**What a table does not say** comes as `Facts` beside it, from whoever trains: the loss, the share of
clipped steps, whether gradients were kept, the schedule's count, the length of the run, precision and
clipping. Rules that need them say so below; without them they are silent or can only infer.

**Where the limits come from.** Each rule names its source. *Own runs* means trainings of this package's
recipes: healthy ones with several optimizers, sizes, seeds and precisions, which must stay silent, and sick
ones. The pictures are of the small trainings of the tests: `×` is the sick one, `o` a healthy one, `-` the
threshold, `^` the step at which the rule speaks.

"""


def plain(template: str) -> str:
    """A template as text: what is filled in becomes an ellipsis."""
    return re.sub(r"(?<!\{)\{[^{}]*\}", "…", template).replace("{{", "{").replace("}}", "}")


def section(rule: Rule) -> str:
    """What the rule is, without the picture."""
    lines = [f"## {rule.name}", "", rule.meaning, ""]
    lines += ["| cause | severity | do |", "|---|---|---|"]
    for cause in causes(rule.severity, rule.sentence):
        remedy = rule.remedy if isinstance(rule.remedy, str) else rule.remedy[cause]
        lines.append(
            f"| {cause or '–'} | {rule.severity_of(cause)} | {plain(remedy)} |".replace("|m|", "\\|m\\|")
        )
    limits = ", ".join(f"`{name}` {value:g}" for name, value in rule.thresholds.items())
    window = {None: "the whole run", 0: "this table"}.get(rule.window, f"{rule.window} steps")
    facts = [
        f"thresholds: {limits or 'none'}",
        f"window: {window}",
        f"patience: {rule.patience} table{'s' if rule.patience > 1 else ''}",
    ]
    facts += [f"facts: {', '.join(f'`{name}`' for name in rule.facts)}"] if rule.facts else []
    facts += ["one table is enough (checkpoint, lint)"] if rule.snapshot else []
    lines += ["", " · ".join(facts), "", f"Source: {rule.source}.", ""]
    return "\n".join(lines)


def followed(rule: Rule, tables: Tables, case: Sick, parameter: str) -> tuple[list[float], list[Finding]]:
    """The rule's figure of ``parameter`` at every table, NaN where there is none; and what it found."""
    figures: list[float] = []

    def measure(window: Window, limits: object) -> Verdict | None:
        verdict = rule.measure(window, rule.thresholds)
        figures.append(float("nan") if verdict is None else figure_of(verdict, window, parameter))
        return verdict

    judge = Judge([replace(rule, measure=measure)])
    for at, table in enumerate(tables):
        before = len(figures)
        judge.see(table, case.facts(at))
        figures += [float("nan")] * (before + 1 - len(figures))
    return figures, judge.findings


def figure_of(verdict: Verdict, window: Window, parameter: str) -> float:
    """The value of one row, or of the run."""
    values = np.atleast_1d(verdict.value)
    whole = np.ndim(verdict.hit) == 0 or parameter not in window.rows.names
    return float(values[0 if whole else window.rows.names.index(parameter)])


def chart(sick: Sequence[float], well: Sequence[float], limit: float | None, began: int | None) -> list[str]:
    """Lines of a chart over the tables; the scale is logarithmic where it spans decades."""
    figures = np.array([*sick, *well, *([] if limit is None else [limit])])
    known = figures[np.isfinite(figures)]
    if not len(known) or known.min() == known.max():
        return []
    log = known.min() > 0 and known.max() / known.min() > 30
    scale = np.log10 if log else (lambda x: np.asarray(x))
    low, high = float(scale(known.min())), float(scale(known.max()))
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]

    def place(value: float) -> int:
        return HEIGHT - 1 - round((float(scale(value)) - low) / (high - low) * (HEIGHT - 1))

    if limit is not None:
        rows[place(limit)] = ["-"] * WIDTH
    for marks, mark in ((well, "o"), (sick, "×")):
        for at, value in enumerate(marks):
            if np.isfinite(value) and (not log or value > 0):
                rows[place(value)][at * (WIDTH - 1) // max(len(marks) - 1, 1)] = mark
    ends = {0: f"{10**high if log else high:.2g}", HEIGHT - 1: f"{10**low if log else low:.2g}"}
    lines = [f"{ends.get(index, ''):>8} |{''.join(row).rstrip()}" for index, row in enumerate(rows)]
    axis = [" "] * WIDTH
    if began is not None:
        axis[began * (WIDTH - 1) // max(len(sick) - 1, 1)] = "^"
    return [*lines, f"{'':>8} +{''.join(axis).rstrip()}".rstrip()]


def limit_of(rule: Rule, case: Sick) -> float | None:
    """The threshold that belongs to the figure of a cause, where there is one."""
    names = (
        case.cause,
        "threshold",
        {"grew": "ratio", "persistent": "slow", "alarm": "alarm"}.get(case.cause, ""),
    )
    limit = next((rule.thresholds[name] for name in names if name in rule.thresholds), None)
    return 1 / limit if limit and case.cause == "vanishing" else limit


def picture(rule: Rule, case: Sick, healthy: Tables) -> str:
    """The training, the chart of the rule's figure, and what is said."""
    tables = tables_of(case)
    _, findings = followed(rule, tables, case, "")
    told = [finding for finding in findings if finding.cause == case.cause]
    chosen = next((f for f in told if f.parameter == case.parameter), told[0])
    sick, _ = followed(rule, tables, case, chosen.parameter)
    no_facts = replace(case, facts=lambda at: Facts())
    well, _ = followed(rule, healthy, no_facts, chosen.parameter)
    began = next(at for at, table in enumerate(tables) if table.step == chosen.first_step)
    stream = io.StringIO()
    print_findings([chosen], Console(file=stream, width=100, color_system=None))
    said = [line.rstrip() for line in stream.getvalue().splitlines()[:-1]]
    said = said[: next((at for at, line in enumerate(said) if line.startswith("  why:")), len(said))]
    lines = chart(sick, well[: len(sick)], limit_of(rule, case), began) if len(sick) > 5 else []
    return "\n".join([f"{case.about}:", "", "```", *lines, *([""] if lines else []), *said, "```", ""])


def page() -> Iterable[str]:
    """The page, piece by piece."""
    yield HEAD
    healthy = well()
    rules = default_rules()
    yield "| rule | it means |\n|---|---|\n"
    yield "".join(f"| [{rule.name}](#{rule.name}) | {rule.meaning} |\n" for rule in rules).replace(
        "|m|", "\\|m\\|"
    )
    yield "\n"
    for rule in rules:
        yield section(rule) + "\n"
        cases = [case for case in CASES if case.rule == rule.name]
        yield picture(rule, cases[0], healthy) + "\n"


if __name__ == "__main__":
    PAGE.write_text("".join(page()).rstrip() + "\n", encoding="utf-8")
