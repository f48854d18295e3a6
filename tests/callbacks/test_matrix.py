"""Law 2, the table is true: precision × implementation × way of training, against what really happened."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from helpers.interpreter import hasten
from helpers.runs import IMPLEMENTATIONS, PRECISIONS, Observed, Real, trainer_for

from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.dynamics import DynamicsTable

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:.*lr_scheduler.step.*before.*optimizer.step",
)

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "clipping": {"gradient_clip_val": 1e-3},
    "manual": {},
    "inf": {},
}
BY_VALUE = {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"}
POISONED = 5


def _run(
    precision: str, implementation: str, way: str, engine: str = "auto", *, clip_fused: bool = False
) -> tuple[Observed, OptimizerDynamicsMonitor]:
    torch.manual_seed(0)
    # An eps that fp16 can hold: this test is about truth, not about good settings.
    make = partial(torch.optim.AdamW, lr=0.01, eps=1e-3, **IMPLEMENTATIONS[implementation])
    module = Observed(make, poison=POISONED if way == "inf" else None, manual=way == "manual")
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, engine=engine, strict=True)
    trainer_for(precision, monitor, clip_fused=clip_fused, **WAYS.get(way, BY_VALUE)).fit(module)
    return module, monitor


def _rms(x: torch.Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def _compare(table: DynamicsTable, real: Real) -> None:
    for name in table.names:
        assert table[name, "update_rms"] == pytest.approx(_rms(real.update[name]), rel=1e-6, abs=1e-12), name
        if not table.skipped:
            gradient = real.gradient[name]
            assert table[name, "grad_rms"] == pytest.approx(_rms(gradient), rel=1e-6), name


@pytest.mark.parametrize("engine", ["eager", "numba"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_table_is_what_happened(precision: str, implementation: str, way: str, engine: str) -> None:
    if implementation == "fused" and way == "clipping" and precision.endswith("mixed"):
        with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
            _run(precision, implementation, way, engine)
        return
    _assert_true(precision, way, *_run(precision, implementation, way, engine))


@pytest.mark.parametrize("way", [*WAYS, "clipping by value"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_table_is_what_happened_with_fused_mixed_precision(
    precision: str, implementation: str, way: str
) -> None:
    _assert_true(precision, way, *_run(precision, implementation, way, clip_fused=True))


def _assert_true(precision: str, way: str, module: Observed, monitor: OptimizerDynamicsMonitor) -> None:
    tables = monitor.history
    scaled = precision == "16-mixed"
    if way == "manual":
        assert [t.optimizer for t in tables] == ["AdamW", "AdamW-1"] * 16 or {
            t.optimizer for t in tables
        } == {"AdamW", "AdamW-1"}
        bodies = [t for t in tables if t.optimizer == "AdamW"]
        heads = [t for t in tables if t.optimizer == "AdamW-1"]
        assert len(bodies) == len(heads) == 16
        pairs = [*zip(bodies, module.real[::2], strict=True), *zip(heads, module.real[1::2], strict=True)]
    else:
        assert len(tables) == len(module.real) == (6 if way == "accumulation" else 16)
        pairs = list(zip(tables, module.real, strict=True))
    for table, real in pairs:
        assert table.step == real.step
        if way == "inf" and real.step >= POISONED and not scaled:
            # No scaler, no guard: the moments are poisoned for good, and the table says so.
            assert table["head.weight", "grad_nonfinite_frac"] == 1.0 or real.step > POISONED
            continue
        assert table.skipped is (way == "inf" and real.step == POISONED)
        _compare(table, real)
    last = tables[-1]
    assert last.skipped_steps == (1 if way == "inf" and scaled else 0)
    assert last.real_steps + last.skipped_steps == len(module.real) // (2 if way == "manual" else 1)
    assert (last.loss_scale is not None) is scaled


@pytest.mark.filterwarnings("ignore:.* encountered in :RuntimeWarning")  # numpy, in Triton's interpreter
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted only where there is no GPU")
@pytest.mark.parametrize(
    ("precision", "implementation", "way"),
    [
        ("bf16-mixed", "foreach", "accumulation"),
        ("16-mixed", "fused", "inf"),
    ],
)
def test_table_is_what_happened_read_by_interpreted_kernels(
    precision: str, implementation: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="pip install triton")
    hasten(monkeypatch)
    test_table_is_what_happened(precision, implementation, way, "triton")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_are_unscaled_and_clipped(implementation: str) -> None:
    sizes = {}
    for precision in ("32-true", "16-mixed"):
        _, monitor = _run(precision, implementation, "plain")
        sizes[precision] = monitor.history[0]["head.weight", "grad_rms"]
    assert sizes["16-mixed"] == pytest.approx(sizes["32-true"], rel=0.02)
    for precision in ("32-true", "bf16-mixed", "16-mixed"):
        _, monitor = _run(precision, implementation, "clipping", clip_fused=True)
        for table in monitor.history:
            norm = math.sqrt((table["numel"] * table["grad_rms"] ** 2).sum())
            assert norm == pytest.approx(1e-3, rel=1e-3)
    _, monitor = _run("32-true", implementation, "clipping")
    for table in monitor.history:
        norm = math.sqrt((table["numel"] * table["grad_rms"] ** 2).sum())
        assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("clip_fused", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_skipped_step_says_which_gradients_were_not_finite(implementation: str, clip_fused: bool) -> None:
    _, monitor = _run("16-mixed", implementation, "inf", clip_fused=clip_fused)
    skipped = [table for table in monitor.history if table.skipped]
    assert [table.step for table in skipped] == [POISONED]
    assert skipped[0]["head.weight", "grad_nonfinite_frac"] == 1.0
    assert skipped[0]["head.weight", "update_rms"] == 0.0
    assert skipped[0].loss_scale == 1024.0
    after = monitor.history[POISONED + 1]
    assert after.loss_scale == 512.0
    assert (after.real_steps, after.skipped_steps, after.global_step) == (6, 1, 7)


class PartlyPoisoned(Observed):
    """One gradient is inf, the others are as ever."""

    def loss(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = super().loss(batch, index)
        return loss + self.head.bias.sum() * torch.inf if index == POISONED else loss


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_a_skipped_step_of_a_fused_optimizer_shows_the_other_gradients_as_they_were(
    clip: float | None,
) -> None:
    torch.manual_seed(0)
    module = PartlyPoisoned(partial(torch.optim.AdamW, lr=0.01, fused=True))
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for("16-mixed", monitor, clip_fused=True, gradient_clip_val=clip).fit(module)
    skipped = monitor.history[POISONED]
    assert skipped.skipped
    assert skipped["head.bias", "grad_nonfinite_frac"] == 1.0
    # The norm is inf, and so is what clipping would divide by: it says nothing of them.
    gradient = module.real[POISONED].gradient["body.weight"]
    assert skipped["body.weight", "grad_rms"] == pytest.approx(_rms(gradient), rel=1e-6)
    assert skipped["body.weight", "grad_rms"] > 1e-3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_very_first_step_may_be_skipped(implementation: str) -> None:
    module = Observed(partial(torch.optim.AdamW, lr=0.01, **IMPLEMENTATIONS[implementation]), poison=0)
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for("16-mixed", monitor).fit(module)
    first, second = monitor.history[:2]
    assert first.skipped
    assert math.isnan(first["head.weight", "second_moment_rms"])  # no state yet, or an empty one
    assert not second.skipped
    assert second["head.weight", "second_moment_rms"] > 0


def test_a_step_that_calls_its_parent_is_read_once() -> None:
    class Doubled(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    module = Observed(partial(Doubled, lr=0.01))
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for("32-true", monitor).fit(module)
    assert len(monitor.history) == 16
    for table, real in zip(monitor.history, module.real, strict=True):
        _compare(table, real)


def test_learning_rate_is_the_one_the_step_used() -> None:
    class Scheduled(Observed):
        def configure_optimizers(self) -> Any:
            optimizer = self.make(self.parameters())
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    trainer_for("32-true", monitor).fit(Scheduled(partial(torch.optim.SGD, lr=1.0)))
    rates = [table.learning_rates["group_0"] for table in monitor.history]
    assert rates == [0.5**step for step in range(16)]


def test_lbfgs_is_read_without_a_rule() -> None:
    module = Observed(partial(torch.optim.LBFGS, lr=0.1, max_iter=3))
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, history=None, strict=True)
    with pytest.warns(UserWarning, match="no update rule for LBFGS"):
        trainer_for("32-true", monitor).fit(module)
    assert len(monitor.history) == 16
    assert monitor.history[-1].skipped_steps == 0
    for table, real in zip(monitor.history, module.real, strict=True):
        _compare(table, real)
        assert math.isnan(table["head.weight", "effective_lr_p50"])
