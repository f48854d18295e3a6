"""On a CUDA device: the table is true in real mixed precision, and nothing in the hot path waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import IMPLEMENTATIONS, Observed, trainer_for
from torch import nn

from lightning_adapt.callbacks import (
    FusedMixedPrecision,
    LossScaleMonitor,
    OptimizerDynamicsMonitor,
    OptimizerHealthMonitor,
)
from lightning_adapt.callbacks._health_session import HealthSession
from lightning_adapt.callbacks._scale_ledger import ScaleLedger
from lightning_adapt.dynamics import DynamicsProbe, DynamicsTable
from lightning_adapt.dynamics.engines import choose
from lightning_adapt.dynamics.step_counts import DeviceSteps

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


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton")
KERNELS = pytest.param("triton", marks=needs_triton)


def _table(
    engine: str, cls: Any, options: dict[str, Any], dtype: torch.dtype = torch.float32
) -> DynamicsTable:
    """After eight steps of a network with a weight of 70,000 elements: several blocks, and a rest."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 700), nn.Tanh(), nn.Linear(700, 3)).to("cuda", dtype)
    optimizer = cls(model.parameters(), lr=0.01, **options)
    with DynamicsProbe(optimizer, model, engine=engine, strict=True) as probe:
        for _ in range(8):
            optimizer.zero_grad()
            model(torch.randn(16, 100, device="cuda", dtype=dtype)).square().sum().backward()
            optimizer.step()
    table = probe.table
    assert table is not None
    return table


@pytest.mark.parametrize("engine", ["eager", KERNELS])
@pytest.mark.parametrize(("cls", "options"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_engines_agree_with_reference_on_the_device(engine: str, cls: Any, options: dict[str, Any]) -> None:
    found, reference = _table(engine, cls, options), _table("reference", cls, options)
    rtol = 1e-9 if engine == "eager" else 1e-6
    np.testing.assert_allclose(found.values, reference.values, rtol=rtol, equal_nan=True)
    np.testing.assert_array_equal(found.histograms, reference.histograms)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_kernels_agree_with_reference_in_other_dtypes(dtype: torch.dtype) -> None:
    found, reference = (_table(e, torch.optim.AdamW, {}, dtype) for e in ("triton", "reference"))
    np.testing.assert_allclose(found.values, reference.values, rtol=1e-6, equal_nan=True)
    np.testing.assert_array_equal(found.histograms, reference.histograms)


@needs_triton
def test_kernels_repeat_bit_for_bit() -> None:
    one, other = (_table("triton", torch.optim.AdamW, {"fused": True}) for _ in range(2))
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.histograms, other.histograms)


@needs_triton
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}], ids=str)
def test_a_reading_is_at_most_three_launches(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_adapt.dynamics.engines import triton_launch as engine

    launched: list[str] = []
    for name in ("begin", "measure_blocks", "merge_blocks"):
        kernel = getattr(engine, name)

        def run(*args: Any, _name: str = name, _run: Any = kernel.run, **kwargs: Any) -> Any:
            launched.append(_name)
            return _run(*args, **kwargs)

        monkeypatch.setattr(kernel, "run", run)
    _table("triton", torch.optim.AdamW, options)
    assert len(launched) <= 3 * 8
    assert launched.count("measure_blocks") == launched.count("merge_blocks") == 8


@needs_triton
@pytest.mark.parametrize("options", [{"fused": True}, {"capturable": True}], ids=str)
def test_torch_computes_nothing_of_steps_on_the_device(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    vector = DeviceSteps.vector.func

    def counted(self: DeviceSteps) -> Any:
        asked.append(len(self))
        return vector(self)

    monkeypatch.setattr(DeviceSteps, "vector", property(counted))
    _table("triton", torch.optim.AdamW, options)
    assert len(asked) <= 2  # at the first of eight readings only, for both moments


@needs_triton
def test_auto_takes_the_kernels() -> None:
    assert choose(torch.device("cuda", 0))[0] == "triton"


@pytest.mark.usefixtures("hot_path_may_not_wait")
@pytest.mark.parametrize("engine", ["eager", KERNELS])
@pytest.mark.parametrize(("cls", "options"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_no_update_rule_waits(engine: str, cls: Any, options: dict[str, Any]) -> None:
    model = nn.Linear(32, 32, device="cuda")
    optimizer = cls(model.parameters(), lr=0.01, **options)
    probe = DynamicsProbe(optimizer, model, engine=engine, strict=True).attach()
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


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_fused_steps_are_clipped_without_waiting(
    precision: str, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": algorithm, "accelerator": "gpu"}
    torch.manual_seed(0)
    reference = Observed(partial(torch.optim.AdamW, lr=0.01, foreach=True))
    trainer_for(precision, **options).fit(reference)

    for owner, names in (
        (FusedMixedPrecision, ("clip_gradients",)),
        (torch.amp.GradScaler, ("unscale_", "step", "update")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, _unwaited(getattr(owner, name)))
    torch.manual_seed(0)
    module = Observed(partial(torch.optim.AdamW, lr=0.01, fused=True))
    trainer_for(precision, clip_fused=True, **options).fit(module)
    for one, other in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::lightning_adapt.callbacks.HealthWarning")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_health_and_loss_scale_are_read_without_waiting(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, names in (
        (HealthSession, ("batch_end", "before_backward")),
        (ScaleLedger, ("announced", "over", "send", "_made")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, _unwaited(getattr(owner, name)))
    torch.manual_seed(0)
    module = Observed(partial(torch.optim.AdamW, lr=0.01, **IMPLEMENTATIONS[implementation]), poison=5)
    scale = LossScaleMonitor(every_n_steps=2, strict=True)
    health = OptimizerHealthMonitor(every_n_steps=2, strict=True)
    trainer_for("16-mixed", scale, health, accelerator="gpu").fit(module)
    assert scale.counts["real_steps"] + scale.counts["skipped_steps"] == 16
    assert scale.counts["skipped_steps"] >= 1
