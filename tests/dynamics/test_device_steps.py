"""Steps that an optimizer counts on the device: kernels read each count, and nobody else computes with it."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import happenings
from helpers.happenings import Watched, watched_optimizer
from helpers.interpreter import launches_alone, shrink
from helpers.operations import Operations
from helpers.own_rules import Own, Read, copied, counted_on, give_rule
from torch import Tensor

from lightning_adapt.dynamics import step_counts
from lightning_adapt.dynamics.canonical import CanonicalStep, StepView
from lightning_adapt.dynamics.engines import find_engine, reference
from lightning_adapt.dynamics.engines.packed import COUNTS, Packed
from lightning_adapt.dynamics.engines.steady import SteadyRows
from lightning_adapt.dynamics.rows import build_rows
from lightning_adapt.dynamics.rules_adaptive import adam
from lightning_adapt.dynamics.step_counts import BiasCorrection, Corrected, DeviceSteps

BIAS_CORRECTED = [
    (torch.optim.Adam, {}),
    (torch.optim.AdamW, {"amsgrad": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {"betas": (0.0, 0.9999)}),
    (torch.optim.Adamax, {}),
]
OTHERS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.RAdam, {}),
    (torch.optim.Adagrad, {}),
    (torch.optim.Adagrad, {"lr_decay": 0.1}),
    (torch.optim.RMSprop, {}),
    (torch.optim.SGD, {"momentum": 0.9}),
]


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are treated as those of a device are, on whatever device they lie."""
    monkeypatch.setattr(step_counts, "stays_on_device", lambda step: True)


def _steady(cls: Callable[..., torch.optim.Optimizer], steps: int = 3, **options: Any) -> Watched:
    """After some steps, of which the parameters of one tensor missed one."""
    watched = watched_optimizer(cls, **options)
    for _ in range(steps):
        watched.step()
        watched.check()
    if "step" in watched.optimizer.state[happenings.parameters(watched)[2]]:
        happenings.behind(watched)
    return watched


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(("cls", "options"), BIAS_CORRECTED + OTHERS)
def test_rows_are_steady_and_right(cls: Any, options: dict[str, Any]) -> None:
    assert _steady(cls, **options).check()


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(("cls", "options"), BIAS_CORRECTED)
def test_nothing_is_computed_of_counts_until_somebody_asks(cls: Any, options: dict[str, Any]) -> None:
    watched = _steady(cls, **options)
    with Operations() as operations:
        found = watched.rows()
    assert isinstance(found, SteadyRows)
    assert operations.computed == []
    assert any(isinstance(x, Corrected) for family in found.numbers for x in family)
    assert happenings.counts(found) == [3, 3, 2, 3]


@pytest.mark.usefixtures("on_device")
def test_a_beta_that_is_a_tensor_is_computed_with() -> None:
    watched = watched_optimizer(
        torch.optim.Adam, betas=(torch.tensor(0.9), torch.tensor(0.99)), capturable=True
    )
    for p in happenings.parameters(watched):
        state = {name: torch.rand(p.shape) for name in ("exp_avg", "exp_avg_sq")}
        watched.optimizer.state[p] = {"step": torch.tensor(2.0), **state}
    watched.check()
    assert watched.check()


def _computed_with(view: StepView) -> CanonicalStep:
    step = adam(view)
    factor, correction = step.first_moment_factor, step.second_moment_correction
    step.first_moment_factor = -(1 - factor) / 2 * (correction > 0.5)
    step.lr = 0.1 * correction**0.5 + 1 / correction
    return step


@pytest.mark.parametrize("read", [copied, counted_on, _computed_with])
def test_rules_of_others_may_do_what_they_like(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    give_rule(monkeypatch, read)
    watched, said = watched_optimizer(Own), []
    for _ in range(3):
        watched.step()
    happenings.behind(watched)
    for on_device in (True, False):
        monkeypatch.setattr(step_counts, "stays_on_device", lambda step, there=on_device: there)
        said.append(reference.measure(watched.rows()).figures)
    assert said[0].isfinite().any()
    torch.testing.assert_close(said[0], said[1], equal_nan=True)


def test_a_correction_is_what_torch_makes_of_it() -> None:
    steps = DeviceSteps([torch.tensor(1.0), torch.tensor(3.0)])
    lazy, wanted = BiasCorrection(0.5, steps), torch.tensor([2.0, 8 / 7], dtype=torch.float64)
    anything: Any = lazy
    for found in (torch.sqrt(anything), anything.sqrt(), anything**0.5, torch.pow(anything, exponent=0.5)):
        torch.testing.assert_close(found, wanted.sqrt(), rtol=1e-15, atol=0)
    assert torch.equal(wanted * anything, anything * anything)
    assert torch.equal(torch.stack([wanted, anything.vector]), torch.stack([anything, wanted]))
    assert copy.copy(lazy).steps is steps


@pytest.mark.usefixtures("on_device")
def test_a_count_of_many_numbers_is_told() -> None:
    watched = _steady(torch.optim.Adam)
    watched.optimizer.state[happenings.parameters(watched)[1]]["step"] = torch.ones(5)
    with pytest.raises(ValueError, match="`step` in an optimizer's state must be one number a parameter"):
        watched.check()


def _agree(ours: Packed, theirs: Packed) -> None:
    found, wanted = ours.figures.numpy(), theirs.figures.numpy()
    np.testing.assert_array_equal(found[:, : len(COUNTS)], wanted[:, : len(COUNTS)])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-300)
    assert ours.counts is not None
    assert theirs.counts is not None
    np.testing.assert_array_equal(ours.counts.numpy(), theirs.counts.numpy())


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(("cls", "options"), BIAS_CORRECTED + OTHERS)
def test_engines_that_know_no_such_numbers_measure_row_by_row(cls: Any, options: dict[str, Any]) -> None:
    watched = _steady(cls, **options)
    fresh = [*build_rows(watched.optimizer, watched.members, watched.now)]
    for name in ("eager", "auto"):
        _agree(find_engine(name)(watched.rows()), reference.measure(fresh))


# --- kernels, interpreted ---

needs_interpreter = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(),
    reason="no Triton, or there is a GPU: tests/gpu runs the compiled kernels",
)
ignore_numpy = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the logarithm of beta = 0


def _kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    from lightning_adapt.dynamics.engines import triton

    shrink(monkeypatch)
    return triton


def _kernels_agree(engine: Any, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that read counts where they are say what the reference does with counts on the host."""
    rows = watched.rows()
    assert isinstance(rows, SteadyRows)
    ours = engine.measure(rows)
    monkeypatch.setattr(step_counts, "stays_on_device", lambda step: False)
    _agree(ours, reference.measure(build_rows(watched.optimizer, watched.members, watched.now)))


@needs_interpreter
@ignore_numpy
@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("steps", [3, 40])
@pytest.mark.parametrize(("cls", "options"), BIAS_CORRECTED + OTHERS)
def test_kernels_correct_each_parameter_by_its_own_count(
    cls: Any, options: dict[str, Any], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, watched = _kernels(monkeypatch), _steady(cls, steps, **options)
    _kernels_agree(engine, watched, monkeypatch)


@needs_interpreter
@ignore_numpy
@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("change", [Tensor.double, lambda step: step.reshape(1), Tensor.long], ids="dil")
@pytest.mark.parametrize("all_of_them", [True, False])
def test_counts_of_other_dtypes_and_shapes(
    change: Callable[[Tensor], Tensor], all_of_them: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, watched = _kernels(monkeypatch), _steady(torch.optim.Adam)
    for p in happenings.parameters(watched)[: None if all_of_them else 2]:
        watched.optimizer.state[p]["step"] = change(watched.optimizer.state[p]["step"])
    watched.check()
    watched.check()
    _kernels_agree(engine, watched, monkeypatch)


@needs_interpreter
@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(("cls", "options"), BIAS_CORRECTED)
def test_a_reading_is_three_launches_and_torch_launches_nothing(
    cls: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = launches_alone(monkeypatch)
    engine, watched = _kernels(monkeypatch), _steady(cls, **options)
    with Operations() as operations:
        engine.measure(watched.rows())
    assert operations.computed == ["copy_"]  # the table is copied, by no kernel
    assert sorted(launched) == ["begin", "measure_blocks", "merge_blocks"]
