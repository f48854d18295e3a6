"""Pieces of a large parameter: little memory, and the same figures as of the whole."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from helpers.cases import OPTIMIZERS, Case
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_adapt.dynamics import DynamicsProbe
from lightning_adapt.dynamics.engines import default_chunk
from lightning_adapt.optimizers import catalog


class _Peak(TorchDispatchMode):
    """Bytes alive at most in tensors that operations made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self._alive: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in _tensors(args)}
        made = [t for t in _tensors([out]) if t.untyped_storage().data_ptr() not in given]
        self._alive += [weakref.ref(t) for t in made]
        self._alive = [each for each in self._alive if each() is not None]
        sizes = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for each in self._alive
            if (t := each()) is not None
        }
        self.largest = max(self.largest, sum(sizes.values()))
        return out


SHAPE = (6000, 500)
CHUNK = default_chunk(torch.device("cpu")) * 8  # bytes of a chunk in float64
MUON = {"Muon": 2 * 6000 * 500 * 4}  # Newton-Schulz works on the whole matrix, as the step itself does


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        *((getattr(torch.optim, info.class_name, None), {}) for info in catalog.values()),
        (torch.optim.ASGD, {}),
        (torch.optim.Rprop, {}),
        (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "foreach": True}),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_extra_memory_is_some_chunks_whatever_the_parameter(cls: Any, options: dict[str, Any]) -> None:
    if cls is None:
        pytest.skip("this torch has no such optimizer")
    parameter = nn.Parameter(torch.randn(SHAPE))
    parameter.grad = torch.randn(SHAPE)
    optimizer = cls([parameter], lr=0.01, **options)
    # Among them the packed figures of the pieces, which are no part of what a rule makes.
    _assert_peak(optimizer, parameter, MUON.get(cls.__name__, 0) + 17 * CHUNK)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("cls", [torch.optim.SparseAdam, torch.optim.Adagrad, torch.optim.SGD])
def test_extra_memory_of_a_sparse_gradient_is_some_chunks(cls: Any) -> None:
    parameter = nn.Parameter(torch.randn(SHAPE))
    parameter.grad = torch.sparse_coo_tensor(torch.tensor([[3, 5000, 3]]), torch.ones(3, SHAPE[1]), SHAPE)
    _assert_peak(cls([parameter], lr=0.01), parameter, 16 * CHUNK)


def _assert_peak(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, bound: int) -> None:
    probe = DynamicsProbe(optimizer, [("p", parameter)], snapshot=False, strict=True)
    probe.arm()
    optimizer.step()
    probe.steps = 1
    with _Peak() as peak:
        probe._measure()
    assert peak.largest <= bound, peak.largest / CHUNK
    snapshot = DynamicsProbe(optimizer, [("p", parameter)], strict=True)
    with _Peak() as peak:
        snapshot.arm()
    assert peak.largest <= parameter.numel() * 4 + 100


def test_pieces_come_together_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(case: Case) -> list[np.ndarray[Any, Any]]:
        found = []
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7, bias=not case.two_d))
        optimizer = case.cls(model.parameters(), **{"lr": 0.01, **case.options})
        with DynamicsProbe(optimizer, model, strict=True) as probe:
            for _ in range(8):
                _step_on(model, optimizer, torch.randn(6, 5))
                assert probe.table is not None
                assert probe.table.histograms is not None
                found += [probe.table.values, probe.table.histograms]
        return found

    for case in OPTIMIZERS:
        monkeypatch.undo()
        whole = read(case)
        for module in ("rows", "rules_adaptive"):
            monkeypatch.setattr(f"lightning_adapt.dynamics.{module}.default_chunk", lambda _: 10)
        for one, many in zip(whole, read(case), strict=True):
            np.testing.assert_allclose(many, one, rtol=1e-6, err_msg=case.id)


def _step_on(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(x).tanh().square().sum().backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("cls", [torch.optim.SparseAdam, torch.optim.Adagrad, torch.optim.SGD])
def test_sparse_pieces_come_together_to_the_whole(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> np.ndarray[Any, Any]:
        torch.manual_seed(0)
        table = nn.Embedding(10, 4, sparse=True)
        options: dict[str, Any] = {"momentum": 0.9} if cls is torch.optim.SGD else {}
        optimizer = cls(table.parameters(), lr=0.1, **options)
        with DynamicsProbe(optimizer, table, strict=True) as probe:
            for _ in range(3):
                _step_on(table, optimizer, torch.tensor([1, 7, 7, 2]))
        assert probe.table is not None
        return probe.table.values

    whole = read()
    monkeypatch.setattr("lightning_adapt.dynamics.rows.default_chunk", lambda _: 8)
    np.testing.assert_allclose(read(), whole, rtol=1e-9)


def test_a_large_complex_parameter_is_cut_with_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> np.ndarray[Any, Any]:
        torch.manual_seed(0)
        parameter = nn.Parameter(torch.randn(6, 3, dtype=torch.complex64))
        optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
        with DynamicsProbe(optimizer, [("p", parameter)], strict=True) as probe:
            for _ in range(2):
                parameter.grad = torch.randn(6, 3, dtype=torch.complex64)
                optimizer.step()
        assert probe.table is not None
        return probe.table.values

    whole = read()
    monkeypatch.setattr("lightning_adapt.dynamics.rows.default_chunk", lambda _: 12)
    np.testing.assert_allclose(read(), whole, rtol=1e-9)


def _tensors(values: Any) -> list[torch.Tensor]:
    every = [t for v in values for t in (v if isinstance(v, list | tuple) else [v])]
    return [t for t in every if isinstance(t, torch.Tensor) and not t.is_sparse]
