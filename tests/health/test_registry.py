"""Which rules there are, and how they are changed: names, values, and what to say of wrong ones."""

from __future__ import annotations

import re
import string
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from helpers.sick import causes

from lightning_adapt.dynamics import COLUMNS
from lightning_adapt.health import Judge, Rule, Verdict, default_rules, rules_from
from lightning_adapt.health.figures import DERIVED, OF_FACTS
from lightning_adapt.health.finding import SEVERITIES

RULES = default_rules()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_is_complete(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name)
    assert rule.meaning.endswith(".")
    assert rule.source
    assert set(rule.columns) <= {*COLUMNS, *DERIVED, *OF_FACTS}
    for cause in causes(rule.severity, rule.sentence):
        assert rule.severity_of(cause) in SEVERITIES
        for text in (rule.sentence, rule.remedy):
            template = text if isinstance(text, str) else text[cause]
            assert template
            assert all(
                name is None or name.isidentifier() for _, name, _, _ in string.Formatter().parse(template)
            )


def test_names_are_unique() -> None:
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))
    assert len(names) >= 30


def test_changes_as_yaml_gives_them() -> None:
    changes: dict[str, Any] = {
        "epsilon-floor": {"threshold": 0.2, "patience": 5, "severity": "critical"},
        "dead-rows": False,
        "spike-warning": {"window": 20},
        "no-gradient": None,
        "decay-dominates": {"window": None},
    }
    found = {rule.name: rule for rule in rules_from(changes)}
    assert "dead-rows" not in found
    assert len(found) == len(RULES) - 1
    floor = found["epsilon-floor"]
    assert (floor.thresholds["threshold"], floor.patience, floor.severity) == (0.2, 5, "critical")
    assert found["spike-warning"].window == 20
    assert found["decay-dominates"].window is None
    assert found["no-gradient"] == next(rule for rule in RULES if rule.name == "no-gradient")
    assert next(rule for rule in RULES if rule.name == "epsilon-floor").patience == 3  # not changed in place


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ("defaults", "`rules` must be one of default, got 'defaults'"),
        ({"epsilon-flor": {}}, "got 'epsilon-flor'; did you mean 'epsilon-floor'?"),
        (
            {"epsilon-floor": {"treshold": 1}},
            "`rules.epsilon-floor` must be one of threshold, patience, .* got 'treshold'",
        ),
        ({"epsilon-floor": {"threshold": "a"}}, "`epsilon-floor.threshold` must be a finite number, got 'a'"),
        ({"epsilon-floor": {"threshold": True}}, "must be a finite number, got True"),
        ({"epsilon-floor": {"threshold": float("nan")}}, "must be a finite number, got nan"),
        (
            {"epsilon-floor": {"patience": 0}},
            "`epsilon-floor.patience` must be a whole number of tables, at least 1, got 0",
        ),
        (
            {"epsilon-floor": {"window": -1}},
            "`epsilon-floor.window` must be a whole number of steps, or null .* got -1",
        ),
        ({"epsilon-floor": {"severity": "bad"}}, "`epsilon-floor.severity` must be one of .* got 'bad'"),
        (
            {"epsilon-floor": 0.2},
            r"must be a mapping of its thresholds, or false to leave it out, got 0.2; for example",
        ),
        (["epsilon-floor"], "got 'epsilon-floor' among them; make one with"),
        ([RULES[0], RULES[0]], "must have names of their own, got epsilon-floor twice"),
        ({"no.such.rule": {}}, "must name rules that can be imported, got 'no.such.rule'"),
        ({"os.path": {}}, "must name rules, got 'os.path', which is module"),
    ],
)
def test_wrong_rules_are_told(rules: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Judge(rules)


def test_a_rule_of_ones_own_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Rule(
        name="mine",
        meaning="Mine.",
        measure=lambda window, limits: Verdict(False, 0.0),
        thresholds={"limit": 1.0},
        sentence="a",
        remedy="b",
        source="c",
    )
    module = ModuleType("my_rules")
    module.mine = own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_rules", module)
    found = rules_from({"my_rules.mine": {"limit": 2}})
    assert found[-1] == replace(own, thresholds={"limit": 2.0})
    assert len(found) == len(RULES) + 1
