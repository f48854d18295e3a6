"""docs/health.md says what is registered, rule by rule."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from lightning_adapt.health import Rule, default_rules

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "health.md").read_text(encoding="utf-8")
MAKER = runpy.run_path(str(ROOT / "docs" / "make_health.py"))


def test_the_page_has_every_rule_and_no_other() -> None:
    assert re.findall(r"^## (\S+)$", PAGE, re.MULTILINE) == [rule.name for rule in default_rules()]


@pytest.mark.parametrize("rule", default_rules(), ids=lambda rule: rule.name)
def test_a_rule_is_described_as_it_is_registered(rule: Rule) -> None:
    """`python docs/make_health.py` writes the page anew."""
    assert MAKER["section"](rule) in PAGE
    assert f"| [{rule.name}](#{rule.name}) |" in PAGE
    after = PAGE.split(f"\n## {rule.name}\n")[1].split("\n## ")[0]
    (picture,) = re.findall(r"```\n(.*?)```", after, re.DOTALL)
    assert rule.name in picture
    assert "do: " in picture


def test_the_pictures_are_drawn_from_the_trainings() -> None:
    rule = next(rule for rule in default_rules() if rule.name == "spike-warning")
    case = next(case for case in MAKER["CASES"] if case.rule == rule.name)
    picture = MAKER["picture"](rule, case, MAKER["well"]())
    assert picture.count("×") > 10
    assert "^" in picture
    assert "----" in picture
    assert rule.name in picture
