"""A recipe's options: what is accepted, what help shows, and one sentence for what is wrong."""

from pathlib import Path

import pytest
import yaml

from lightning_adapt import cli
from lightning_adapt.recipes import RECIPES
from lightning_adapt.recipes._arguments import RecipeCLI, default_logger, one_sentence, parse
from lightning_adapt.recipes._quiet import quiet
from lightning_adapt.recipes.runner import run


@pytest.mark.parametrize(
    ("options", "own", "pieces"),
    [
        ([], {"optimizer": "admw"}, ["`--optimizer` must be one of adamw,", "did you mean 'adamw'?"]),
        ([], {"preset": "wid"}, ["`--preset` must be one of wide", "did you mean 'wide'?"]),
        ([], {"threads": 0}, ["`--threads` must be 1 or more, got 0"]),
        (["--model.lrr", "1"], {}, ["`--model.lrr` is not an option", "--model.lr"]),
        (["more"], {}, ["'more' is not an option"]),
        (["--model.lr", "fast"], {}, ["`--model.lr` must be float or null, got 'fast'"]),
        (["--trainer.max_steps", "many"], {}, ["`--trainer.max_steps` must be int, got 'many'"]),
        (
            ["--trainer.precision", "bf17"],
            {},
            ["`--trainer.precision` must be", "'bf16-mixed'", "got 'bf17'"],
        ),
        (["--trainer.logger", "Nothing"], {}, ["`--trainer.logger` must be", "class", "got 'Nothing'"]),
        (["--config", "no.yaml"], {}, ["`--config`: File does not exist", "no.yaml"]),
        (["--data.size", "0"], {}, ["`data.size` must be 1 or more, got 0"]),
        (["--monitor.every_n_steps", "0"], {}, ["`every_n_steps` must be a whole number of", "1, got 0"]),
        (["--model.lr", "-1"], {}, ["lr", "-1"]),
        (["--model.lr"], {}, ["--model.lr", "expected one argument"]),
    ],
)
def test_a_wrong_argument_is_a_value_error_of_one_line(toy, tmp_path, console, options, own, pieces):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        run(toy(), options, logs=tmp_path, console=console, **own)
    for piece in pieces:
        assert piece in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_help_of_a_recipe_shows_its_options_and_values(known, capsys):
    assert cli.main(["run", "toy/line", "--help"]) == 0
    text = capsys.readouterr().out
    assert "a line learns to lie in a plane" in text
    assert "presets" in text or "wide" in text
    assert (
        text.index("--model.width")
        < text.index("--monitor.every_n_steps")
        < text.index("--trainer.max_steps")
    )
    assert "default: 12" in text


def test_the_configuration_can_be_printed(known, capsys):
    assert cli.main(["run", "toy/line", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_steps"] == 12


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "unrecognized arguments: --x=1 --y",
            "`--x` is not an option of this recipe; the nearest are --xx, --aa",
        ),
        (
            "Parser key \"a.b\":\n  Expected a <class 'int'>. Got value: q",
            "`--a.b` must be int, got 'q'; --help lists every option",
        ),
        ("Group 'model' does not\n  accept option 'foo'", "Group 'model' does not accept option 'foo'"),
        ('Parser key "config": File does not exist', "`--config`: File does not exist"),
    ],
)
def test_one_sentence(message, sentence):
    assert one_sentence(message, ["--aa", "--xx", "-h"]) == sentence


class OnlyParsed(RecipeCLI):
    """Reads and checks all values, builds nothing."""

    def instantiate_classes(self):
        pass


EVERY_YAML = [(recipe, preset) for recipe in RECIPES.values() for preset in [None, *recipe.presets]]


@pytest.mark.parametrize(
    ("recipe", "preset"),
    EVERY_YAML,
    ids=[f"{recipe.name}-{preset or 'default'}" for recipe, preset in EVERY_YAML],
)
def test_every_yaml_is_accepted_by_its_recipe(monkeypatch, recipe, preset):
    monkeypatch.setattr("lightning_adapt.recipes._arguments.RecipeCLI", OnlyParsed)
    words = ["--config", str(recipe.preset(preset))] if preset else []
    with quiet():
        config = parse(recipe, words, default_logger(Path("runs"), "any", None)).config
    assert isinstance(config["seed_everything"], int)
    assert config["seed_everything"] is not True
