"""The command: verbs, exit statuses, one clear sentence for each mistake, and no waiting for help."""

import os
import subprocess
import sys
import time

import pytest

from lightning_adapt import cli
from lightning_adapt.recipes import RECIPES, find
from lightning_adapt.recipes.landscapes.registry import LANDSCAPES
from lightning_adapt.recipes.registry import missing_extra


def run_command(*words):
    """A fresh process, as a shell would start it."""
    code = "import sys; from lightning_adapt.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def error_of(capsys, *words):
    """Exit status and the sentence on stderr."""
    status = cli.main(list(words))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("lightning-adapt: error: ")
    assert "Traceback" not in said.err
    return status, said.err


@pytest.mark.parametrize("words", [["--help"], ["recipes"], ["run", "--help"], ["--version"]])
def test_light_verbs_answer_in_under_two_seconds(words):
    started = time.perf_counter()
    done = run_command(*words)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert seconds < 2, f"{words} took {seconds:.2f} s"


@pytest.mark.parametrize("words", ["--help", "recipes", "run --help", "run nothing", "inspect nothing"])
def test_light_verbs_import_nothing_heavy(words):
    code = (
        "import sys; from lightning_adapt.cli import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'lightning', 'rich', 'numpy'};"
        "print({name.partition('.')[0] for name in sys.modules} & heavy or 'nothing heavy')"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "nothing heavy"


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    code = "import sys; from lightning_adapt.cli import main; sys.stdin.read(); sys.exit(main(['recipes']))"
    reading, writing = os.pipe()
    errors = tmp_path / "errors"
    with errors.open("w") as said, os.fdopen(writing, "w") as pipe:
        done = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=pipe, stderr=said)
        os.close(reading)  # as `head` does when it has its lines
        done.communicate()
    assert errors.read_text() == ""


def test_every_verb_is_in_the_help_and_has_its_own(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb, (about, _) in cli.VERBS.items():
        assert f"{verb:<11} {about}" in text
        assert cli.main([verb, "--help"]) == 0
        assert f"lightning-adapt {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["run"], ["compare"]])
def test_too_few_words_show_the_help_and_are_an_error(capsys, words):
    assert cli.main(words) == 2
    assert "usage: lightning-adapt" in capsys.readouterr().out


def test_recipes_lists_every_recipe_with_its_presets(capsys):
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*RECIPES, *(f"landscapes/{name}" for name in LANDSCAPES)]
    for line, recipe in zip(lines, RECIPES.values(), strict=False):
        assert recipe.summary in line
        assert all(preset in line for preset in recipe.presets)


@pytest.mark.parametrize(
    ("words", "status", "pieces"),
    [
        (["rnu"], 2, ["`command` must be one of run,", "got 'rnu'", "did you mean 'run'?"]),
        (["run", "nlp/charlm"], 2, ["`recipe` must be one of nlp/char-lm,", "did you mean 'nlp/char-lm'?"]),
        (["compare", "gnn/nodes"], 2, ["`recipe` must be one of gnn/node-classification,"]),
        (["run", "nlp/char-lm", "--threads", "two"], 2, ["--threads", "invalid int value: 'two'", "--help"]),
        (["recipes", "--all"], 2, ["unrecognized arguments: --all", "lightning-adapt recipes --help"]),
        (["inspect"], 2, ["RUN_DIR_OR_CKPT"]),
        (["inspect", "no/such/run"], 1, ["`RUN_DIR_OR_CKPT` must be", "'no/such/run', which does not exist"]),
        (["inspect", ".", "--most", "0"], 2, ["`--most` must be at least 1, got 0"]),
        (["list", "adma"], 2, ["adam"]),
    ],
)
def test_a_mistake_is_one_sentence(capsys, words, status, pieces):
    got, sentence = error_of(capsys, *words)
    assert got == status
    for piece in pieces:
        assert piece in sentence


def test_a_folder_without_tables_says_so(capsys, tmp_path):
    status, sentence = error_of(capsys, "inspect", str(tmp_path))
    assert status in (1, 2)
    assert str(tmp_path) in sentence


def test_a_file_that_is_no_checkpoint_says_so(capsys, tmp_path):
    file = tmp_path / "notes.ckpt"
    file.write_text("not a checkpoint")
    status, sentence = error_of(capsys, "inspect", str(file))
    assert status in (1, 2)
    assert "notes.ckpt" in sentence


def raising(error):
    def verb(*_):
        raise error

    return {"fail": ("fail", verb)}


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ValueError("`lr` must be positive,\n got -1"), 2, "`lr` must be positive, got -1"),
        (OSError("the log folder must be writable"), 1, "the log folder must be writable"),
        (RuntimeError("shapes differ"), 1, "RuntimeError: shapes differ (--debug shows where)"),
        (KeyError("x"), 1, "KeyError: 'x' (--debug shows where)"),
        (
            ModuleNotFoundError("No module named 'torch_geometric'", name="torch_geometric.nn"),
            1,
            "this needs torch_geometric, which is not installed; pip install 'lightning-adapt[gnn]'",
        ),
        (ModuleNotFoundError("no x; pip install x", name="x"), 1, "error: no x; pip install x"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failures_end_with_a_status_and_a_sentence(capsys, monkeypatch, error, status, sentence):
    monkeypatch.setattr(cli, "VERBS", raising(error))
    got, said = error_of(capsys, "fail")
    assert got == status
    assert sentence in said


def test_a_wrong_trainer_setting_is_a_bad_argument(capsys, monkeypatch):
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    monkeypatch.setattr(cli, "VERBS", raising(MisconfigurationException("no such device")))
    assert error_of(capsys, "fail")[0] == 2


@pytest.mark.parametrize(("words", "variable"), [(["--debug"], None), ([], "1")])
def test_debug_shows_the_traceback(monkeypatch, words, variable):
    monkeypatch.setattr(cli, "VERBS", raising(RuntimeError("where?")))
    if variable:
        monkeypatch.setenv("LIGHTNING_ADAPT_DEBUG", variable)
    with pytest.raises(RuntimeError, match=r"where\?"):
        cli.main(["fail", *words])


@pytest.mark.parametrize(
    ("said", "expected"), [("", "stopped"), ("stopped after 7 steps", "stopped after 7 steps")]
)
def test_ctrl_c_ends_politely(capsys, monkeypatch, said, expected):
    monkeypatch.setattr(cli, "VERBS", raising(KeyboardInterrupt(said)))
    assert cli.main(["fail"]) == 130
    assert capsys.readouterr().err.strip() == expected


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3, 3), (None, 0), ("text", 1)])
def test_an_early_end_keeps_its_status(monkeypatch, code, status):
    monkeypatch.setattr(cli, "VERBS", raising(SystemExit(code)))
    assert cli.main(["fail"]) == status


@pytest.mark.parametrize("verb", ["run", "compare"])
def test_a_missing_library_names_the_extra(capsys, monkeypatch, verb):
    monkeypatch.setattr(
        "lightning_adapt.recipes.registry.find_spec", lambda name: None if name == "transformers" else 1
    )
    status, sentence = error_of(capsys, verb, "nlp/char-lm")
    assert status == 1
    assert (
        "nlp/char-lm needs transformers, which is not installed; pip install 'lightning-adapt[nlp]'"
        in sentence
    )


def test_a_library_outside_the_extras_is_named_itself():
    assert missing_extra("einops", "x").endswith("pip install einops")


def test_list_shows_the_catalog(capsys):
    from lightning_adapt.optimizers import catalog

    assert cli.main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in catalog)
    assert cli.main(["list", "adamw"]) == 0
    one = capsys.readouterr().out
    assert "decoupled" in one
    assert "[max_exp_avg_sq]" in one


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_points_at_files_and_classes_that_are_there(name):
    from importlib import import_module

    recipe = find(name)
    assert recipe.config_path.is_file()
    for path in (recipe.module, recipe.data):
        module, _, attribute = path.rpartition(".")
        assert hasattr(import_module(module), attribute)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="`--preset` must be"):
        find("nlp/char-lm").preset("no-such-preset")
