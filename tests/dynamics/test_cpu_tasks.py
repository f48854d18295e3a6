"""How the host's engine shares work: every element once, every figure in its place, whoever measures what."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from helpers.cpu_rows import SIZE, adamw_row, assert_close, ordinary
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines import cpu, reference
from lightning_adapt.dynamics.engines.cpu import _tasks
from lightning_adapt.dynamics.engines.cpu._compiled import BLOCK
from lightning_adapt.dynamics.engines.packed import Packed
from lightning_adapt.dynamics.table import RowInfo


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 10 * _tasks.TASK), min_size=1, max_size=12),
    st.sampled_from([0, 1, 3, 61]),
    st.integers(1, 5),
)
def test_every_element_is_in_one_task_and_every_row_has_its_place(
    sizes: list[int], stride: int, threads: int
) -> None:
    cut = _tasks.tasks_of(tuple(sizes), (stride,) * len(sizes), threads)
    rows, more_figures, more_counts = len(sizes), set(), set()
    seen, piece_of = [0] * rows, {}
    for piece, (first, end) in enumerate(cut.pieces.tolist()):
        piece_of |= dict.fromkeys(range(first, end), piece)
    assert list(piece_of) == list(range(len(cut.tasks)))
    pieces_of: dict[int, set[int]] = {}
    for at, row in enumerate(cut.tasks[:, 0].tolist()):
        pieces_of.setdefault(row, set()).add(piece_of[at])
    shared = [row for row, pieces in pieces_of.items() if len(pieces) > threads]
    for at, (row, start, stop, figures, counts) in enumerate(cut.tasks.tolist()):
        assert start == seen[row] <= stop <= start + _tasks.TASK
        seen[row] = stop
        if start == 0:
            assert figures == row
        else:
            assert figures not in more_figures
            more_figures.add(figures)
        if row in shared:
            assert counts == -1 - shared.index(row)
        elif start == 0:
            assert counts == row
        elif piece_of[at] == piece_of[at - 1]:
            assert counts == cut.tasks[at - 1, 4]
        else:
            assert counts not in more_counts
            more_counts.add(counts)
    assert seen == sizes
    assert more_figures == set(range(rows, rows + cut.figures))
    assert more_counts == set(range(rows, rows + cut.counts))
    assert (cut.shared, cut.threads) == (len(shared), threads)


def _counts(packed: Packed) -> Tensor:
    assert packed.counts is not None
    return packed.counts


def _half(size: int) -> Row:
    """Measured, in bfloat16: most updates are lost, so that every block is looked at twice."""
    p, g, m, v = (x.bfloat16() for x in ordinary(size))
    row = adamw_row(p, g, m, v)
    row.before = p.clone()
    row.before[:: size // 7 or 1] += 1e-2
    return row


def _rows() -> list[Row]:
    p, g, m, v = ordinary(3 * SIZE)
    no_moments = Row(RowInfo("nothing"), p[:SIZE], g[:SIZE], None, None)
    return [
        adamw_row(p, g, m, v),
        no_moments,
        _half(2 * SIZE),
        Row(RowInfo("empty"), p[:0], None, None, None),
    ]


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("histograms", [True, False])
def test_a_row_is_the_same_beside_any_others(histograms: bool) -> None:
    alone = [cpu.measure([row], histograms=histograms) for row in _rows()]
    for order in permutations(range(4)):
        together = cpu.measure([_rows()[i] for i in order], histograms=histograms)
        for place, row in enumerate(order):
            assert torch.equal(together.figures[place], alone[row].figures[0])
            assert (together.counts is not None) == histograms
            if histograms:
                assert torch.equal(_counts(together)[place], _counts(alone[row])[0])


def _agrees(rows: list[Row]) -> None:
    ours, theirs = cpu.measure(rows), reference.measure(rows)
    assert_close(ours, theirs, 1e-6)
    assert torch.equal(_counts(ours), _counts(theirs))


@pytest.mark.usefixtures("small_tasks")
def test_what_is_merged_is_what_the_reference_says() -> None:
    _agrees(_rows())


def _spoiled(x: Tensor, at: int, value: float) -> Tensor:
    x = x.clone()
    x[at] = value
    return x


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["parameter", "before", "gradient"])
def test_half_precision_beside_blocks_that_go_the_exact_way(dtype: torch.dtype, name: str) -> None:
    row = _half(40 * BLOCK + 5)
    step = row.canonical
    assert step is not None
    assert step.first_moment is not None
    assert step.second_moment is not None
    row = replace(
        row,
        parameter=row.parameter.to(dtype),
        before=None if row.before is None else row.before.to(dtype),
        gradient=None if row.gradient is None else row.gradient.to(dtype),
        canonical=replace(
            step, first_moment=step.first_moment.to(dtype), second_moment=step.second_moment.float()
        ),
    )
    for at in (3 * BLOCK + 7, 4 * BLOCK, 17 * BLOCK + 1, 40 * BLOCK):
        setattr(row, name, _spoiled(getattr(row, name), at, float("inf")))
    _agrees([row])
