"""What TensorBoard pays for the plugin when it starts, and what it keeps for it."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins import base_plugin

from lightning_adapt.views.event_file import PLUGIN_NAME
from lightning_adapt.views.tab.loader import KEPT_STEPS, DynamicsLoader

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"torch", "lightning", "pytorch_lightning", "pandas", "plotly", "rich", "matplotlib"}


def imported_by(code: str) -> set[str]:
    command = [sys.executable, "-W", "ignore", "-c", f"import sys; {code}; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in done.stdout.split()}


START = "from lightning_adapt.views.tab.loader import DynamicsLoader as L"
LOAD = (
    f"{START}; from tensorboard.plugins.base_plugin import TBContext; L().load(TBContext()).get_plugin_apps()"
)
ALL = f"{LOAD}; import lightning_adapt.views.tab.data, lightning_adapt.views.tab.answers"
ALL += "; from lightning_adapt.views.tab.static_files import compressed; compressed('plotly.min.js')"


@pytest.mark.parametrize("code", [START, LOAD, ALL], ids=["import", "load", "first request"])
def test_the_plugin_loads_nothing_heavy(code: str):
    assert imported_by(code) & HEAVY == set()


def test_the_probe_can_fail():
    assert "plotly" in imported_by("import plotly")


def test_the_entry_point_is_the_loader():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings it")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["tensorboard_plugins"]["lightning_adapt"].partition(":")
    loader = getattr(importlib.import_module(module), name)
    assert issubclass(loader, base_plugin.TBLoader)
    plugin: Any = loader().load(base_plugin.TBContext())
    assert plugin.plugin_name == PLUGIN_NAME
    assert not plugin.is_active()
    assert plugin.frontend_metadata().tab_name == "Optimizer dynamics"


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, {PLUGIN_NAME: KEPT_STEPS}), ({PLUGIN_NAME: 0, "images": 3}, {PLUGIN_NAME: 0, "images": 3})],
)
def test_a_thousand_steps_are_kept_unless_the_user_says_otherwise(
    given: dict[str, int], kept: dict[str, int]
):
    flags = argparse.Namespace(samples_per_plugin=dict(given))
    DynamicsLoader().fix_flags(flags)
    assert flags.samples_per_plugin.items() >= kept.items()
    assert KEPT_STEPS >= 1000


@pytest.mark.parametrize("flags", [argparse.Namespace(), argparse.Namespace(samples_per_plugin=None)])
def test_flags_of_another_tensorboard_are_left_alone(flags: argparse.Namespace):
    DynamicsLoader().fix_flags(flags)
