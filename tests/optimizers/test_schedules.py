"""Schedules: pure functions first, then the same figures out of torch's scheduler."""

import math
import pickle

import pytest
import torch

from lightning_adapt.optimizers import schedule
from lightning_adapt.optimizers._schedules import SCHEDULES

NAMES = sorted(SCHEDULES)


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [{"params": [torch.ones(1, requires_grad=True)], "lr": rate} for rate in rates], lr=1
    )


def rates_of(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([float(rate) for rate in scheduler.get_last_lr()])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warmup_steps", [1, 3, 10])
def test_warm_up_is_a_straight_line_that_does_not_start_at_zero(name, warmup_steps):
    factors = [SCHEDULES[name](step, warmup_steps, 100, 0.0) for step in range(warmup_steps)]
    assert factors == pytest.approx([(step + 1) / warmup_steps for step in range(warmup_steps)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warmup_steps", [0, 10])
@pytest.mark.parametrize("final_lr_frac", [0.0, 0.2, 1.0])
def test_after_warm_up_it_falls_and_stays_within_bounds(name, warmup_steps, final_lr_frac):
    after = [SCHEDULES[name](step, warmup_steps, 100, final_lr_frac) for step in range(warmup_steps, 150)]
    assert after[0] <= 1
    assert after == sorted(after, reverse=True)
    assert min(after) >= final_lr_frac
    assert all(factor > 0 for factor in after[: 100 - warmup_steps])


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("constant", 10**6, 1.0),
        ("linear", 10, 1.0),
        ("linear", 60, 0.1 + 0.9 * 50 / 100),
        ("linear", 110, 0.1),
        ("linear", 500, 0.1),
        ("cosine", 10, 1.0),
        ("cosine", 35, 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2),
        ("cosine", 60, 0.55),
        ("cosine", 110, 0.1),
        ("cosine", 500, 0.1),
        ("inverse_sqrt", 9, 1.0),
        ("inverse_sqrt", 39, 0.5),
        ("inverse_sqrt", 10**6, 0.1),
    ],
)
def test_values_by_hand(name, step, expected):
    assert SCHEDULES[name](step, 10, 110, 0.1) == pytest.approx(expected)


def test_inverse_sqrt_without_warm_up_is_that_of_the_step():
    assert [SCHEDULES["inverse_sqrt"](step) for step in (0, 3, 99)] == [1.0, 0.5, 0.1]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_shorter_than_its_warm_up_only_warms_up(name):
    assert SCHEDULES[name](0, 200, 1, 0.0) == pytest.approx(1 / 200)


@pytest.mark.parametrize("name", NAMES)
def test_the_scheduler_follows_the_function_in_every_group(name):
    made = schedule(optimizer(1.0, 0.5), name, warmup_steps=2, total_steps=6, final_lr_frac=0.1)
    expected = [SCHEDULES[name](step, 2, 6, 0.1) for step in range(8)]
    assert rates_of(made, 8) == [pytest.approx([factor, factor / 2]) for factor in expected]


def test_it_is_saved_and_resumed():
    made = schedule(optimizer(1.0), "cosine", warmup_steps=2, total_steps=9)
    rates_of(made, 4)
    state = pickle.loads(pickle.dumps(made.state_dict()))
    resumed = schedule(optimizer(1.0), "cosine", warmup_steps=2, total_steps=9)
    resumed.load_state_dict(state)
    assert rates_of(resumed, 5)[1:] == rates_of(made, 5)[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosin"}, r"`schedule` must be one of cosine, .*, got 'cosin'; did you mean 'cosine'\?"),
        ({"warmup_steps": -1}, r"`warmup_steps` must be a whole number >= 0, got -1; use 0"),
        ({"warmup_steps": 0.1}, r"`warmup_steps` must be a whole number >= 0, got 0\.1"),
        ({"final_lr_frac": 1.5}, r"`final_lr_frac` must be in \[0, 1\], got 1\.5"),
        ({"name": "linear"}, r"`total_steps` must be a number for schedule='linear', got None"),
        ({"name": "cosine", "total_steps": 0}, r"`total_steps` must be a finite number >= 1, got 0"),
        ({"total_steps": math.inf}, r"`total_steps` must be a finite number >= 1, got inf"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(optimizer(1.0), **arguments)


def test_a_group_that_joins_later_is_scheduled_from_its_own_rate():
    def make(late):
        optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
        scheduler = schedule(optimizer, "linear", total_steps=4)
        if late:
            optimizer.step()
            scheduler.step()
            optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)], "lr": 0.4})
        return optimizer, scheduler

    optimizer, scheduler = make(late=True)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.5, 0.2])

    again, resumed = make(late=False)
    again.add_param_group({"params": [torch.ones(1, requires_grad=True)], "lr": 0.0})
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    again.step()
    resumed.step()
    assert resumed.get_last_lr() == pytest.approx([0.25, 0.1])
