"""Promises about the house itself: names, lightness, links, and nothing of one machine in the files."""

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ["callbacks", "dynamics", "health", "optimizers", "recipes", "views"]
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning"}
HEAVY = LIGHTNING | {
    "pandas",
    "rich",
    "tensorboard",
    "torch",
    "torch_geometric",
    "torchmetrics",
    "transformers",
}


def imported_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after ``statement``."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", ["lightning_adapt", *(f"lightning_adapt.{room}" for room in ROOMS)])
def test_public_names_are_sorted_and_complete(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(set(module.__all__))
    for public in module.__all__:
        assert getattr(module, public) is not None
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith("lightning_adapt")
    }
    assert own <= set(module.__all__)


def test_every_room_is_a_public_name():
    rooms = {path.parent.name for path in (ROOT / "lightning_adapt").glob("*/__init__.py")}
    assert rooms == set(ROOMS)
    assert rooms <= set(importlib.import_module("lightning_adapt").__all__)


def test_an_unknown_public_name_is_an_attribute_error():
    package = importlib.import_module("lightning_adapt")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
    assert set(package.__all__) < set(dir(package))


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import lightning_adapt", HEAVY),
        ("import lightning_adapt.cli", HEAVY),
        ("import lightning_adapt.recipes", HEAVY),
        ("import lightning_adapt.optimizers", LIGHTNING),
        ("import lightning_adapt.dynamics", LIGHTNING),
        ("from lightning_adapt.health import *", HEAVY),
        ("import lightning_adapt.views", LIGHTNING),
    ],
)
def test_imports_are_light(statement, forbidden):
    assert imported_by(statement) & forbidden == set()


def test_the_import_probe_can_fail():
    assert "lightning" in imported_by("from lightning_adapt.callbacks import OptimizerDynamicsMonitor")


@pytest.mark.parametrize("name", ["callbacks", "recipes"])
def test_the_folders_on_top_are_the_ones_in_the_package(name):
    assert (ROOT / name).resolve() == (ROOT / "lightning_adapt" / name).resolve()
    assert not Path(os.readlink(ROOT / "lightning_adapt" / name)).is_absolute()


def test_no_file_names_a_folder_of_one_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    # Put together here so that this file does not find itself.
    traces = [f"/{'work'}/", f"/{'tmp'}/la", f"/{'root'}/", f"/{'home'}/"]
    found = [
        (name, trace)
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file()
        for trace in traces
        if trace.encode() in (ROOT / name).read_bytes()
    ]
    assert found == []
