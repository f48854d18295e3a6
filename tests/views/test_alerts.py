"""Findings in event files and dumps, written and read back."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo
from lightning_adapt.views import read_dynamics, read_findings
from lightning_adapt.views.alerts import AlertsView
from lightning_adapt.views.dump import write_dump


def _finding(**options: Any) -> dict[str, Any]:
    return {
        "rule": "spike-warning",
        "severity": "warning",
        "parameter": "w",
        "optimizer": "AdamW",
        "first_step": 7,
        "last_step": 7,
        "ended_at": None,
        "value": 4.0,
        "cause": "",
        "sentence": "w: rms_t 4.0",
        "remedy": "warm up",
        "source": "a paper",
        **options,
    }


def _write(folder: Path, *writings: tuple[list[dict[str, Any]], int]) -> None:
    writer = SummaryWriter(str(folder))
    view = AlertsView(writer)
    for findings, step in writings:
        view.write(findings, findings, step)
    writer.close()


def test_the_last_word_on_a_finding_stays(tmp_path: Path) -> None:
    other = _finding(optimizer="SGD", first_step=3, value=math.nan)
    ended = _finding(last_step=9, ended_at=10)
    again = _finding(first_step=20)
    _write(tmp_path, ([_finding(), other], 7), ([ended], 10), ([again], 20))
    found = read_findings(tmp_path)
    assert [f["first_step"] for f in found] == [3, 7, 20]
    assert math.isnan(found[0].pop("value"))
    other.pop("value")
    assert found == [other, ended, again]


def test_tensorboard_sees_one_event_a_writing(tmp_path: Path) -> None:
    _write(tmp_path, ([_finding(value=math.inf)], 7), ([_finding(ended_at=10)], 10))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Tensors("optimizer_health/AdamW")] == [7, 10]
    metadata = events.SummaryMetadata("optimizer_health/AdamW")
    assert metadata.plugin_data.plugin_name == "lightning_adapt"
    assert metadata.data_class == 2
    (text,) = events.Tensors("optimizer_health/AdamW")[0].tensor_proto.string_val
    # Strict JSON, as a browser reads it.
    assert json.loads(text, parse_constant=pytest.fail)["value"] is None


def test_a_resumed_run_has_two_files(tmp_path: Path) -> None:
    _write(tmp_path, ([_finding()], 7))
    first = next(tmp_path.glob("*tfevents*"))
    first.rename(first.with_name("events.out.tfevents.1.a"))
    _write(tmp_path, ([_finding(ended_at=12)], 12))
    assert [f["ended_at"] for f in read_findings(tmp_path)] == [12]


def test_a_run_without_findings_has_none(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer.add_scalar("loss", 1.0, 0)
    writer.close()
    assert read_findings(tmp_path) == []


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    _write(tmp_path, ([_finding()], 7), ([_finding(first_step=9)], 9))
    file = next(tmp_path.glob("*tfevents*"))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    with pytest.warns(RuntimeWarning, match="read only in part, 1 findings"):
        assert len(read_findings(tmp_path)) == 1


def test_bad_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must hold a TensorBoard event file or a dump"):
        read_findings(tmp_path)
    with pytest.raises(FileNotFoundError, match="which does not exist; check the name"):
        read_findings(tmp_path / "nothing")


def _table(step: int, rows: int = 2) -> DynamicsTable:
    infos = tuple(RowInfo(f"w{i}", "all", (3,), "float32", "float32") for i in range(rows))
    values = np.full((rows, len(COLUMNS)), 0.5)
    values[:, COLUMNS.index("numel")] = 3
    return DynamicsTable(infos, values, step, optimizer="AdamW", learning_rates={"all": 0.1})


def test_a_dump_is_read_as_a_run(tmp_path: Path) -> None:
    tables = [_table(4), _table(5), _table(6, rows=3)]
    place = write_dump(tmp_path / "a", tables, [_finding()], {"reason": "a test"})
    assert place == tmp_path / "a"
    history = read_dynamics(place)
    assert history.steps == (4, 5, 6)
    assert [len(table.rows) for table in history] == [2, 2, 3]
    assert history[0]["w1", "grad_rms"] == 0.5
    assert read_findings(place) == [_finding()]
    assert json.loads((place / "findings.json").read_text())["reason"] == "a test"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_dump_never_overwrites_another(tmp_path: Path) -> None:
    places = [write_dump(tmp_path / "a", [_table(4)], [], {}) for _ in range(3)]
    assert [place.name for place in places] == ["a", "a-1", "a-2"]


def test_without_tensorboard_a_dump_has_its_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    place = write_dump(tmp_path / "a", [_table(4)], [_finding()], {})
    assert [path.name for path in place.iterdir()] == ["findings.json"]
    assert read_findings(place) == [_finding()]


def test_dumps_inside_a_run_are_read_only_when_named(tmp_path: Path) -> None:
    run = tmp_path / "logs" / "version_0"
    for folder, steps in ((run, range(8)), (run / "health_dumps" / "a", range(4, 6))):
        write_dump(folder, [_table(step) for step in steps], [], {})
    assert len(read_dynamics(run)) == len(read_dynamics(tmp_path / "logs")) == 8
    assert len(read_dynamics(run / "health_dumps")) == 2
