"""Arguments with which a study could measure nothing are refused by name."""

from __future__ import annotations

import math

import pytest

from lightning_adapt.recipes.landscapes._checks import at_least, decay, own_name, positive
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes.registry import LANDSCAPES
from lightning_adapt.recipes.landscapes.run import parse, run_one
from lightning_adapt.recipes.nlp.text_data import read_text

REFUSED = [
    ("adagrad-decay", {"steps": 0}, "`steps` must be 1 or more, got 0"),
    ("adagrad-decay", {"noisy_steps": 1}, "`noisy_steps` must be 2 or more, got 1"),
    ("adagrad-decay", {"gradient": 0.0}, "`gradient` must be positive, got 0.0"),
    ("adagrad-decay", {"lr": 0.0}, "`lr` must be positive, got 0.0"),
    ("adagrad-decay", {"lr": -1.0}, "`lr` must be positive, got -1.0"),
    ("rmsprop-memory", {"steps": 1}, "`steps` must be 2 or more, got 1"),
    ("rmsprop-memory", {"fold": 1.0}, "`fold` must not be 1, got 1.0"),
    ("rmsprop-memory", {"rho": 1.0}, "`rho` must be 0 or more and below 1, got 1.0"),
    ("rmsprop-memory", {"memories": (0.9, 1.0)}, "`memories` must be 0 or more and below 1, got 1.0"),
    ("rmsprop-memory", {"memories": (0.0,)}, "`memories` must be positive, got 0.0"),
    ("bf16-states", {"steps": 1}, "`steps` must be 20 or more, got 1"),
    ("bf16-states", {"seeds": 0}, "`seeds` must be 1 or more, got 0"),
    ("bf16-states", {"weights": 0}, "`weights` must be 100 or more, got 0"),
    ("fisher", {"copies": 0}, "`copies` must be 4 or more, got 0"),
    ("fisher", {"steps": 3}, "`steps` must be 32 or more, got 3"),
    ("flat-basin", {"lr": 0.0}, "`lr` must be positive, got 0.0"),
    ("flat-basin", {"slope": 0.0}, "`slope` must be positive, got 0.0"),
    ("flat-basin", {"distance": -1.0}, "`distance` must be positive, got -1.0"),
    ("new-feature", {"signal": 0.0}, "`signal` must be positive, got 0.0"),
    ("new-feature", {"silent": 3}, "`silent` must be 20 or more, got 3"),
    ("new-feature", {"seeds": 1}, "`seeds` must be 2 or more, got 1"),
    ("sparse-features", {"seeds": 0}, "`seeds` must be 1 or more, got 0"),
    ("edge-of-stability", {"seeds": 0}, "`seeds` must be 1 or more, got 0"),
    ("edge-of-stability", {"beta1": (0.9, 1.0)}, "`beta1` must be 0 or more and below 1, got 1.0"),
    ("epsilon-floor", {"steps": 0}, "`steps` must be 1 or more, got 0"),
    ("weight-decay", {"epochs": 0}, "`epochs` must be 1 or more, got 0"),
    ("weight-decay", {"seeds": 1}, "`seeds` must be 2 or more, got 1"),
    ("moment-memory", {"copies": 1}, "`copies` must be 128 or more, got 1"),
    ("moment-memory", {"seeds": 1}, "`seeds` must be 7 or more, got 1"),
]


@pytest.mark.parametrize(("study", "arguments", "sentence"), REFUSED)
def test_a_value_that_measures_nothing_is_refused(
    study: str, arguments: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=r"^`\w+` must .*, got .*; .") as refusal:
        LANDSCAPES[study].load()(**arguments)
    assert str(refusal.value).startswith(sentence)


def test_the_limits_themselves_are_allowed() -> None:
    at_least("steps", 2, 2, "")
    positive("", lr=1e-300)
    decay("rho", 0.0)
    decay("rho", math.nextafter(1.0, 0.0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        at_least("steps", value, 1, "why")
    with pytest.raises(ValueError, match="must be"):
        positive("why", lr=value)
    with pytest.raises(ValueError, match="must be"):
        decay("rho", value)


@pytest.mark.parametrize(
    ("study", "option", "dataset"),
    [("weight-decay", "data_root", "CiteSeer"), ("sparse-features", "data_root", "Cora")],
)
def test_a_missing_data_set_is_told_with_the_option_of_the_landscape(
    study: str, option: str, dataset: str
) -> None:
    entry = LANDSCAPES[study]
    with pytest.raises(FileNotFoundError) as caught:
        run_one(entry, None, parse(entry, [f"--{option}", "/nowhere"]))
    text = str(caught.value)
    assert f"`{option}` must hold {dataset}/raw/" in text
    assert "data." not in text.replace(f"ind.{dataset.lower()}", "")
    assert text.endswith("are missing; name another folder")


def test_a_missing_text_is_told_with_the_option_of_the_landscape() -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"^`path` must be a text file, got '/nowhere'.*; check"),
        own_name("data.path", "path"),
    ):
        read_text("/nowhere")
    study = parse(LANDSCAPES["bf16-states"], ["--path", "/nowhere", "--weights", "100"])
    with pytest.raises(FileNotFoundError, match=r"^`path` must be"):
        study._language_model(Lab())  # type: ignore[attr-defined]
