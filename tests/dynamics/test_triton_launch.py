"""What the Triton engine launches and sends, interpreted: few launches, few copies, few tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.interpreter import launches_alone
from helpers.operations import Operations
from helpers.triton_rows import adamw_row, agree, engine, small_blocks

from lightning_adapt.dynamics.engines import triton_launch
from lightning_adapt.dynamics.engines.descriptors import SCALARS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, on NaN, inf and 1 / 0
BRAIN = torch.bfloat16


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)


def test_what_rules_compute_does_not_pile_up(
    monkeypatch: pytest.MonkeyPatch, launches: dict[str, int]
) -> None:
    rows = [replace(adamw_row(20, seed=seed), temporary=1 << 20) for seed in range(5)]
    monkeypatch.setattr(engine, "MOST_TEMPORARY", 2 << 20)
    agree(rows)
    assert launches["measure_blocks"] == 3


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each kernel was launched."""
    counted: dict[str, int] = {}
    for name in ("begin", "measure_blocks", "merge_blocks"):
        kernel = getattr(triton_launch, name)

        def run(*args: Any, _name: str = name, _run: Any = kernel.run, **kwargs: Any) -> Any:
            counted[_name] = counted.get(_name, 0) + 1
            return _run(*args, **kwargs)

        monkeypatch.setattr(kernel, "run", run)
    return counted


def test_launches_do_not_grow_with_the_rows(launches: dict[str, int]) -> None:
    engine.measure([adamw_row(20, seed=seed) for seed in range(6)])
    assert launches == {"begin": 1, "measure_blocks": 1, "merge_blocks": 1}
    launches.clear()
    engine.measure([adamw_row(20)], histograms=False)
    assert launches == {"measure_blocks": 1, "merge_blocks": 1}
    launches.clear()
    rows = [
        adamw_row(20),
        adamw_row(20, dtype=BRAIN),
        adamw_row(30),
        replace(adamw_row(30, dtype=BRAIN), applied=torch.tensor(1.0)),
    ]
    engine.measure(rows)
    assert launches == {"begin": 1, "measure_blocks": 2, "merge_blocks": 1}


@pytest.mark.parametrize("scalars", [0, 2])
def test_torch_launches_nothing_but_one_for_scalars(scalars: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launches_alone(monkeypatch)
    rows = [adamw_row(20, seed=seed) for seed in range(3)]
    numbers = [torch.tensor(float(i), dtype=torch.float64) for i in range(scalars)]
    with Operations() as operations:
        packed = engine.measure(rows)
        packed.scalars = numbers
        packed.buffer()
    assert operations.computed == ["copy_"] + ["stack"] * (scalars > 0)  # the table is copied, by no kernel


def test_only_what_changed_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    copy = triton_launch.copy
    monkeypatch.setattr(
        triton_launch, "copy", lambda words, table: (sent.append(len(words)), copy(words, table))
    )
    rows = [adamw_row(20), adamw_row(70)]
    numbers, addresses, facts = 2 * 2 * len(SCALARS), 2 * 8, 2 * 6 + 3
    first = engine.measure(rows)
    again = engine.measure(rows)
    assert sent == [numbers + addresses + facts, numbers]
    assert torch.equal(first.figures, again.figures)
    rows[1].gradient = rows[1].gradient.clone()  # type: ignore[union-attr]  # zero_grad(set_to_none=True)
    moved = engine.measure(rows)
    assert sent[2:] == [numbers + addresses]
    assert torch.equal(first.figures, moved.figures)
    engine.measure([rows[1]])
    assert sent[3] == numbers // 2 + addresses // 2 + 6 + 2


def test_tables_of_optimizers_that_are_gone_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_KEPT", 2)
    for size in (1, 2, 3):
        engine.measure([adamw_row(size)], histograms=False)
    assert len(engine._plans) == 2
