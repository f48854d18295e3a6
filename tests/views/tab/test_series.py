"""Tables of several row sets, resumed runs and damage, put on one axis."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers.kept import Kept, Logs, series_of
from helpers.tables import table

from lightning_adapt.dynamics import COLUMNS, DynamicsTable, RowInfo


def f32(values: Any) -> Any:
    return np.asarray(values, dtype=np.float32)


def counts(each: DynamicsTable) -> Any:
    assert each.histograms is not None
    return each.histograms


def test_columns_steps_and_rows_are_those_of_the_tables():
    tables = [table(["a.w", "a.b"], step) for step in (1, 5, 7)]
    series = series_of(*tables)
    assert series.steps == [1, 5, 7]
    assert [row.name for row in series.rows] == ["a.w", "a.b"]
    assert series.columns == COLUMNS
    for name in ("grad_rms", "eps_floor_frac"):
        np.testing.assert_array_equal(series.column(name), f32([t[name] for t in tables]))
    np.testing.assert_array_equal(series.at_step(5), f32(tables[1].values.T))
    np.testing.assert_array_equal(series.of_row(1), f32([t.values[1] for t in tables]).T)
    np.testing.assert_array_equal(series.histograms(1), [counts(each)[1] for each in tables])
    names, header = series.header()
    assert header[:, names.index("lr/decay")].tolist() == [0.01, 0.05, 0.07]
    assert header[:, names.index("hyper/decay/eps")].tolist() == [1e-3] * 3


def test_the_later_writing_of_a_step_stays_in_whatever_order_it_is_read():
    old, new = table(["a"], 2), dataclasses.replace(table(["a"], 2), values=table(["a"], 99).values)
    logs = Logs()
    for each, time in ((new, 9.0), (table(["a"], 3), 10.0), (table(["a"], 1), 0.0), (old, 1.0)):
        logs.add(each, time)
    series = logs.series()
    assert series.steps == [1, 2, 3]
    assert series.written == [0.0, 9.0, 10.0]
    assert series.column("grad_rms")[1, 0] == np.float32(new["a", "grad_rms"])


def test_row_sets_that_differ_are_matched_by_name():
    one, two = table(["a", "b"], 1), table(["b", "c", "a"], 2)
    three = table(["c"], 3)
    series = series_of(one, two, three)
    assert [row.name for row in series.rows] == ["a", "b", "c"]
    column, nan = series.column("grad_rms"), np.nan
    expected = [
        [*one["grad_rms"], nan],
        [two["a", "grad_rms"], two["b", "grad_rms"], two["c", "grad_rms"]],
        [nan, nan, three["c", "grad_rms"]],
    ]
    np.testing.assert_array_equal(column, f32(expected))
    assert series.histograms(2)[0].sum() == 0
    np.testing.assert_array_equal(series.histograms(0)[1], counts(two)[2])
    np.testing.assert_array_equal(series.of_row(2)[:, 2], f32(three.values[0]))


def test_a_row_is_described_as_it_was_last():
    wide = dataclasses.replace(table(["a"], 2), rows=(RowInfo("a", "decay", (4097, 4097), "bfloat16"),))
    series = series_of(table(["a"], 1), wide)
    assert series.rows[0].dtype == "bfloat16"
    assert series.sizes == (4097**2,)


def test_equal_names_stay_two_rows():
    each = table(["w", "w"], 1)
    np.testing.assert_array_equal(series_of(each).column("grad_rms")[0], f32(each["grad_rms"]))


def test_a_damaged_column_is_left_out():
    logs = Logs()
    logs.add(table(["a", "b"], 1), 0.0)
    (tag,) = (tag for tag in logs.data if tag.endswith("column/grad_rms"))
    logs.data[tag][0].numpy = np.zeros(5, np.float32)
    assert np.isnan(logs.series().column("grad_rms")).all()


class Broken:
    """What a data provider gives for a tensor that was damaged on the disk."""

    step, wall_time = 2, 1.0

    @property
    def numpy(self) -> Any:
        raise ValueError("cannot reshape array of size 2 into shape (0,)")


def test_what_cannot_be_read_is_left_out_and_the_rest_is_shown():
    logs, tables = Logs(), [table(["a", "b"], step) for step in (1, 2)]
    for time, each in enumerate(tables):
        logs.add(each, float(time))
    for tag, data in logs.data.items():
        if tag.endswith(("/header", "column/grad_rms")):
            data[1] = Broken()
        if tag.endswith("histograms/0"):
            data[1] = Kept(2, 1.0, np.frombuffer(b"no histogram at all", np.uint8))
    series = logs.series()
    assert series.steps == [1, 2]
    names, header = series.header()
    assert header[0, names.index("lr/decay")] == 0.01
    assert np.isnan(header[1]).all()
    np.testing.assert_array_equal(series.column("grad_rms"), f32([tables[0]["grad_rms"], [np.nan] * 2]))
    np.testing.assert_array_equal(series.column("rms_t"), f32([each["rms_t"] for each in tables]))
    assert np.isnan(series.at_step(2)).sum() == np.isnan(series.of_row(1)).sum() * 2 == 2
    np.testing.assert_array_equal(series.histograms(1)[0], counts(tables[0])[1])
    assert series.histograms(1)[1].sum() == 0


def test_a_statistic_that_only_one_version_has():
    few = ("numel", "grad_rms")
    short = dataclasses.replace(table(["a"], 1), values=np.ones((1, 2)), columns=few)
    series = series_of(short, table(["a"], 2))
    assert np.isnan(series.column("rms_t")[0, 0])
    assert not np.isnan(series.column("rms_t")[1, 0])
    assert series.columns == COLUMNS


def test_only_what_is_on_view_is_read(monkeypatch: pytest.MonkeyPatch):
    logs = Logs()
    for step in range(3):
        logs.add(table([f"p{i}" for i in range(300)], step), float(step))
    series = logs.series()
    logs.asked.clear()
    series.column("grad_rms")
    assert [len(tags) for tags in logs.asked] == [1]
    logs.asked.clear()
    series.histograms(299)
    assert [[tag.rpartition("/")[2] for tag in tags] for tags in logs.asked] == [["2"]]
    monkeypatch.setattr("lightning_adapt.views.tab.series._AT_ONCE", 3 * 300 * 4 * 11)
    logs.asked.clear()
    full = series.at_step(1)
    assert [len(tags) for tags in logs.asked] == [11, 11, len(COLUMNS) - 22]
    np.testing.assert_array_equal(full, f32(table([f"p{i}" for i in range(300)], 1).values.T))
