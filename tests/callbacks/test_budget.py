"""The monitor's share of the time, and the interval that a budget allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_adapt.callbacks._budget import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _trained(share: float | None, *, cost: float, step: float, every: int, steps: int) -> tuple[Budget, int]:
    """A training that obeys the budget; the interval in the end."""
    clock = Clock()
    budget = Budget(every, share, clock=clock)
    budget.start()
    due = every
    for index in range(1, steps + 1):
        clock.now += step
        if index >= due:
            clock.now += cost
            budget.add(cost)
            due = index + budget.interval(index)
    return budget, budget.every


def test_without_a_budget_nothing_changes() -> None:
    budget, every = _trained(None, cost=5.0, step=0.1, every=1, steps=50)
    assert every == 1
    assert budget.overhead_frac() == pytest.approx(5.0 / 5.1)


def test_within_the_budget_nothing_changes() -> None:
    _, every = _trained(0.1, cost=0.01, step=1.0, every=5, steps=100)
    assert every == 5


@given(
    share=st.floats(0.001, 0.5),
    cost=st.floats(1e-3, 1.0),
    step=st.floats(1e-3, 1.0),
    every=st.integers(1, 50),
)
def test_over_the_budget_the_interval_is_the_shortest_that_keeps_it(
    share: float, cost: float, step: float, every: int
) -> None:
    _, chosen = _trained(share, cost=cost, step=step, every=every, steps=4 * every)
    assert chosen % every == 0
    assert chosen == every or cost / (chosen * step) <= share * (1 + 1e-6)
    assert chosen == every or cost / ((chosen - every) * step or 1e-9) > share * (1 - 1e-6)


def test_the_share_comes_down_to_the_budget() -> None:
    budget, every = _trained(0.01, cost=0.1, step=0.1, every=1, steps=20_000)
    assert 100 <= every <= 101  # a clock adds up rounding
    assert budget.overhead_frac() == pytest.approx(0.01, rel=0.05)


def test_one_slow_reading_does_not_lengthen_the_interval() -> None:
    clock = Clock()
    budget = Budget(10, 0.01, clock=clock)
    budget.start()
    for cost in (3.0, 0.001, 0.001, 0.001):
        clock.now += 1.0
        budget.add(cost)
    assert budget.interval(40) == 10


def test_before_any_time_has_passed_there_is_no_share() -> None:
    budget = Budget(1, 0.5, clock=Clock())
    budget.start()
    assert budget.overhead_frac() == 0.0
    assert budget.interval(0) == 1
