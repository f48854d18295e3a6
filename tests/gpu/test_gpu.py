"""On a CUDA device: the table is true in real mixed precision, and nothing in the hot path waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import IMPLEMENTATIONS, Observed, trainer_for
from torch import nn

from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.dynamics import DynamicsProbe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings(
        "ignore:The 'train_dataloader' does not have many workers",
        "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
        "ignore:.*lr_scheduler.step.*before.*optimizer.step",
        "ignore:Synchronization debug mode is a prototype feature",
    ),
]


@contextmanager
def _no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _unwaited(method: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        with _no_waiting():
            return method(*args, **kwargs)

    return watched


@pytest.fixture
def hot_path_may_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("arm", "_before_step", "_after_step"):
        monkeypatch.setattr(DynamicsProbe, name, _unwaited(getattr(DynamicsProbe, name)))


def _fit(precision: str, implementation: str, **options: Any) -> tuple[Observed, OptimizerDynamicsMonitor]:
    torch.manual_seed(0)
    module = Observed(partial(torch.optim.AdamW, lr=0.01, **IMPLEMENTATIONS[implementation]), **options)
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for(precision, monitor, accelerator="gpu").fit(module)
    return module, monitor


@pytest.mark.usefixtures("hot_path_may_not_wait")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "bf16-true"])
def test_table_is_what_happened_without_waiting(precision: str, implementation: str) -> None:
    module, monitor = _fit(precision, implementation)
    assert len(monitor.history) == len(module.real) == 16
    for table, real in zip(monitor.history, module.real, strict=True):
        for name in table.names:
            update = real.update[name].double().square().mean().sqrt().item()
            assert table[name, "update_rms"] == pytest.approx(update, rel=1e-6, abs=1e-12)
            if not table.skipped:
                gradient = real.gradient[name].double().square().mean().sqrt().item()
                assert table[name, "grad_rms"] == pytest.approx(gradient, rel=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_skipped_steps_are_seen(implementation: str) -> None:
    _, monitor = _fit("16-mixed", implementation, poison=5)
    assert monitor.history[5].skipped
    assert monitor.history[5]["head.weight", "grad_nonfinite_frac"] == 1.0
    assert monitor.history[5]["head.weight", "update_rms"] == 0.0
    last = monitor.history[-1]
    assert last.real_steps + last.skipped_steps == 16
    assert last.skipped_steps >= 1


CASES: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.Adam, {"capturable": True}),
    (torch.optim.NAdam, {"capturable": True}),
    (torch.optim.RAdam, {"capturable": True}),
    (torch.optim.RMSprop, {"capturable": True}),
    (torch.optim.Adamax, {}),
    (torch.optim.Adagrad, {}),
    (torch.optim.Adadelta, {}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (torch.optim.ASGD, {}),
    (torch.optim.Rprop, {}),
]


@pytest.mark.parametrize(("cls", "options"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_eager_agrees_with_reference_on_the_device(cls: Any, options: dict[str, Any]) -> None:
    tables = []
    for engine in ("eager", "reference"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)).to("cuda")
        optimizer = cls(model.parameters(), lr=0.01, **options)
        with DynamicsProbe(optimizer, model, engine=engine, strict=True) as probe:
            for _ in range(8):
                optimizer.zero_grad()
                model(torch.randn(16, 64, device="cuda")).square().sum().backward()
                optimizer.step()
        tables.append(probe.table)
    eager, reference = tables
    assert eager is not None
    assert reference is not None
    np.testing.assert_allclose(eager.values, reference.values, rtol=1e-9, equal_nan=True)
    np.testing.assert_array_equal(eager.histograms, reference.histograms)


@pytest.mark.usefixtures("hot_path_may_not_wait")
@pytest.mark.parametrize(("cls", "options"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_no_update_rule_waits(cls: Any, options: dict[str, Any]) -> None:
    model = nn.Linear(32, 32, device="cuda")
    optimizer = cls(model.parameters(), lr=0.01, **options)
    probe = DynamicsProbe(optimizer, model, strict=True).attach()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 32, device="cuda")).square().sum().backward()
        optimizer.step()
    assert len(probe.collect(wait=True)) == 3


def test_nothing_differs_bit_by_bit() -> None:
    results = []
    for watched in (False, True):
        torch.manual_seed(0)
        module = Observed(partial(torch.optim.AdamW, lr=0.01, fused=True))
        callbacks = [OptimizerDynamicsMonitor(every_n_steps=2, strict=True)] if watched else []
        trainer_for("16-mixed", *callbacks, accelerator="gpu").fit(module)
        results.append([p.detach().cpu() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
