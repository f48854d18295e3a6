"""The sentences for names that are not known."""

import pytest

from lightning_adapt._text import nearest_first, unknown_name


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("adamw", ["sgd", "adam", "adamw"], ["adamw", "adam", "sgd"]),
        ("ADAM", ["sgd", "adam"], ["adam", "sgd"]),
        ("x", ["c", "a", "b"], ["a", "b", "c"]),
        ("x", [], []),
    ],
    ids=["exact first", "case does not matter", "equally far: alphabetical", "none known"],
)
def test_nearest_first(name, known, expected):
    assert nearest_first(name, known) == expected


def test_the_known_names_are_listed_nearest_first():
    text = unknown_name("recipe", "nlp/charlm", ["gnn/nodes", "nlp/char-lm"])
    expected = "`recipe` must be one of nlp/char-lm, gnn/nodes, got 'nlp/charlm'; did you mean 'nlp/char-lm'?"
    assert text == expected


def test_a_long_list_is_cut_and_says_so():
    text = unknown_name("parameter", "p0", [f"p{i}" for i in range(30)], most=3)
    assert "p0, p10, p20, … (27 more), got 'p0'" in text


def test_nothing_to_choose_from():
    assert unknown_name("preset", "big", []) == (
        "`preset` must be a known name, got 'big'; there is none to choose from"
    )


def test_a_value_that_is_no_text():
    assert "got 3;" in unknown_name("optimizer", 3, ["adam"])
