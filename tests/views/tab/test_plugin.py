"""The back end over a real event file, through TensorBoard's own application."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tables import table, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tensorboard.backend import application
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client, TestResponse

from lightning_adapt.dynamics import COLUMNS
from lightning_adapt.views.event_file import PLUGIN_NAME
from lightning_adapt.views.reader import read_dynamics
from lightning_adapt.views.tab import static_files, wire
from lightning_adapt.views.tab.loader import DynamicsLoader

BASE = f"/data/plugin/{PLUGIN_NAME}/"


class Asked:
    """A client of TensorBoard on a folder of logs."""

    def __init__(self, logs: Path) -> None:
        multiplexer = EventMultiplexer(tensor_size_guidance={PLUGIN_NAME: 1000})
        multiplexer.AddRunsFromDirectory(str(logs)).Reload()
        provider = MultiplexerDataProvider(multiplexer, str(logs))
        flags = argparse.Namespace(
            logdir=str(logs), samples_per_plugin={}, window_title="", path_prefix="", generic_data="auto"
        )
        self.client = Client(application.TensorBoardWSGIApp(flags, [DynamicsLoader()], provider))

    def get(self, route: str, **query: Any) -> TestResponse:
        return self.client.get(BASE + route, query_string=query)

    def json(self, route: str, **query: Any) -> Any:
        answer = self.get(route, **query)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.data)

    def arrays(self, route: str, **query: Any) -> tuple[Any, Any]:
        answer = self.get(route, **query)
        assert answer.status_code == 200, answer.text
        return wire.unpack(answer.data)


NAMES = ["net.0.weight", "net.0.bias", "head.weight"]
KEY = {"run": "first", "optimizer": "AdamW"}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = tmp_path_factory.mktemp("logs")
    write(logs / "first", [table(NAMES, step) for step in (1, 2, 4, 8)])
    both = [table(NAMES, step, optimizer=name) for step in (1, 2) for name in ("SGD", "Adam")]
    write(logs / "two", both)
    return logs


@pytest.fixture(scope="module")
def asked(logs: Path) -> Asked:
    return Asked(logs)


def test_runs_are_listed(asked: Asked):
    listed = asked.json("runs")
    found = {(each["run"], each["optimizer"]): (each["rows"], each["last_step"]) for each in listed["series"]}
    assert found == {("first", "AdamW"): (3, 8), ("two", "SGD"): (3, 2), ("two", "Adam"): (3, 2)}
    assert listed["problems"] == []


def test_every_column_equals_what_read_dynamics_reads(asked: Asked, logs: Path):
    history = read_dynamics(logs / "first")
    for name in COLUMNS:
        _, found = asked.arrays("column", **KEY, statistic=name)
        assert found["steps"].tolist() == list(history.steps)
        np.testing.assert_array_equal(found["values"], np.array([t[name] for t in history], dtype=np.float32))


def test_a_column_after_a_step_holds_only_what_came_since(asked: Asked):
    _, found = asked.arrays("column", **KEY, statistic="grad_rms", after=2)
    assert found["steps"].tolist() == [4, 8]
    assert found["values"].shape == (2, 3)
    _, found = asked.arrays("column", **KEY, statistic="grad_rms", after=-5)
    assert found["values"].shape == (4, 3)
    _, found = asked.arrays("column", **KEY, statistic="grad_rms", after=8)
    assert found["values"].shape == (0, 3)


def test_a_step_and_a_parameter_equal_what_read_dynamics_reads(asked: Asked, logs: Path):
    history = read_dynamics(logs / "first")
    meta, found = asked.arrays("step", **KEY, step=4)
    assert tuple(meta["columns"]) == COLUMNS
    np.testing.assert_array_equal(found["values"], history[2].values.T.astype(np.float32))
    meta, found = asked.arrays("parameter", **KEY, row=1)
    np.testing.assert_array_equal(
        found["values"], np.array([t.values[1] for t in history], dtype=np.float32).T
    )
    for kind, name in enumerate(["effective_lr", "second_moment", "update"]):
        counts = np.array([t.histograms[1, kind] for t in history])  # type: ignore[index]
        assert found[f"{name}/counts"].sum() + found[f"{name}/outside"].sum() == counts.sum()
        assert len(found[f"{name}/edges"]) == found[f"{name}/counts"].shape[1] + 1


def test_steps_carry_rates_and_hyperparameters(asked: Asked):
    meta, found = asked.arrays("steps", **KEY)
    header = dict(zip(meta["names"], found["header"].T.tolist(), strict=True))
    assert header["lr/decay"] == [0.01, 0.02, 0.04, 0.08]
    assert header["hyper/decay/eps"] == [1e-3] * 4
    assert found["written"].shape == (4,)
    assert asked.json("rows", **KEY)["version"] == meta["rows_version"]


def test_rows_say_what_a_parameter_is(asked: Asked):
    first = asked.json("rows", **KEY)["rows"][0]
    assert first == {
        "name": NAMES[0], "group": "decay", "shape": [2, 3], "dtype": "float32", "state_dtype": "float32",
        "stride": 1, "numel": 6,
    }  # fmt: skip


def test_scalars_are_those_of_the_run(asked: Asked):
    assert asked.json("scalars", run="first") == {"tags": ["train/loss"]}
    _, found = asked.arrays("scalar", run="first", tag="train/loss")
    assert found["steps"].tolist() == [1, 2, 4, 8]
    np.testing.assert_allclose(found["values"], [1, 2 / 3, 2 / 5, 2 / 9], rtol=1e-6)


def test_the_catalogue_explains_every_statistic(asked: Asked):
    told = asked.json("catalogue")
    assert [each["name"] for each in told["statistics"]] == list(COLUMNS)
    assert all(each["unit"] and each["meaning"] for each in told["statistics"])
    assert all(each["scale"] in ("log", "linear") for each in told["statistics"])
    assert told["first"] in COLUMNS


@pytest.mark.parametrize(
    ("route", "query", "code", "sentence"),
    [
        ("rows", {}, 400, "`run` must be given"),
        ("rows", {"run": "first"}, 400, "`optimizer` must be given"),
        ("rows", {"run": "frist", "optimizer": "AdamW"}, 404, "did you mean 'first'"),
        ("rows", {"run": "two", "optimizer": "Adma"}, 404, "did you mean 'Adam'"),
        ("column", {**KEY, "statistic": "grad_rsm"}, 404, "did you mean 'grad_rms'"),
        ("column", {**KEY, "statistic": "grad_rms", "after": "x"}, 400, "`after` must be a whole number"),
        ("column", {**KEY, "statistic": "grad_rms", "after": "9" * 5000}, 400, "must be a whole number"),
        ("step", {**KEY, "step": 3}, 404, r"the nearest are \[2, 4, 1\]"),
        ("step", {**KEY, "step": "²"}, 400, "`step` must be a whole number"),
        ("parameter", {**KEY, "row": 3}, 404, "at least 0 and below 3, got 3"),
        ("parameter", {**KEY, "row": -1}, 404, "at least 0 and below 3, got -1"),
        ("findings", {"run": "frist", "optimizer": "AdamW"}, 404, "did you mean 'first'"),
        ("findings", {"run": "two", "optimizer": "AdamW"}, 404, "`optimizer` must be one of"),
        ("steps", {"run": "first/../two", "optimizer": "SGD"}, 404, "`run` must be one of"),
        ("rows", {"run": "", "optimizer": "\0"}, 404, "`run` must be one of"),
        ("scalars", {"run": "<script>"}, 404, "`run` must be one of"),
        ("scalar", {"run": "first", "tag": "../train/loss"}, 404, "did you mean 'train/loss'"),
        ("static/nothing.js", {}, 404, "`file` must be one of"),
        ("static/..%2fplugin.py", {}, 404, "`file` must be one of"),
    ],
)
def test_what_does_not_exist_is_told_in_a_sentence(
    asked: Asked, route: str, query: Any, code: int, sentence: str
):
    answer = asked.get(route, **query)
    assert answer.status_code == code
    assert answer.mimetype == "text/plain"
    assert re.search(sentence, answer.text), answer.text


def test_only_reading_is_answered(asked: Asked):
    for method in ("POST", "PUT", "DELETE"):
        answer = asked.client.open(BASE + "runs", method=method)
        assert (answer.status_code, answer.mimetype) == (405, "text/plain")
        assert answer.text == f"{method} is not answered here; use GET"


@pytest.mark.parametrize(
    ("route", "query", "code"),
    [("runs", {}, 200), ("column", {**KEY, "statistic": "grad_rms"}, 200), ("rows", {"run": "x"}, 400)],
)
def test_a_head_request_has_the_code_and_no_body(asked: Asked, route: str, query: Any, code: int):
    answer = asked.client.head(BASE + route, query_string=query)
    assert (answer.status_code, answer.data) == (code, b"")


def test_a_finding_of_no_run_is_not_found_and_of_a_run_without_monitor_is_empty(asked: Asked):
    assert asked.json("findings", **KEY) == {"findings": []}


def test_a_fault_is_a_sentence_and_no_page(asked: Asked, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("<b>disk</b> \ud800 gone")

    monkeypatch.setattr("lightning_adapt.views.tab.data.Logs.runs", broken)
    # Captured, half a surrogate pair could not be sent on by a test process.
    monkeypatch.setattr("lightning_adapt.views.tab.plugin._logger.disabled", True)
    answer = asked.get("runs")
    assert answer.status_code == 500
    assert answer.mimetype == "text/plain"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.text.startswith("The tab could not read this: RuntimeError: <b>disk</b>")


def test_a_missing_chart_library_is_told(asked: Asked, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(static_files, "find_spec", lambda name: None)
    static_files.plotly_js.cache_clear()
    answer = asked.get("static/plotly.min.js")
    static_files.plotly_js.cache_clear()
    assert answer.status_code == 500
    assert "pip install 'lightning-adapt[tensorboard]'" in answer.text


def test_files_are_served_as_what_they_are(asked: Asked):
    for name in static_files.NAMES:
        answer = asked.get(f"static/{name}")
        assert answer.status_code == 200
        assert answer.mimetype == ("text/css" if name.endswith(".css") else "text/javascript")
        assert answer.data == static_files.content(name)


def test_a_file_is_kept_by_the_browser_as_long_as_it_stays_the_same(asked: Asked, monkeypatch: Any):
    address = DynamicsLoader().load(TBContext()).frontend_metadata().es_module_path
    query = address.removeprefix("/static/index.js?v=")
    for name in static_files.NAMES:
        assert "max-age=31536000" in asked.get(f"static/{name}", v=query).headers["Cache-Control"]
        assert "no-cache" in asked.get(f"static/{name}").headers["Cache-Control"]
        assert "no-cache" in asked.get(f"static/{name}", v="another").headers["Cache-Control"]
    monkeypatch.setattr(static_files, "version", lambda: "newer")
    assert "no-cache" in asked.get("static/index.js", v=query).headers["Cache-Control"]


def test_no_module_reaches_out():
    for path in static_files.FOLDER.iterdir():
        text = path.read_text()
        assert "http" not in text.replace("HttpSource", "").replace("//docs", ""), path.name
        assert "innerHTML" not in text
        assert "insertAdjacentHTML" not in text


def test_a_resumed_run_and_changed_rows_read_like_read_dynamics(tmp_path: Path):
    write(tmp_path / "run", [table(["a", "b"], step) for step in (1, 2, 3)], [1.0, 2.0, 3.0])
    write(
        tmp_path / "run", [table(["b", "c"], step, real_steps=70) for step in (2, 3, 4)], [11.0, 12.0, 13.0]
    )
    history = read_dynamics(tmp_path / "run")
    asked = Asked(tmp_path)
    names = [row["name"] for row in asked.json("rows", run="run", optimizer="AdamW")["rows"]]
    _, found = asked.arrays("column", run="run", optimizer="AdamW", statistic="grad_rms")
    assert found["steps"].tolist() == [1, 2, 3, 4]
    for at, each in enumerate(history):
        for row, name in enumerate(names):
            expected = each[name, "grad_rms"] if name in each.names else np.nan
            np.testing.assert_equal(found["values"][at, row], np.float32(expected))


def test_what_another_version_wrote_is_told_beside_what_can_be_read(tmp_path: Path, monkeypatch: Any):
    write(tmp_path / "new", [table(["a"], 1)])
    monkeypatch.setattr("lightning_adapt.views.event_file.FORMAT", 1)
    write(tmp_path / "old", [table(["a"], 1)])
    monkeypatch.undo()
    listed = Asked(tmp_path).json("runs")
    assert [each["run"] for each in listed["series"]] == ["new"]
    assert listed["problems"][0]["run"] == "old"
    assert "format 1 were written by another version" in listed["problems"][0]["problem"]


@pytest.mark.parametrize("what", ["empty", "no tables", "corrupt", "truncated"])
def test_folders_with_little_in_them(tmp_path: Path, what: str):
    from torch.utils.tensorboard import SummaryWriter

    if what == "no tables":
        with SummaryWriter(str(tmp_path)) as writer:
            writer.add_scalar("loss", 1.0, 0)
    if what == "corrupt":
        (tmp_path / "events.out.tfevents.1").write_bytes(b"nothing of the kind")
    if what == "truncated":
        write(tmp_path, [table(["a"], step) for step in range(5)])
        (file,) = tmp_path.glob("*tfevents*")
        file.write_bytes(file.read_bytes()[:-700])
    listed = Asked(tmp_path).json("runs")
    assert [each["rows"] for each in listed["series"]] == ([1] if what == "truncated" else [])


names = st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=4, unique=True)


@pytest.fixture
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    return (tmp_path_factory.mktemp("any") for _ in iter(int, 1))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), names=names, optimizer=st.sampled_from(["AdamW", "SGD-1"]))
def test_any_name_and_any_value_arrives_as_it_is(folders: Any, data: Any, names: list[str], optimizer: str):
    shape = (len(names), len(COLUMNS))
    values = data.draw(npst.arrays(np.float32, shape, elements=st.floats(width=32)))
    folder = next(folders)
    group = data.draw(st.text(max_size=9))
    write(
        folder,
        [table(names, 1, values=values.astype(np.float64), optimizer=optimizer, learning_rates={group: 0.1})],
    )
    asked = Asked(folder)
    rows = asked.json("rows", run=".", optimizer=optimizer)["rows"]
    assert [row["name"] for row in rows] == names
    _, found = asked.arrays("step", run=".", optimizer=optimizer, step=1)
    np.testing.assert_array_equal(found["values"], values.T)
    meta, _ = asked.arrays("steps", run=".", optimizer=optimizer)
    assert f"lr/{group}" in meta["names"]


def test_findings_are_the_last_word_on_each_and_worst_first(tmp_path: Path):
    from tensorboard.compat.proto.summary_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
        DATA_CLASS_TENSOR,  # pyright: ignore[reportAttributeAccessIssue]
        Summary,  # pyright: ignore[reportAttributeAccessIssue]
        SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
    )
    from tensorboard.util.tensor_util import make_tensor_proto
    from torch.utils.tensorboard import SummaryWriter

    def finding(rule: str, severity: str, ended_at: int | None = None) -> dict[str, Any]:
        return {
            "rule": rule, "severity": severity, "parameter": "a", "cause": "", "first_step": 1,
            "ended_at": ended_at, "sentence": f"<b>{rule}</b>", "remedy": "x", "optimizer": "AdamW",
            "value": None,
        }  # fmt: skip

    write(tmp_path, [table(["a"], 1)])
    about = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=b"{}"),
        data_class=DATA_CLASS_TENSOR,
    )
    told = [[finding("floor", "info"), finding("spike", "critical")], [finding("floor", "info", ended_at=2)]]
    with SummaryWriter(str(tmp_path)) as writer:
        for step, some in enumerate(told, start=1):
            told_else = [b"", b"[", b"[]", b'{"rule": 1}']
            texts = np.array([*(json.dumps(each).encode() for each in some), *told_else], dtype=object)
            value = Summary.Value(
                tag="optimizer_health/AdamW", tensor=make_tensor_proto(texts), metadata=about
            )
            writer._get_file_writer().add_summary(Summary(value=[value]), step)
    asked = Asked(tmp_path)
    found = asked.json("findings", run=".", optimizer="AdamW")["findings"]
    assert [(each["rule"], each["ended_at"]) for each in found] == [("spike", None), ("floor", 2)]
    assert found[0]["value"] is None
    assert len(asked.json("runs")["series"]) == 1
