"""One recipe with several optimizers: one table, and a failure does not stop the others."""

from dataclasses import replace
from pathlib import Path

import pytest

from lightning_adapt import cli
from lightning_adapt.recipes.compare import Row, compare, show_comparison
from lightning_adapt.recipes.runner import Outcome


def test_compare_gives_each_optimizer_a_row_and_a_folder(toy, tmp_path, console):
    rows, folder = compare(toy(), ["sgd", "adamw"], logs=tmp_path / "runs", console=console)
    assert folder == tmp_path / "runs" / "toy" / "line-compare" / "version_0"
    assert [row.optimizer for row in rows] == ["sgd", "adamw"]
    for row in rows:
        assert row.outcome is not None
        assert row.outcome.log_dir == folder / row.optimizer
        assert list((folder / row.optimizer).glob("*tfevents*"))
    again = compare(toy(), ["sgd"], logs=tmp_path / "runs", console=console)
    assert again[1].name == "version_1"


def test_the_compare_command_goes_on_after_a_failure(known, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    words = ["compare", "toy/line", "--optimizers", "sgd, adamw,adam", "--model.fail", "adamw"]
    assert cli.main(words) == 1
    table = capsys.readouterr().out
    table = table[table.index("toy/line: val_loss (min is best)") :]
    lines = {line.split()[1]: line for line in table.splitlines() if "│" in line and len(line.split()) > 1}
    assert "failed" in lines["adamw"]
    assert "failed" not in lines["sgd"]
    assert "0.1" in lines["sgd"]
    assert "adamw failed: the toy does not like [adamw]" in table
    assert "tensorboard --logdir runs/toy/line-compare/version_0" in table


@pytest.mark.parametrize(("names", "piece"), [("", "got none"), ("sgd,admw", "did you mean 'adamw'?")])
def test_compare_refuses_before_it_runs_anything(known, capsys, names, piece):
    assert cli.main(["compare", "toy/line", "--optimizers", names]) == 2
    said = capsys.readouterr()
    assert piece in said.err
    assert said.out == ""


@pytest.mark.parametrize(("mode", "best"), [("min", "low"), ("max", "high")])
def test_the_best_run_is_bold_and_nan_never_is(toy, console, mode, best):
    values = {"nan": float("nan"), "low": 1.0, "high": 2.0}
    rows = [
        Row(name, Outcome("toy", "SGD", 0.1, 1, 1.0, {"val_loss": value}, None, None))
        for name, value in values.items()
    ]
    show_comparison(
        replace(toy(), metric_mode=mode), [*rows, Row("failed", None, "why")], Path("runs"), console
    )
    text = console.export_text(styles=True)
    assert [name for name in values if f"\x1b[1m{name}" in text] == [best]


def test_nothing_is_best_when_every_run_failed(toy, console):
    show_comparison(toy(), [Row("sgd", None, "why")], Path("runs"), console)
    assert "sgd failed: why" in console.export_text()
