"""`check` and `lint`: real runs, checkpoints, exit statuses, one sentence for mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Observed, trainer_for
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_adapt import cli
from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo, read_checkpoint
from lightning_adapt.health import Finding, judge_run, judge_snapshot

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
)


def fit(
    folder: Path, module: Observed, *, max_epochs: int = 1, ckpt: Path | None = None, **options: Any
) -> Path:
    """Train under the monitor; returns the run folder, with a checkpoint ``last.ckpt`` in it."""
    logger = TensorBoardLogger(str(folder), name=None, version="run")
    monitor = OptimizerDynamicsMonitor(every_n_steps=1, strict=True)
    trainer = trainer_for(
        "32-true", monitor, logger=logger, max_epochs=max_epochs, log_every_n_steps=1, **options
    )
    trainer.fit(module, ckpt_path=ckpt)
    run = folder / "run"
    trainer.save_checkpoint(run / "last.ckpt")
    return run


def usual(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)


def poisoned() -> Observed:
    return Observed(usual, poison=6)


def test_a_healthy_run_and_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(tmp_path, Observed(usual))
    assert cli.main(["check", str(run)]) == 0
    assert cli.main(["check", str(run / "last.ckpt")]) == 0
    assert capsys.readouterr().out == "no findings\n" * 2


def test_a_critical_run_ends_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(tmp_path, poisoned())
    assert cli.main(["check", str(run)]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "critical non-finite-gradient (all)" in text
    assert "all gradients are inf or NaN at step 6: the loss was; head.bias is nearest to it" in text
    assert "go back to a checkpoint from before step 6" in text
    assert cli.main(["check", str(run / "last.ckpt")]) == 1
    assert "non-finite-gradient (poisoned)" in capsys.readouterr().out


def test_json_is_what_python_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(tmp_path, poisoned())
    assert cli.main(["check", str(run), "--format", "json"]) == 1
    found = [Finding.from_dict(values) for values in json.loads(capsys.readouterr().out)]
    from lightning_adapt import read_dynamics

    assert [f.to_dict() for f in found] == [f.to_dict() for f in judge_run(read_dynamics(run))]
    assert cli.main(["check", str(run / "last.ckpt"), "--format", "json"]) == 1
    found = [Finding.from_dict(values) for values in json.loads(capsys.readouterr().out)]
    expected = judge_snapshot(read_checkpoint(run / "last.ckpt"))
    assert [f.to_dict() for f in found] == [f.to_dict() for f in expected]


def test_rules_are_changed_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, rules = fit(tmp_path, poisoned()), tmp_path / "rules.yaml"
    rules.write_text("non-finite-gradient: {severity: info}\nstep-too-large: false\n")
    assert cli.main(["check", str(run), "--rules", str(rules)]) == 0
    assert "info     non-finite-gradient" in capsys.readouterr().out
    rules.write_text("")
    assert cli.main(["check", str(run), "--rules", str(rules)]) == 1


def test_a_run_of_two_optimizers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(tmp_path, Observed(usual, manual=True, poison=6))
    assert cli.main(["check", str(run), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {(f["optimizer"], f["parameter"]) for f in found if f["severity"] == "critical"} == {
        ("AdamW", "body.bias"),
        ("AdamW-1", "head.bias"),
    }


def test_a_resumed_run_is_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = fit(tmp_path, Observed(usual))
    fit(tmp_path, Observed(usual, poison=6), ckpt=first / "last.ckpt", max_epochs=2)
    assert len(list(first.glob("*tfevents*"))) == 2
    assert cli.main(["check", str(first), "--format", "json"]) == 1
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["severity"] == "critical"]
    assert found["first_step"] == 16 + 6


def test_names_with_markup_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    from lightning_adapt.views.scalars import ScalarPlan
    from lightning_adapt.views.tensorboard import TensorBoardView

    values = np.full((1, len(COLUMNS)), np.nan)
    for column, figure in {"grad_nonfinite_frac": 0.5, "numel": 4.0, "eps_floor_frac": 0.0}.items():
        values[0, COLUMNS.index(column)] = figure
    table = DynamicsTable((RowInfo("[red]w[/red]\x1b[2J", "g", (4,)),), values, step=1, optimizer="Adam")
    with SummaryWriter(str(tmp_path)) as writer:
        TensorBoardView(writer).write(table, ScalarPlan.of(table, prefix="dynamics", worst=1, max_tags=10))
    assert cli.main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "[red]w[/red]\\x1b[2J" in out
    assert "\x1b" not in out


def test_lint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.001}}\n")
    assert cli.main(["lint", str(config)]) == 0
    config.write_text(config.read_text() + "trainer: {precision: 16-true}\n")
    assert cli.main(["lint", str(config)]) == 1
    assert "eps 1e-08 is 0 in float16" in capsys.readouterr().out
    assert cli.main(["lint", str(config), "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["rule"] == "epsilon-lost"
    rules = tmp_path / "rules.yaml"
    rules.write_text("epsilon-lost: false")
    assert cli.main(["lint", str(config), "--rules", str(rules)]) == 0


def test_what_lightning_saved_can_be_linted(tmp_path: Path) -> None:
    """The config.yaml that LightningCLI leaves beside a run."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "seed_everything: 1\ntrainer: {precision: bf16-mixed, gradient_clip_val: null}\n"
        "model: {class_path: my.Model, init_args: {width: 3}}\n"
        "optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.001, betas: [0.9, 0.95]}}\n"
        "lr_scheduler: null\nckpt_path: null\n"
    )
    assert cli.main(["lint", str(config)]) == 0


BAD = {
    "nothing": ["check"],
    "no such run": ["check", "no/such/run"],
    "an empty folder": ["check", "{tmp}"],
    "no checkpoint": ["check", "{tmp}/text.yaml"],
    "no such rules": ["check", "{run}", "--rules", "{tmp}/none.yaml"],
    "rules that are a list": ["check", "{run}", "--rules", "{tmp}/list.yaml"],
    "unknown rule": ["check", "{run}", "--rules", "{tmp}/unknown.yaml"],
    "unknown format": ["check", "{run}", "--format", "xml"],
    "no such config": ["lint", "{tmp}/none.yaml"],
    "a folder": ["lint", "{tmp}"],
    "no YAML": ["lint", "{tmp}/broken.yaml"],
    "no optimizer": ["lint", "{tmp}/list.yaml"],
    "no text": ["lint", "{tmp}/bytes.yaml"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    tmp = tmp_path_factory.mktemp("bad")
    run = fit(tmp_path_factory.mktemp("good"), Observed(usual))
    for name, text in {
        "text": "a: 1",
        "list": "[a, b]",
        "unknown": "epsilon-flor: {}",
        "broken": "a: [1",
    }.items():
        (tmp / f"{name}.yaml").write_text(text)
    (tmp / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    return {"tmp": str(tmp), "run": str(run)}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_status_2(
    name: str, place: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([word.format(**place) for word in BAD[name]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("lightning-adapt: error: ")
    assert said.err.count("\n") == 1
