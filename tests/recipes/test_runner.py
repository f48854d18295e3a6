"""Running recipes: what is chosen, what is said, what comes out, and how it fails."""

import signal
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from lightning_adapt import cli
from lightning_adapt.recipes import runner
from lightning_adapt.recipes._quiet import quiet
from lightning_adapt.recipes.runner import run, show


def test_a_run_learns_tests_and_keeps_its_folder(toy, tmp_path, console):
    outcome = run(toy(tested=True), logs=tmp_path / "runs", console=console)
    assert outcome.recipe == "toy/line"
    assert (outcome.optimizer, outcome.lr, outcome.steps) == ("AdamW", 0.1, 12)
    assert outcome.metrics["val_loss"] < 4  # four unit variances before any training
    # Validated after step 8, at the end of the first epoch; tested after step 12.
    assert outcome.metrics["test_loss"] < outcome.metrics["val_loss"]
    assert outcome.log_dir == tmp_path / "runs" / "toy" / "line" / "version_0"
    assert outcome.log_dir is not None
    assert (outcome.log_dir / "config.yaml").is_file()
    assert list(outcome.log_dir.glob("*tfevents*"))
    assert outcome.table is not None
    assert outcome.table.names == ("line.0.weight", "line.0.bias", "line.1.weight", "line.1.bias")
    assert outcome.table.step == 11


def test_the_same_seed_gives_the_same_run(toy, tmp_path, console):
    first, second = (run(toy(), logs=tmp_path / "runs", console=console) for _ in range(2))
    told = [{k: v for k, v in o.metrics.items() if not k.startswith("monitor/")} for o in (first, second)]
    assert told[0] == told[1]  # what the monitor costs is a matter of time
    assert first.log_dir != second.log_dir


def test_show_says_what_was_learned_and_where_to_look(toy, tmp_path, console):
    outcome = run(toy(), logs=tmp_path / "my runs", console=console)
    show(outcome, console, most=2)
    text = console.export_text()
    assert f"val_loss {outcome.metrics['val_loss']:.4g}" in text
    assert "12 steps in" in text
    assert "AdamW at step 11" in text
    assert "line." in text
    assert "dynamics/" not in text
    assert f"tensorboard --logdir '{outcome.log_dir}'" in text
    assert f"lightning-adapt inspect '{outcome.log_dir}'" in text


def test_a_run_that_read_no_table_says_so_and_offers_no_inspection(toy, tmp_path, console):
    outcome = run(toy(), ["--monitor.every_n_steps", "100"], logs=tmp_path / "runs", console=console)
    show(outcome, console)
    text = console.export_text()
    assert "the monitor read no table; --monitor.every_n_steps" in text
    assert "lightning-adapt inspect" not in text


def test_a_run_without_logger_has_no_folder(toy, tmp_path, console, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    outcome = run(toy(), options, console=console)
    assert outcome.log_dir is None
    show(outcome, console)
    assert "tensorboard" not in console.export_text()


def test_a_fast_dev_run_ends_well(toy, tmp_path, console):
    outcome = run(toy(tested=True), ["--trainer.fast_dev_run", "true"], logs=tmp_path, console=console)
    assert outcome.steps == 1
    assert "test_loss" not in outcome.metrics
    show(outcome, console)


def test_without_tensorboard_the_logs_are_csv(toy, tmp_path, console, monkeypatch):
    monkeypatch.setattr("lightning_adapt.recipes._arguments.find_spec", lambda name: None)
    outcome = run(toy(), logs=tmp_path, console=console)
    assert outcome.log_dir is not None
    assert (outcome.log_dir / "metrics.csv").is_file()


def test_options_outrank_the_optimizer_the_preset_and_the_yaml(toy, tmp_path, console):
    recipe = toy()
    outcome = run(
        recipe,
        ["--trainer.max_steps", "8", "--model.lr", "0.5"],
        optimizer="sgd",
        preset="wide",
        logs=tmp_path,
        console=console,
    )
    assert (outcome.optimizer, outcome.lr, outcome.steps) == ("SGD", 0.5, 8)
    assert outcome.log_dir is not None
    written = yaml.safe_load((outcome.log_dir / "config.yaml").read_text())
    assert written["model"]["width"] == 5
    assert list(recipe.presets) == ["wide"]


def test_resuming_goes_on_where_the_checkpoint_was_made(toy, tmp_path, console):
    epoch = 8
    first = run(toy(max_steps=epoch), logs=tmp_path / "runs", console=console)
    assert first.log_dir is not None
    (checkpoint,) = first.log_dir.rglob("*.ckpt")
    second = run(toy(max_steps=2 * epoch), ["--ckpt_path", str(checkpoint)], logs=tmp_path, console=console)
    assert second.steps == 2 * epoch


def test_a_monitor_in_the_yaml_takes_the_place_of_the_default_one(toy, tmp_path, console):
    monitor = {
        "class_path": "lightning_adapt.callbacks.OptimizerDynamicsMonitor",
        "init_args": {"every_n_steps": 5},
    }
    outcome = run(toy(callbacks=[monitor]), logs=tmp_path, console=console)
    assert outcome.table is not None
    assert outcome.table.step == 9


def test_the_monitor_has_options(toy, tmp_path, console):
    outcome = run(toy(), ["--monitor.every_n_steps", "7"], logs=tmp_path, console=console)
    assert outcome.table is not None
    assert outcome.table.step == 6


@pytest.mark.parametrize(
    ("recipe_threads", "numel", "device", "asked", "variable", "expected"),
    [
        (1, 100, "cpu", None, None, (1, "fastest for a small model; see --threads")),
        (1, 100, "cpu", 2, "2", (2, "as asked")),
        (1, 100, "cpu", None, "2", (None, "from OMP_NUM_THREADS")),
        (1, 10**9, "cpu", None, None, (None, "torch's choice")),
        (1, 100, "cuda", None, None, (None, "torch's choice")),
        (None, 100, "cpu", None, None, (None, "torch's choice")),
    ],
)
def test_threads(toy, monkeypatch, recipe_threads, numel, device, asked, variable, expected):
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    number, why = runner._threads(toy(threads=recipe_threads), numel, device, asked)
    assert (number, why) == (expected[0] or torch.get_num_threads(), expected[1])


def test_the_opening_line_says_what_was_chosen_and_threads_are_given_back(toy, tmp_path, console):
    before = torch.get_num_threads()
    run(toy(), threads=before + 1, logs=tmp_path, console=console)
    assert torch.get_num_threads() == before
    opening = console.export_text().splitlines()[0]
    assert opening == f"toy/line: 7 parameters · AdamW · 32-true · cpu, {before + 1} threads (as asked)"


@pytest.mark.parametrize(("units", "said"), [(False, True), (True, False)])
def test_slow_bf16_is_said(toy, tmp_path, console, monkeypatch, units, said):
    monkeypatch.setattr(runner, "_cpu_has_bf16", lambda: units)
    run(toy(), ["--trainer.precision", "bf16-mixed"], logs=tmp_path, console=console)
    assert ("no bf16 units" in console.export_text()) == said


def test_asking_for_bf16_units_never_fails(monkeypatch):
    assert runner._cpu_has_bf16() in (True, False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None, raising=False)
    monkeypatch.setattr(torch, "ops", object())
    assert runner._cpu_has_bf16() is True


def test_a_log_folder_that_cannot_be_written_is_one_sentence(toy, tmp_path, console):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OSError, match=r"the log folder must be writable, got .*file.*; name another with --logs DIR"
    ):
        run(toy(), logs=tmp_path / "file", console=console)


def test_ctrl_c_says_how_far_it_came(toy, tmp_path, console):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 1; what was logged is in"):
        run(toy(), ["--model.fail", "ctrl-c"], logs=tmp_path, console=console)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_failing_run_raises_what_happened(toy, tmp_path, console):
    with pytest.raises(RuntimeError, match="the toy is broken"):
        run(toy(), ["--model.fail", "error"], logs=tmp_path, console=console)


def test_chatter_is_left_out_and_real_warnings_stay(toy, tmp_path, console, capfd):
    run(toy(), logs=tmp_path, console=console)
    said = "".join(capfd.readouterr())
    for chatter in ("GPU available", "many workers", "Seed set", "Tip", "stopped: `max_steps"):
        assert chatter not in said
    with pytest.warns(UserWarning, match="something real"), quiet():
        warnings.warn("something real", stacklevel=1)


def test_the_run_command(known, capsys):
    assert cli.main(["run", "toy/line", "--optimizer=sgd", "--trainer.max_steps", "4", "--logs", "here"]) == 0
    text = capsys.readouterr().out
    assert "SGD" in text
    assert "tensorboard --logdir here/toy/line/version_0" in text
    assert cli.main(["inspect", "here/toy/line/version_0", "--most", "2"]) == 0
    assert "SGD at step 3" in capsys.readouterr().out
    (checkpoint,) = Path("here").rglob("*.ckpt")
    assert cli.main(["inspect", str(checkpoint)]) == 0
    assert "SGD" in capsys.readouterr().out


def test_the_demo_ends_with_the_summary_of_every_run(known, monkeypatch, capsys):
    monkeypatch.setattr(cli, "DEMO", {"toy/line": ["--trainer.max_steps", "4"]})
    assert cli.main(["demo"]) == 0
    last = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["logs", "look", "inspect"]
    assert "tensorboard --logdir runs/demo" in last[1]


@pytest.mark.parametrize(
    ("trainer", "shown"),
    [({"max_steps": 8}, "training"), ({"max_steps": -1, "max_epochs": 2}, "epoch 2 of 2")],
    ids=["counted in steps", "counted in epochs"],
)
def test_the_bar_counts_what_the_run_counts(toy, tmp_path, console, capfd, trainer, shown):
    run(toy(enable_progress_bar=True, **trainer), logs=tmp_path, console=console)
    bar = capfd.readouterr().out
    assert shown in bar
    assert "v_num" not in bar


def test_a_bar_in_the_yaml_takes_the_place_of_the_default_one(toy, tmp_path, console, capfd):
    bar = {"class_path": "lightning.pytorch.callbacks.RichProgressBar"}
    run(toy(enable_progress_bar=True, callbacks=[bar]), logs=tmp_path, console=console)
    assert "v_num" in capfd.readouterr().out


def test_an_early_end_from_inside_is_not_taken_for_ctrl_c(toy, tmp_path, console):
    with pytest.raises(SystemExit):
        run(toy(), ["--model.fail", "exit"], logs=tmp_path, console=console)
