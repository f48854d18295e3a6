"""The probe in a plain loop: when it reads, what it costs, what it survives."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from helpers.operations import Operations
from torch import nn

from lightning_adapt.dynamics import DynamicsProbe, reading


def _model(layers: int = 2, width: int = 4) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, width: int = 4) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, width)).square().sum().backward()
    optimizer.step()


def test_reads_every_nth_step_and_counts_them() -> None:
    model = _model()
    optimizer = torch.optim.Adam(model.parameters())
    with DynamicsProbe(optimizer, model.named_parameters(), every_n_steps=3, strict=True) as probe:
        assert probe.table is None
        seen = []
        for _ in range(7):
            _step(model, optimizer)
            seen.append(None if probe.table is None else probe.table.step)
    assert seen == [None, None, 3, 3, 3, 6, 6]
    assert probe.table is not None
    assert (probe.table.real_steps, probe.table.skipped_steps) == (6, 0)
    _step(model, optimizer)
    _step(model, optimizer)
    assert probe.table.step == 6  # left: no more readings


def test_names_come_from_the_model_from_pairs_or_from_the_group() -> None:
    model = _model(1)
    names = ("0.weight", "0.bias")

    def read(optimizer: torch.optim.Optimizer, source: Any) -> tuple[str, ...]:
        with DynamicsProbe(optimizer, source, strict=True) as probe:
            _step(model, optimizer)
        assert probe.table is not None
        return probe.table.names

    assert read(torch.optim.SGD(model.parameters()), model) == names
    assert read(torch.optim.SGD(model.parameters()), model.named_parameters()) == names
    assert read(torch.optim.SGD(list(model.parameters())[::-1]), model) == names  # model order
    given = torch.optim.SGD([{"params": list(model.parameters()), "param_names": ["a", "b"]}])
    assert read(given, ()) == ("a", "b")
    assert read(torch.optim.SGD(model.parameters()), ()) == ("group_0.0", "group_0.1")


def test_tied_weights_are_one_row() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    optimizer = torch.optim.Adam(model.parameters())
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        model.head(model.embed(torch.tensor([1]))).sum().backward()
        optimizer.step()
    assert probe.table is not None
    assert probe.table.names == ("embed.weight",)


def test_parameter_without_gradient_and_frozen_parameter() -> None:
    model = _model(2)
    optimizer = torch.optim.AdamW(model.parameters())
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        _step(model, optimizer)
        model[0].requires_grad_(False)
        _step(model, optimizer)
        frozen = probe.table
        model[0].requires_grad_(True)
        _step(model, optimizer)
    assert frozen is not None
    assert probe.table is not None
    row = frozen.row("0.weight")
    assert math.isnan(row["grad_rms"])
    assert row["update_rms"] == 0.0
    assert row["update_lost_frac"] == 0.0
    assert row["second_moment_rms"] > 0  # what is stored is still shown
    assert probe.table["0.weight", "update_rms"] > 0


def test_closure_and_maximize() -> None:
    model = _model(1)
    optimizer = torch.optim.Adam(model.parameters(), maximize=True)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(torch.ones(2, 4)).square().sum()
        loss.backward()
        return loss

    with DynamicsProbe(optimizer, model, strict=True) as probe:
        optimizer.step(closure)  # type: ignore[arg-type]
    assert probe.table is not None
    assert probe.table["0.weight", "update_grad_cosine"] > 0


@pytest.mark.parametrize("fused", [None, True])
def test_gradient_scaler_in_a_plain_loop(fused: bool | None) -> None:
    torch.manual_seed(0)
    model = _model(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        for poison in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(2, 4)).square().sum() * poison).backward()
            scaler.step(optimizer)
            scaler.update()
            table = probe.table
            assert table is not None
            if fused:
                assert table.skipped is (poison == math.inf)
    reference = _model(1)
    assert table["0.weight", "grad_rms"] < 100  # unscaled
    assert (table.real_steps, table.skipped_steps) == ((2, 1) if fused else (2, 0))
    assert table.loss_scale == (256.0 if fused else None)
    assert len(list(reference.parameters())) == len(table.rows)


@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop, torch.optim.ASGD])
@pytest.mark.parametrize("layers", [2, 40])
def test_one_copy_and_no_host_read_a_reading(
    cls: type[torch.optim.Optimizer], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []
    to_host = reading.to_host
    monkeypatch.setattr(reading, "to_host", lambda buffer: copies.append(buffer) or to_host(buffer))
    model = _model(layers)
    optimizer = cls(model.parameters(), foreach=True)  # type: ignore[call-arg]
    _step(model, optimizer)
    probe = DynamicsProbe(optimizer, model, strict=True)
    model(torch.ones(2, 4)).square().sum().backward()
    probe.arm()
    optimizer.step()
    probe.steps += 1
    with Operations() as operations:
        probe._measure()
    # These read a number on the host, or (where with a number) bring one to the device.
    for call in (
        "_local_scalar_dense",
        "nonzero",
        "unique",
        "aten.where.ScalarSelf",
        "aten.where.ScalarOther",
    ):
        assert operations.calls[call] == 0, call
    assert len(copies) == 1
    assert copies[0].dim() == 1
    assert len(probe.collect(wait=True)) == 1


def test_memory_does_not_grow_with_readings() -> None:
    model = _model()
    optimizer = torch.optim.Adam(model.parameters())
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        for _ in range(3):
            _step(model, optimizer)
            probe.collect(wait=True)
        tracemalloc.start()
        first = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            _step(model, optimizer)
            probe.collect(wait=True)
        grown = tracemalloc.get_traced_memory()[0] - first
        tracemalloc.stop()
    assert grown < 300_000


def test_a_fault_warns_once_and_switches_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ArithmeticError("ours")

    model = _model()
    optimizer = torch.optim.Adam(model.parameters())
    monkeypatch.setattr(DynamicsProbe, "_measure", broken)
    with (
        DynamicsProbe(optimizer, model) as probe,
        pytest.warns(RuntimeWarning, match="switched itself off after a fault: ArithmeticError: ours"),
    ):
        _step(model, optimizer)
    _step(model, optimizer)
    assert probe.table is None
    with DynamicsProbe(optimizer, model, strict=True), pytest.raises(ArithmeticError):
        _step(model, optimizer)


def test_bad_arguments() -> None:
    optimizer = torch.optim.Adam(_model().parameters())
    with pytest.raises(ValueError, match="`every_n_steps` must be a whole number of at least 1, got 0"):
        DynamicsProbe(optimizer, every_n_steps=0)
    with pytest.raises(ValueError, match="`engine` must be one of"):
        DynamicsProbe(optimizer, engine="warp")
    with pytest.raises(TypeError, match="`optimizer` must have `register_step_post_hook`"):
        DynamicsProbe(object())  # type: ignore[arg-type]


def test_attach_twice_registers_once() -> None:
    optimizer = torch.optim.Adam(_model().parameters())
    probe = DynamicsProbe(optimizer).attach().attach()
    assert len(optimizer._optimizer_step_post_hooks) == 1
    probe.detach()
    assert not optimizer._optimizer_step_post_hooks


def test_ledger_of_a_fused_optimizer_counts_skips_on_the_device() -> None:
    model = _model(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    probe = DynamicsProbe(optimizer, model, every_n_steps=100, strict=True).attach()
    for found in (0.0, 1.0, 0.0):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(found)  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    assert probe.ledger() == {"real_steps": 2, "skipped_steps": 1}
    other = DynamicsProbe(optimizer, model, strict=True)
    other.restore(probe.ledger())
    other.note_skipped()
    assert other.ledger() == {"real_steps": 2, "skipped_steps": 2}


def test_sharded_parameters_are_refused() -> None:
    class Local(nn.Parameter):
        _local_tensor = None

    parameter = Local(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    with (
        DynamicsProbe(optimizer, strict=True),
        pytest.raises(TypeError, match=r"sharded parameters \(DTensor\) are not read yet"),
    ):
        optimizer.step()


def test_table_access() -> None:
    model = _model(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.25)
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        _step(model, optimizer)
    table = probe.table
    assert table is not None
    assert table.values.shape == (2, len(table.columns))
    assert table["0.weight", "numel"] == 16
    np.testing.assert_array_equal(table["numel"], [16, 4])
    assert table.histogram("0.weight", "effective_lr").sum() == 16
    assert table.learning_rates == {"group_0": 0.25}
    frame = table.to_pandas()
    assert frame.loc["0.bias", "numel"] == 4
    assert list(frame.columns[:2]) == ["group", "dtype"]
    with pytest.raises(KeyError, match=r"did you mean '0\.weight'"):
        table["0.wieght", "numel"]
    with pytest.raises(KeyError, match="did you mean 'grad_rms'"):
        table["grad_rsm"]
    with pytest.raises(KeyError, match="did you mean 'update'"):
        table.histogram("0.bias", "updates")
    with DynamicsProbe(optimizer, model, histograms=False, strict=True) as probe:
        _step(model, optimizer)
    with pytest.raises(ValueError, match="keeps no histograms"):
        probe.table.histogram("0.bias", "update")  # type: ignore[union-attr]


def test_a_step_that_failed_and_was_caught_does_not_end_reading() -> None:
    model = _model(1)
    optimizer = torch.optim.Adam(model.parameters())

    def broken() -> float:
        raise MemoryError

    with DynamicsProbe(optimizer, model, strict=True) as probe:
        with pytest.raises(MemoryError):
            optimizer.step(broken)
        for _ in range(3):
            _step(model, optimizer)
    assert probe.table is not None
    assert (probe.table.step, probe.steps) == (3, 3)


def test_a_parameter_that_changes_group_or_dtype_gets_a_new_row() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD(
        [{"params": [a], "lr": 0.1, "name": "x"}, {"params": [], "lr": 0.001, "name": "y"}]
    )
    optimizer.param_groups[0]["params"].append(b)
    rows = []
    with DynamicsProbe(optimizer, [("a", a), ("b", b)], strict=True) as probe:
        for _ in range(2):
            a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
            optimizer.step()
            assert probe.table is not None
            rows.append(
                [(r.group, r.dtype, probe.table[r.name, "effective_lr_p50"]) for r in probe.table.rows]
            )
            optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop())
            a.data = a.data.bfloat16()
            a.grad = None
    assert [(g, d) for g, d, _ in rows[0]] == [("x", "float32"), ("x", "float32")]
    assert [(g, d) for g, d, _ in rows[1]] == [("x", "bfloat16"), ("y", "float32")]
    assert [lr for *_, lr in rows[1]] == pytest.approx([0.1, 0.001])


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_sparse_momentum() -> None:
    table = nn.Embedding(6, 2, sparse=True)
    before = table.weight.detach().clone()
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1, momentum=0.9)
    with DynamicsProbe(optimizer, table, strict=True) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            table(torch.tensor([1, 1, 4])).square().sum().backward()
            before = table.weight.detach().clone()
            optimizer.step()
    assert probe.table is not None
    real = (table.weight.detach() - before).double().square().mean().sqrt().item()
    assert probe.table["weight", "update_rms"] == pytest.approx(real, rel=1e-6)
    assert probe.table["weight", "first_moment_rms"] > 0


def test_a_learning_rate_of_one_element() -> None:
    model = _model(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor([0.01]), foreach=False)
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        _step(model, optimizer)
    assert probe.table is not None
    assert probe.table.learning_rates == pytest.approx({"group_0": 0.01})


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_is_read() -> None:
    model = _model(1)
    optimizer = torch.optim.Adam(model.parameters())
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore[method-assign]
        for _ in range(3):
            _step(model, optimizer)
    assert probe.table is not None
    assert probe.table.step == 3
    assert probe.table["0.weight", "second_moment_rms"] > 0
