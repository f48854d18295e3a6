"""Law 1, the observer changes nothing: parameters, optimizer state, RNG and checkpoints, bit by bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.interpreter import hasten
from helpers.runs import IMPLEMENTATIONS, trainer_for
from lightning.pytorch import LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_adapt.callbacks import (
    LossScaleMonitor,
    OptimizerDynamicsMonitor,
    OptimizerHealthMonitor,
    OptimizerStepNotice,
    SkipAwareScheduler,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:.*lr_scheduler.step.*before.*optimizer.step",
    "ignore::lightning_adapt.callbacks.HealthWarning",
)

Made = tuple[LightningModule, LightningDataModule]


def _char_lm(options: dict[str, Any]) -> Made:
    from lightning_adapt.recipes.nlp.char_lm import CharLM
    from lightning_adapt.recipes.nlp.text_data import TextDataModule

    model = CharLM(layers=1, width=16, heads=2, context=16, dropout=0.1, optimizer_options=options, lr=1e-3)
    return model, TextDataModule(context=16, batch_size=4)


def _node_classifier(options: dict[str, Any]) -> Made:
    from lightning_adapt.recipes.gnn.node_classification import NodeClassifier
    from lightning_adapt.recipes.gnn.node_data import NodeDataModule

    model = NodeClassifier(optimizer="adam", hidden=8, optimizer_options=options, lr=1e-3)
    return model, NodeDataModule(name="KarateClub")


RECIPES = {"nlp": _char_lm, "gnn": _node_classifier}


def _everything(
    make: Callable[[dict[str, Any]], Made],
    options: dict[str, Any],
    precision: str,
    folder: Path,
    *,
    engine: str | None,
) -> dict[str, Any]:
    seed_everything(7)
    model, data = make(options)
    callbacks: list[Any] = []
    if engine:
        callbacks = [
            OptimizerHealthMonitor(strict=True),
            OptimizerDynamicsMonitor(every_n_steps=2, engine=engine, strict=True),
            LossScaleMonitor(every_n_steps=2, strict=True),
            OptimizerStepNotice(),
            SkipAwareScheduler(),
        ]
    trainer = trainer_for(precision, *callbacks, max_steps=7, max_epochs=-1, logger=TensorBoardLogger(folder))
    trainer.fit(model, data)
    if engine:
        assert callbacks[1].latest is not None
    trainer.save_checkpoint(folder / "last.ckpt")
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    for callback in callbacks:
        saved["callbacks"].pop(callback.state_key, None)
    random_state = (torch.get_rng_state(), random.getstate(), np.random.get_state())
    return {"checkpoint": saved, "random": random_state}


def _assert_identical(one: object, other: object, where: str) -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where  # type: ignore[attr-defined]
        # Compared as bytes: NaN equals itself, 0.0 differs from -0.0.
        as_bytes = [x.contiguous().view(-1).view(torch.uint8) for x in (one, other)]  # type: ignore[attr-defined]
        assert torch.equal(*as_bytes), where
    elif isinstance(one, np.ndarray):
        assert one.tobytes() == other.tobytes(), where  # type: ignore[attr-defined]
    elif isinstance(one, dict):
        assert list(one) == list(other), where  # type: ignore[call-overload]
        for key in one:
            _assert_identical(one[key], other[key], f"{where}/{key}")  # type: ignore[index]
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where  # type: ignore[arg-type]
        for index, (a, b) in enumerate(zip(one, other, strict=True)):  # type: ignore[call-overload]
            _assert_identical(a, b, f"{where}/{index}")
    else:
        assert one == other, where


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_nothing_differs(precision: str, implementation: str, recipe: str, tmp_path: Path) -> None:
    options = IMPLEMENTATIONS[implementation]
    plain = _everything(RECIPES[recipe], options, precision, tmp_path / "plain", engine=None)
    for engine in ("eager", "numba"):
        watched = _everything(RECIPES[recipe], options, precision, tmp_path / engine, engine=engine)
        _assert_identical(plain, watched, "")


@pytest.mark.filterwarnings("ignore:.* encountered in :RuntimeWarning")  # numpy, in Triton's interpreter
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted only where there is no GPU")
def test_nothing_differs_with_interpreted_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="pip install triton")
    hasten(monkeypatch)
    plain = _everything(_node_classifier, {}, "16-mixed", tmp_path / "plain", engine=None)
    watched = _everything(_node_classifier, {}, "16-mixed", tmp_path / "watched", engine="triton")
    _assert_identical(plain, watched, "")


def test_the_comparison_can_fail() -> None:
    state = {"a": [torch.ones(2)]}
    _assert_identical(state, {"a": [torch.ones(2)]}, "")
    with pytest.raises(AssertionError, match="/a/0"):
        _assert_identical(state, {"a": [torch.tensor([1.0, 1.0000001])]}, "")
    with pytest.raises(AssertionError, match="/a/0"):
        _assert_identical({"a": [torch.tensor([0.0])]}, {"a": [torch.tensor([-0.0])]}, "")
