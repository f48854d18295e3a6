"""Tables through an event file and back, and what damaged or foreign folders say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from lightning_adapt.dynamics import COLUMNS, DynamicsHistory, DynamicsTable, RowInfo
from lightning_adapt.dynamics.histograms import HISTOGRAMS, WIDTH
from lightning_adapt.views.event_file import FORMAT, describe_table, from_parts, tag_of, to_summary
from lightning_adapt.views.reader import read_dynamics
from lightning_adapt.views.scalars import ScalarPlan
from lightning_adapt.views.tensorboard import TensorBoardView


def make_table(
    names: tuple[str, ...] = ("a.weight", "a.bias"), step: int = 3, **fields: Any
) -> DynamicsTable:
    generator = np.random.default_rng(step)
    rows = tuple(RowInfo(name, "decay", (2, 3), "float32", "bfloat16") for name in names)
    counts = np.zeros((len(rows), len(HISTOGRAMS), WIDTH), dtype=np.int32)
    counts[:, :, 250:260] = generator.integers(0, 9, (len(rows), len(HISTOGRAMS), 10))
    values = generator.random((len(rows), len(COLUMNS)))
    values[0, 3] = np.nan
    values[:, COLUMNS.index("numel")] = 6
    defaults: dict[str, Any] = {
        "histograms": counts,
        "optimizer": "AdamW",
        "learning_rates": {"decay": 0.01, "no_decay": 0.02},
        "hyperparameters": {"decay": {"eps": 1e-8, "beta2": 0.999, "fused": 1.0}, "no/decay": {"eps": 1e-8}},
        "loss_scale": 1024.0,
        "real_steps": 3,
        "skipped_steps": 1,
        "global_step": 4,
    }
    return DynamicsTable(rows=rows, values=values, step=step, **{**defaults, **fields})


def write(folder: Path, *tables: DynamicsTable) -> None:
    with SummaryWriter(str(folder)) as writer:
        view = TensorBoardView(writer)
        for table in tables:
            plan = ScalarPlan.of(table, prefix="dynamics", worst=3, max_tags=100)
            view.write(table, plan)


def assert_same(found: DynamicsTable, expected: DynamicsTable) -> None:
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-7, equal_nan=True)
    if expected.histograms is None:
        assert found.histograms is None
    else:
        np.testing.assert_array_equal(found.histograms, expected.histograms)
    for field in dataclasses.fields(DynamicsTable):
        if field.name not in ("values", "histograms"):
            assert getattr(found, field.name) == getattr(expected, field.name), field.name


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"loss_scale": None, "global_step": None},
        {"skipped": True},
        {"histograms": None},
        {"update_source": "predicted", "learning_rates": {}, "hyperparameters": {}},
    ],
)
def test_a_table_comes_back_as_it_was(fields: dict[str, Any], tmp_path: Path) -> None:
    table = make_table(**fields)
    write(tmp_path, table)
    history = read_dynamics(tmp_path)
    assert len(history) == 1
    assert_same(history[0], table)


def test_history_is_sorted_and_of_several_optimizers(tmp_path: Path) -> None:
    tables = [make_table(step=s, optimizer=o) for s in (9, 3, 6) for o in ("AdamW", "SGD")]
    write(tmp_path, *tables)
    history = read_dynamics(tmp_path)
    assert [(t.step, t.optimizer) for t in history] == [(s, o) for s in (3, 6, 9) for o in ("AdamW", "SGD")]
    assert history.of("SGD").steps == (3, 6, 9)
    assert history.latest is history[-1]
    assert len(history[:2]) == 2
    assert "6 tables of AdamW, SGD, steps 3 to 9" in repr(history)
    frame = history.to_pandas()
    assert frame.loc[("SGD", 6, "a.bias"), "grad_rms"] == pytest.approx(tables[5]["a.bias", "grad_rms"])
    with pytest.raises(KeyError, match="did you mean 'AdamW'"):
        history.of("Adam")


def test_an_empty_history() -> None:
    history = DynamicsHistory([])
    assert history.latest is None
    assert len(history.to_pandas()) == 0
    assert repr(history) == "DynamicsHistory(0 tables of nothing)"


def test_rows_that_change_get_a_tag_of_their_own(tmp_path: Path) -> None:
    one, two = make_table(step=1), make_table(("a.weight", "a.bias", "b.weight"), step=2)
    assert tag_of(one) != tag_of(two)
    assert tag_of(one) == tag_of(make_table(step=5))
    write(tmp_path, one, two)
    assert [len(table.rows) for table in read_dynamics(tmp_path)] == [2, 3]


def test_a_later_file_wins_where_steps_overlap(tmp_path: Path) -> None:
    write(tmp_path, make_table(step=1), make_table(step=2))
    write(tmp_path, make_table(step=2, loss_scale=7.0), make_table(step=3))
    history = read_dynamics(tmp_path)
    assert history.steps == (1, 2, 3)
    assert [table.loss_scale for table in history] == [1024.0, 7.0, 1024.0]


def test_a_folder_above_one_run_is_that_run(tmp_path: Path) -> None:
    write(tmp_path / "lightning_logs" / "version_0", make_table())
    assert len(read_dynamics(tmp_path)) == 1
    write(tmp_path / "lightning_logs" / "version_1", make_table())
    with pytest.raises(ValueError, match=r"2 runs below it; pass one of: lightning_logs/version_0, "):
        read_dynamics(tmp_path)


def test_folders_without_tables(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        read_dynamics(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="must hold a TensorBoard event file"):
        read_dynamics(tmp_path)
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss", 1.0, 0)
    with pytest.raises(ValueError, match="add the callback to the Trainer"):
        read_dynamics(tmp_path)


@pytest.mark.parametrize("cut", [1, 100, 2000])
def test_a_truncated_file_is_read_as_far_as_it_goes(cut: int, tmp_path: Path) -> None:
    write(tmp_path, *(make_table(step=s) for s in range(5)))
    (file,) = tmp_path.glob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.warns(RuntimeWarning, match="is being written, or was cut short"):
        history = read_dynamics(tmp_path)
    assert 3 <= len(history) <= 5
    assert_same(history[0], make_table(step=0))


def test_a_corrupt_file_warns_and_keeps_what_was_sound(tmp_path: Path) -> None:
    write(tmp_path, *(make_table(step=s) for s in range(5)))
    (file,) = tmp_path.glob("*tfevents*")
    with open(file, "ab") as stream:
        RecordWriter(stream).write(b"no event at all")
    with pytest.warns(RuntimeWarning, match=r"read only in part, 5 tables: a record is no event"):
        history = read_dynamics(tmp_path)
    assert len(history) == 5


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    write(tmp_path, *(make_table(step=s) for s in range(12)))
    (file,) = tmp_path.glob("*tfevents*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"read only in part, \d tables: a record is damaged") as told:
        history = read_dynamics(tmp_path)
    assert len(told) == 1
    assert 0 < len(history) < 12
    content[20] ^= 255  # the very first record
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"event files that can be read, got .* 0 tables: a record is damaged"
    ):
        read_dynamics(tmp_path)


@pytest.mark.parametrize("content", [b"junk", b"much more junk than one head of a record has"])
def test_a_file_that_is_no_event_file_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    with pytest.raises(ValueError, match="must hold event files that can be read"):
        read_dynamics(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"update_source": "predicted"},
        {"learning_rates": {"other": 0.1}},
        {"hyperparameters": {"decay": {"momentum": 0.9}}},
    ],
)
def test_what_is_described_once_has_a_version_of_its_own(change: dict[str, Any], tmp_path: Path) -> None:
    tables = [make_table(step=0), make_table(step=1, **change)]
    write(tmp_path, *tables)
    for table, again in zip(tables, read_dynamics(tmp_path), strict=True):
        assert again.update_source == table.update_source
        assert again.learning_rates == table.learning_rates
        assert again.hyperparameters == table.hyperparameters


def test_hyperparameters_may_change_from_step_to_step(tmp_path: Path) -> None:
    betas = [0.8, 0.85, 0.9, 0.95, 0.99]
    tables = [make_table(step=s, hyperparameters={"all": {"beta1": beta}}) for s, beta in enumerate(betas)]
    assert len({tag_of(table) for table in tables}) == 1
    write(tmp_path, *tables)
    assert [t.hyperparameters["all"]["beta1"] for t in read_dynamics(tmp_path)] == betas


def test_files_without_hyperparameters_load() -> None:
    content = {
        "format": FORMAT,
        "optimizer": "AdamW",
        "columns": COLUMNS,
        "rows": [["w", "decay", [2], "float32", "float32", 1]],
        "histograms": [],
        "header": ["real_steps", "skipped_steps", "global_step", "loss_scale", "skipped", "lr/decay"],
        "update_source": "measured",
    }
    header = np.array([3.0, 0.0, np.nan, np.nan, 0.0, 0.01])
    columns = {f"column/{name}": np.ones(1, dtype=np.float32) for name in COLUMNS}
    table = from_parts(json.dumps(content).encode(), 3, {"header": header, **columns})
    assert table.rows == (RowInfo("w", "decay", (2,), "float32", "float32"),)
    assert table.learning_rates == {"decay": 0.01}
    assert table.hyperparameters == {}


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4097**2), ("complex64", 2 * 4097**2)])
def test_sizes_are_exact(dtype: str, size: int, tmp_path: Path) -> None:
    table = make_table(("w",))
    table.values[0, COLUMNS.index("numel")] = size
    table = dataclasses.replace(table, rows=(RowInfo("w", shape=(4097, 4097), dtype=dtype),))
    write(tmp_path, table)
    assert read_dynamics(tmp_path)[0]["w", "numel"] == size


def test_metadata_is_written_once() -> None:
    table = make_table()
    assert to_summary(table, describe=True).value[0].metadata.plugin_data.plugin_name == "lightning_adapt"
    assert not to_summary(table, describe=False).value[0].HasField("metadata")


def test_parts_that_do_not_fit_are_refused() -> None:
    content = describe_table(make_table())
    header = np.zeros(len(json.loads(content)["header"]))
    with pytest.raises(ValueError, match="columns do not fit its 2 described rows"):
        from_parts(content, 1, {"header": header})
    with pytest.raises(ValueError, match=r"shorter|longer"):
        from_parts(content, 1, {"header": header[:3]})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"format": 1}', "format 1 were written by another version of lightning-adapt"),
        (b"[]", "without a sound description"),
        (f'{{"format": {FORMAT}, "rows": 3}}'.encode(), "without a sound description"),
    ],
)
def test_what_another_version_wrote_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_parts(content, 1, {})
