"""The compiled engine for the host: the fast way, blocks that must not go it, samples, threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.cpu_rows import SIZE, STRIDE, adamw_row, assert_close, figures_of, ordinary
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from torch import Tensor, nn

from lightning_adapt.dynamics.canonical import CanonicalStep, Row
from lightning_adapt.dynamics.engines import cpu, reference
from lightning_adapt.dynamics.engines.cpu import _block, _compiled, _pass
from lightning_adapt.dynamics.engines.cpu._compiled import BLOCK
from lightning_adapt.dynamics.rows import Circumstances, build_rows, members
from lightning_adapt.dynamics.table import RowInfo


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors go the fast way, too, and are sampled."""
    monkeypatch.setattr(cpu, "sample_stride", lambda shape: STRIDE)


def _sampled(row: Row) -> Row:
    """Every third element of ``row``."""
    step = row.canonical

    def some(x: Any) -> Any:
        return x.reshape(-1)[::STRIDE] if isinstance(x, Tensor) and x.dim() else x

    taken = None
    if step is not None:
        taken = CanonicalStep(**{name: some(getattr(step, name)) for name in CanonicalStep.__slots__})
    return Row(
        row.info, some(row.parameter), some(row.before), some(row.gradient), taken,
        row.gradient_factor, row.applied,
    )  # fmt: skip


def _agrees(rows: list[Row], rtol: float = 1e-6) -> None:
    ours = cpu.measure(rows)
    assert_close(ours, reference.measure(rows), rtol)
    counts = reference.measure([_sampled(row) for row in rows]).counts
    assert ours.counts is not None
    assert counts is not None
    np.testing.assert_array_equal(ours.counts, counts * STRIDE)
    assert list(ours.strides) == [STRIDE] * len(rows)


O = torch.optim  # noqa: E741
CASES: list[tuple[Callable[..., O.Optimizer], dict[str, Any]]] = [
    (O.AdamW, {}),
    (O.AdamW, {"weight_decay": 0.1, "lr": 0.01, "fused": True}),
    (O.AdamW, {"lr": 1e-7}),  # most updates are lost
    (O.AdamW, {"lr": 1e-9, "weight_decay": 0.0}),
    (O.Adam, {"weight_decay": 0.1}),
    (O.Adam, {"eps": 1e-3, "maximize": True}),
    (O.Adam, {"amsgrad": True, "eps": 0.0}),
    (O.NAdam, {}),
    (O.RAdam, {}),
    (O.Adagrad, {"lr": 0.01}),
    (O.Adagrad, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    (O.RMSprop, {}),
    (O.RMSprop, {"momentum": 0.9, "weight_decay": 0.1}),
    (O.RMSprop, {"centered": True}),
    (O.Adadelta, {}),
    (O.Adamax, {}),
    (O.SGD, {"lr": 0.1}),
    (O.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]


def _trained(
    make: Callable[..., O.Optimizer], options: dict[str, Any], dtype: torch.dtype, snapshot: bool
) -> Any:
    """Rows after each of three steps: dense gradients, zeros here and there, and an untouched stretch."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(SIZE).to(dtype))
    idle = nn.Parameter(torch.ones(SIZE).to(dtype))
    optimizer = make([parameter, idle], **options)
    names = {id(parameter): "p", id(idle): "idle"}
    for step in range(3):
        gradient = torch.randn(SIZE) * 1e-3
        gradient[::7] = 0
        gradient[1000:3000] = 0
        parameter.grad = gradient.to(dtype)
        before = {id(p): p.detach().clone() for p in (parameter, idle)} if snapshot else None
        optimizer.step()
        yield list(build_rows(optimizer, members(optimizer, names), Circumstances(before, {}, step + 1)))


@pytest.mark.parametrize("snapshot", [True, False], ids=["measured", "predicted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("make", "options"), CASES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_the_fast_way_agrees_with_the_reference(
    make: Any, options: dict[str, Any], dtype: torch.dtype, snapshot: bool
) -> None:
    for rows in _trained(make, options, dtype, snapshot):
        _agrees(rows)


WRECKS = {
    "nothing": lambda p, g, m, v: None,
    "nan in g": lambda p, g, m, v: g.__setitem__(5, torch.nan),
    "inf in g": lambda p, g, m, v: g.__setitem__(2000, -torch.inf),
    "nan in m": lambda p, g, m, v: m.__setitem__(1, torch.nan),
    "inf in v": lambda p, g, m, v: v.__setitem__(SIZE - 1, torch.inf),
    "nan in v": lambda p, g, m, v: v.__setitem__(0, torch.nan),
    "negative v": lambda p, g, m, v: v.__setitem__(0, -1.0),
    "nan in p": lambda p, g, m, v: p.__setitem__(3, torch.nan),
    "subnormal v": lambda p, g, m, v: v.__setitem__(slice(0, 50), 1e-41),
    "zero v": lambda p, g, m, v: v.__setitem__(slice(0, 50), 0.0),
    "v at the floor": lambda p, g, m, v: v.__setitem__(slice(0, 1500), 1e-16 / 1.25),
    "untouched": lambda p, g, m, v: [x.__setitem__(slice(0, 1024), 0.0) for x in (g, m, v)],
    "tiny g": lambda p, g, m, v: g.mul_(1e-22),
    "tiny everything": lambda p, g, m, v: [x.mul_(y) for x, y in ((g, 1e-17), (m, 1e-17), (v, 1e-33))],
    "huge g": lambda p, g, m, v: g.mul_(1e25),
    "huge p": lambda p, g, m, v: p.mul_(1e20),
    "zero p": lambda p, g, m, v: p.zero_(),
    "tiny p": lambda p, g, m, v: p.mul_(1e-30),
    "no gradient left": lambda p, g, m, v: [x.zero_() for x in (g, m)],
}


@pytest.mark.parametrize("decay", [0.0, 1e-4, 1e-25])
@pytest.mark.parametrize("eps", [1e-8, 1e-3, 0.0])
@pytest.mark.parametrize("wreck", WRECKS)
def test_a_block_with_anything_unusual_agrees(wreck: str, eps: float, decay: float) -> None:
    tensors = ordinary()
    WRECKS[wreck](*tensors)
    _agrees([adamw_row(*tensors, eps=eps, decay=decay)])


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 3000),
    scales=st.tuples(*[st.floats(-40, 25).map(lambda e: 10.0**e)] * 3),
    eps=st.sampled_from([0.0, 1e-30, 1e-15, 1e-8, 1e-3, 10.0]),
    decay=st.sampled_from([0.0, 1e-12, 0.1]),
)
def test_at_any_scale(size: int, scales: tuple[float, ...], eps: float, decay: float) -> None:
    p, g, m, v = ordinary(size)
    _agrees([adamw_row(p * scales[0], g * scales[1], m * scales[1], v * scales[2], eps=eps, decay=decay)])


def test_whether_an_update_was_lost_is_exact_at_the_border() -> None:
    """Updates from just below to just above half an ulp of the parameter, closer than float32 can tell."""
    p, g, _, v = torch.ones(4096), torch.zeros(4096), None, torch.ones(4096)
    half = 2.0**-25  # of the distance from 1 to the next smaller float32
    m = torch.linspace(-1, 1, 4096).double().mul(2e-6).add(1).mul(half / 1e-3 / 1.5 * 1.25**0.5).float()
    row = adamw_row(p, g, m, v, eps=1e-30, decay=0.0)
    _agrees([row])
    lost = figures_of(cpu.measure([row]))["lost"][0]
    assert 0 < lost < 4096


@pytest.mark.parametrize(
    "layout",
    ["transposed", "channels last", "every other", "a column", "expanded", "misaligned", "0-dim", "empty"],
)
def test_tensors_as_they_lie_in_memory(layout: str) -> None:
    shape = {"0-dim": (), "empty": (0, 3)}.get(layout, (8, 6, 10, 12))
    torch.manual_seed(0)
    tensors = []
    for scale in (1.0, 1e-3, 1e-3, 1e-6):
        x = torch.randn(shape) * scale
        if layout == "transposed":
            x = x.transpose(0, 2)
        elif layout == "channels last":
            x = x.to(memory_format=torch.channels_last)
        elif layout == "every other":
            x = (torch.randn(8, 6, 10, 24) * scale).abs_()[..., ::2]
        elif layout == "a column":
            x = (torch.randn(500, 3) * scale)[:, 0]
        elif layout == "expanded":
            x = (torch.randn(()) * scale).expand(300, 5)
        elif layout == "misaligned":
            x = (torch.randn(8 * 6 * 10 * 12 + 1) * scale)[1:].view(shape)
        tensors.append(x)
    tensors[3] = tensors[3].abs()
    rows = [adamw_row(*tensors)]
    assert_close(cpu.measure(rows), reference.measure(rows), 1e-6)


@pytest.mark.usefixtures("small_tasks")
def test_results_repeat_bit_by_bit_for_any_number_of_threads() -> None:
    rows = [adamw_row(*ordinary()), adamw_row(*ordinary(100)), adamw_row(*ordinary(9000))]
    threads, packed = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 2):
            torch.set_num_threads(number)
            packed.append(cpu.measure(rows))
    finally:
        torch.set_num_threads(threads)
    for other in packed[1:]:
        assert torch.equal(packed[0].figures, other.figures)
        assert packed[0].counts is not None
        assert torch.equal(packed[0].counts, other.counts)  # type: ignore[arg-type]


def test_what_the_kernel_cannot_read_is_left_to_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_KINDS", {k: v for k, v in cpu._KINDS.items() if k != torch.float16})
    half = Row(RowInfo("half"), torch.ones(7, dtype=torch.float16), None, None, None)
    rows = [adamw_row(*ordinary()), half, adamw_row(*ordinary(50))]
    packed = cpu.measure(rows)
    assert_close(packed, reference.measure(rows), 1e-6)
    assert list(packed.strides) == [STRIDE, 1, STRIDE]


def _bits(kind: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """All 65,536 numbers of a dtype as the engine widens them, and as torch does."""
    stored = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    wide = np.zeros(1 << 16, np.float32)

    @njit
    def widen(address: int, room: int) -> int:
        return _compiled.single(address, kind, 0, 1 << 16, room)

    assert widen(stored.data_ptr(), wide.ctypes.data) == wide.ctypes.data
    return wide, stored.float().numpy()


@pytest.mark.parametrize(
    ("kind", "dtype"), [(_compiled.BFLOAT16, torch.bfloat16), (_compiled.FLOAT16, torch.float16)], ids=str
)
def test_every_half_precision_number_is_widened_exactly(kind: int, dtype: torch.dtype) -> None:
    wide, expected = _bits(kind, dtype)
    np.testing.assert_array_equal(wide, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(wide[number]), np.signbit(expected[number]))


@pytest.mark.parametrize("way", ["_scaled", "_extended"])
def test_both_ways_of_widening_float16_are_exact(way: str) -> None:
    if way == "_extended" and _compiled._from_float16 is not _compiled._extended:
        pytest.skip("this processor has no instruction for it")
    widen = getattr(_compiled, way)

    @njit
    def widened(halves: Any, wide: Any) -> None:
        for i in range(len(halves)):
            wide[i] = widen(halves[i])

    halves, wide = np.arange(1 << 16).astype(np.uint16), np.empty(1 << 16, np.float32)
    widened(halves, wide)
    expected = halves.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(wide, expected)
    np.testing.assert_array_equal(np.signbit(wide[wide == 0]), np.signbit(expected[wide == 0]))


def test_many_equal_numbers_are_added_without_drift() -> None:
    # Rounding goes the same way again and again where the same number is added.
    generator = np.random.default_rng(0)
    for eps in (1e-8, 1e-3) * 30:
        p, g, m, v = (
            torch.full((4 * BLOCK,), float(x)) for x in (0.3 + generator.random(4)) * [1, 1e-2, 1e-2, 1e-4]
        )
        _agrees([adamw_row(p, g, m, v, eps=eps)])


def test_a_change_of_any_source_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    version = _pass.version()
    read = type(_pass.HERE).read_bytes
    monkeypatch.setattr(
        type(_pass.HERE), "read_bytes", lambda self: read(self) + b"#" * (self.name == "packed.py")
    )
    assert _pass.version() != version


def test_a_rule_with_one_second_moment_a_row_is_read_as_the_reference_reads_it() -> None:
    p, g, m, _ = (x[:5000].reshape(100, 50) for x in ordinary())
    row = adamw_row(p, g, m, g.square().mean(1, keepdim=True))
    packed = cpu.measure([row])
    spread = adamw_row(p, g, m, g.square().mean(1, keepdim=True).expand(100, 50).contiguous())
    assert_close(packed, reference.measure([spread]), 1e-6)


def test_a_rule_with_a_wrong_shape_is_told_and_reads_no_foreign_memory() -> None:
    row = adamw_row(torch.ones(4, 3), torch.ones(4, 3), torch.ones(4, 3), torch.ones(7))
    with pytest.raises(
        ValueError, match=r"`second_moment` of a canonical step must have the shape .* got \(7,\)"
    ):
        cpu.measure([row])


def test_ratios_whose_squares_underflow_are_not_lost() -> None:
    p, g, m, v = ordinary()
    _agrees([adamw_row(p, g * 1e-9, m, v.add(1).mul(1e20))])


WITH_L2: list[tuple[Callable[..., O.Optimizer], dict[str, Any]]] = [
    (O.RMSprop, {"lr": 1e-3}),
    (O.Adagrad, {"lr": 1e-2}),
    (O.NAdam, {"lr": 1e-3}),
    (O.Adam, {"lr": 1e-3}),
    (O.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
]


@pytest.mark.parametrize(("make", "options"), WITH_L2, ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("noise", [1e-4, 1e-6, 1e-8])
def test_a_predicted_update_of_which_digits_cancel_is_exact(
    make: Callable[..., O.Optimizer], options: dict[str, Any], noise: float
) -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(8 * BLOCK))
    optimizer = make([parameter], weight_decay=1e-2, **options)
    for _ in range(30):  # the gradient of the loss is just what L2 adds
        parameter.grad = -1e-2 * parameter.detach() + noise * torch.randn(8 * BLOCK)
        optimizer.step()
    _agrees(list(build_rows(optimizer, members(optimizer, {id(parameter): "p"}), Circumstances())))


def test_decay_that_undoes_the_step_is_exact() -> None:
    p, g, _, v = ordinary()
    rate = 1e-3 / ((v.double() * 1.25).sqrt() + 1e-8)
    for share in (0.5, 1e-2, 1e-4):
        undone = -(1e-4 * p.double() / rate / 1.5) * (1 + share * torch.rand(SIZE, dtype=torch.float64))
        _agrees([adamw_row(p, g, undone.float(), v)])


@pytest.mark.parametrize("eps", [torch.inf, 1e30, 1e-30, 0.0])
def test_any_epsilon_comes_to_an_end(eps: float) -> None:
    _agrees([adamw_row(*ordinary(), eps=eps)])


def test_what_is_compiled_as_written_stays_so_within_what_is_not() -> None:
    @_compiled.in_any_order
    def whole(p: Any, update: Any, slack: Any) -> Any:
        return _block._stays(p, update, slack)

    p, half_ulp, slack = np.float32(-1.234135), np.float32(-(2.0**-24)), np.float32(2.5e-10)
    assert njit(lambda p, u, s: whole(p, u, s))(p, half_ulp, slack) == (False, True)


def test_a_negative_learning_rate_has_its_extremes_in_order() -> None:
    row = adamw_row(*ordinary())
    assert row.canonical is not None
    row.canonical.lr = -1e-3
    _agrees([row])


def test_a_negated_view_is_read_with_its_sign() -> None:
    p, g, m, v = ordinary()
    negated = torch.complex(v, g).conj().imag  # a view of g, every second number, with a flag
    assert negated.is_neg()
    assert_close(
        cpu.measure([adamw_row(p, negated, m, v)]), reference.measure([adamw_row(p, -g, m, v)]), 1e-6
    )
