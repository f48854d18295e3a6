"""What TensorBoard keeps of a long run, with both of its loaders."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from helpers.board import board
from helpers.tables import table, write

from lightning_adapt.views.reader import read_dynamics
from lightning_adapt.views.tab import wire

STEPS = 1300


def get(url: str, route: str, **query: Any) -> bytes:
    with urllib.request.urlopen(f"{url}data/plugin/lightning_adapt/{route}?{urlencode(query)}") as answer:
        body: bytes = answer.read()
    return body


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = tmp_path_factory.mktemp("long")
    write(logs / "run", [table(["a", "b"], step) for step in range(STEPS)])
    return logs


@pytest.mark.parametrize("loader", ["true", "false"])
@pytest.mark.parametrize(
    ("flags", "kept"), [((), 1000), (("--samples_per_plugin=lightning_adapt=0",), STEPS)]
)
def test_the_steps_that_are_kept_are_whole(
    long_run: Path, tmp_path: Path, loader: str, flags: tuple[str, ...], kept: int
):
    key = {"run": "run", "optimizer": "AdamW"}
    with board(long_run, tmp_path, f"--load_fast={loader}", *flags) as url:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            listed = json.loads(get(url, "runs"))["series"]
            if listed and listed[0]["last_step"] == STEPS - 1:
                break
            time.sleep(0.2)
        time.sleep(1)  # tags are read one after another
        _, column = wire.unpack(get(url, "column", **key, statistic="grad_rms"))
        _, parameter = wire.unpack(get(url, "parameter", **key, row=1))
    assert len(column["steps"]) == kept
    assert column["steps"][-1] == STEPS - 1
    written = {each.step: each for each in read_dynamics(long_run)}
    expected = [written[int(step)]["grad_rms"] for step in column["steps"]]
    np.testing.assert_array_equal(column["values"], np.array(expected, dtype=np.float32))
    assert not np.isnan(parameter["values"]).any()
    assert (parameter["effective_lr/counts"].sum(axis=1) > 0).all()
