"""The import graph is read as written, and its words do not give the classes away."""

import sys

import pytest

from lightning_adapt.recipes.gnn.import_graph import read_import_graph

FILES = {
    "__init__.py": "from made_up import big\n",
    "top.py": "from made_up.big import one\n",
    "big/__init__.py": "from .one import Thing\nfrom . import two\n",
    "big/one.py": (
        "import made_up.small.aux\n"
        "class Thing:\n    def runFast(self, bigStep, *, eps=1): self.theEnd = big_word\n"
    ),
    "big/two.py": (
        "def late():\n    from ..small import helper, aux\n    from made_up import top\n    import os\n"
    ),
    "big/deep/three.py": (
        "from ...big.one import Thing\nfrom ...big.one import Thing as Again\ncall(some_key=1)\n"
    ),
    "small/__init__.py": "def helper(): pass\n",
    "small/aux.py": "'quoted'  # remark\n",
    "tiny/__init__.py": "from made_up.big import one\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "made_up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return "made_up"


def test_modules_imports_and_classes(package):
    graph = read_import_graph(package, classes=2)
    assert graph.classes == ("big", "small")
    assert dict(zip(graph.modules, graph.labels, strict=True)) == {
        "made_up.big": 0,
        "made_up.big.deep.three": 0,
        "made_up.big.one": 0,
        "made_up.big.two": 0,
        "made_up.small": 1,
        "made_up.small.aux": 1,
    }
    edges = {(graph.modules[a], graph.modules[b]) for a, b in graph.edges}
    assert edges == {
        ("made_up.big", "made_up.big.one"),  # from . import: a name inside a module
        ("made_up.big", "made_up.big.two"),  # from . import: a module
        ("made_up.big.one", "made_up.small.aux"),  # import with dots
        ("made_up.big.two", "made_up.small"),  # inside a function, two levels up
        ("made_up.big.two", "made_up.small.aux"),
        ("made_up.big.deep.three", "made_up.big.one"),  # twice, counted once
    }
    assert package not in sys.modules


def test_words_come_from_identifiers_and_leave_out_what_names_a_class(package):
    graph = read_import_graph(package, classes=2)
    words = dict(zip(graph.modules, graph.words, strict=True))
    # Of bigStep and big_word the name of the class is dropped; `self` is a word like any other.
    assert words["made_up.big.one"] == {"thing", "run", "fast", "self", "step", "eps", "the", "end", "word"}
    assert words["made_up.big.deep.three"] == {"call", "some", "key"}
    assert words["made_up.big"] == words["made_up.small.aux"] == frozenset()


def test_equally_large_subpackages_come_in_the_order_of_their_names(package):
    assert read_import_graph(package, classes=3).classes == ("big", "small", "tiny")


@pytest.mark.parametrize(
    ("package", "classes", "error", "text"),
    [
        ("torch_geometric.nn", 5, ValueError, "`data.package` must be the name of a top-level package, got"),
        ("no_such_package", 5, ModuleNotFoundError, "got 'no_such_package'; install it or name another"),
        ("ast", 5, ModuleNotFoundError, "`data.package` must be an installed package, got 'ast'"),
        ("torch_geometric", 1, ValueError, "`data.classes` must be 2 or more"),
        (
            "json",
            2,
            ValueError,
            "at most the 0 subpackages of json, got 2; change it or name another package",
        ),
    ],
)
def test_bad_arguments_are_refused(package, classes, error, text):
    with pytest.raises(error, match=text):
        read_import_graph(package, classes)
