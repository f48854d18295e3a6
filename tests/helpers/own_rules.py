"""An optimizer with a rule of the user's, and what such rules do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lightning_adapt.dynamics import update_rules
from lightning_adapt.dynamics.canonical import CanonicalStep, StepView
from lightning_adapt.dynamics.rules_adaptive import adam
from lightning_adapt.dynamics.update_rules import UpdateRule

Read = Callable[[StepView], CanonicalStep]


class Own(torch.optim.Adam):
    """Has a rule of the user's."""


def give_rule(monkeypatch: pytest.MonkeyPatch, read: Read, *, lasting: bool = False) -> None:
    """Let ``read`` be the rule of `Own`, for the test."""
    rule = UpdateRule(read, reads="stored", shared=True, lasting=lasting)
    monkeypatch.setitem(update_rules._RULES, Own, rule)


def copied(view: StepView) -> CanonicalStep:
    return adam(replace(view, group={**view.group, "eps": 0.5}))


def counted_on(view: StepView) -> CanonicalStep:
    view.step = view.step + 1
    return adam(view)
