"""When one optimizer of a run is read."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_adapt.callbacks import _watch
from lightning_adapt.callbacks._watch import Watch


class _Probe:
    armed = False

    def __init__(self) -> None:
        self.steps: list[int] = []

    def arm(self, *, step: int, **_: Any) -> None:
        self.steps.append(step)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Any:
    trainer = SimpleNamespace(step=0, global_step=0)
    monkeypatch.setattr(_watch._trainer, "batch_step", lambda trainer: trainer.step)
    monkeypatch.setattr(_watch._trainer, "loss_scale", lambda _: None)
    return trainer


def _watch_of(every: int) -> tuple[Watch, list[int]]:
    """A watch, and the steps that its probe reads."""
    probe: Any = _Probe()
    return Watch("Adam", probe, every, due=1), probe.steps


def _train(trainer: Any, watch: Watch, steps: int, longer: dict[int, int]) -> None:
    for trainer.step in range(steps):
        watch.arm_when_due(trainer, announced=True)
        if trainer.step in longer:
            watch.lengthen(longer[trainer.step])


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4]), (3, [0, 2]), (5, [0, 4])])
def test_the_first_step_and_then_every_so_many_are_read(
    trainer: Any, every: int, expected: list[int]
) -> None:
    watch, steps = _watch_of(every)
    _train(trainer, watch, 5, {})
    assert steps == expected


@pytest.mark.parametrize("longer", [{2: 87, 100: 150, 300: 310, 320: 330}, {0: 7, 1: 50, 90: 51}, {5: 6}])
def test_no_reading_comes_sooner_than_the_interval_in_force(trainer: Any, longer: dict[int, int]) -> None:
    watch, steps = _watch_of(1)
    _train(trainer, watch, 900, longer)
    for before, after in pairwise(steps):
        in_force = max([1, *(every for step, every in longer.items() if step < after)])
        assert in_force <= after - before < 2 * in_force + max(longer.values()), steps
    assert steps[-1] > 500
    assert watch.due % watch.every == 0  # on the grid again
