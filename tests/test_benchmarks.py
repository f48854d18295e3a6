"""Each benchmark runs and writes sound JSON; nothing here says how fast anything is."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


def _run(name: str, folder: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / f"bench_{name}.py"), "--quick", "--threads", "1"]
    command += ["--device", "cpu", "--results", str(folder), "--repetitions", "1", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((folder / f"{name}-cpu-quick.json").read_text())
    return result


def _sound(result: dict[str, Any], *columns: str) -> None:
    assert result["quick"]
    assert result["bars"] == {}  # a quick run proves nothing
    assert result["machine"]["threads"] == 1
    assert {"cpu", "cores", "torch", "python"} <= set(result["machine"])
    assert result["tables"]
    for table in result["tables"]:
        assert table["rows"]
        for row in table["rows"]:
            assert list(row) == list(table["rows"][0])
            assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
    for row in result["tables"][0]["rows"]:
        assert all(row[column] > 0 for column in columns)


@pytest.mark.slow
def test_engines(tmp_path: Path) -> None:
    result = _run("engines", tmp_path)
    _sound(result, "ms", "GB/s", "of copy", "× AdamW")
    rows = result["tables"][0]["rows"]
    assert {row["engine"] for row in rows} == {"eager", "numba", "reference"}
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16", "float16"}


@pytest.mark.slow
def test_overhead(tmp_path: Path) -> None:
    result = _run("overhead", tmp_path)
    _sound(result, "× step", "× window", "ms without")
    rows = result["tables"][0]["rows"]
    assert [(row["recipe"], row["every"]) for row in rows] == [
        ("nlp/char-lm", 1),
        ("nlp/char-lm", 20),
        ("gnn/node-classification", 1),
        ("gnn/node-classification", 10),
    ]


@pytest.mark.slow
def test_memory(tmp_path: Path) -> None:
    result = _run("memory", tmp_path)
    _sound(result, "state MB", "buffers MB")
    assert [row["engine"] for row in result["tables"][0]["rows"]] == ["eager", "numba"]


@pytest.mark.slow
@pytest.mark.browser
def test_tab(tmp_path: Path) -> None:
    result = _run("tab", tmp_path)
    _sound(result, "file MB")
    start = result["tables"][1]["rows"][0]
    assert 0 < start["least"] <= start["median"]
    if not result["notes"]:
        assert all(
            result["tables"][0]["rows"][0][each] > 0 for each in ("first s", "switch s", "TensorBoard MB")
        )


@pytest.mark.slow
def test_peers_that_are_not_there_are_named(tmp_path: Path) -> None:
    """Inside an environment without peers: what can run runs, the others are said to be missing."""
    result = _run("peers", tmp_path, "--inside", "--missing", "wandb could not be installed: no network")
    _sound(result, "figures", "ms", "× AdamW")
    names = [row["what"] for row in result["tables"][0]["rows"]]
    assert {"lightning-adapt, full table", "Lightning grad_norm"} <= set(names)
    assert "wandb could not be installed: no network" in result["notes"]
    told = " ".join(result["notes"])
    assert all(peer in names or peer in told for peer in ("Composer OptimizerMonitor", "wandb.watch, all"))


def _load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_tensors_are_those_of_gpt2(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    tensors = _load("_tensors", monkeypatch)
    config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=5)
    model = transformers.GPT2Model(config)
    shapes = tensors.gpt2_shapes(layers=2, width=8, vocabulary=11, context=5)
    assert shapes == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    full = tensors.gpt2_shapes()
    assert (len(full), sum(math.prod(shape) for shape in full.values())) == (148, 124_439_808)


def test_a_reading_of_the_bench_is_the_probe_s(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from lightning_adapt.dynamics import DynamicsProbe

    tensors = _load("_tensors", monkeypatch)
    bench = tensors.Bench(tensors.equal_shapes(4000, 4))
    with DynamicsProbe(bench.optimizer, bench.named.items(), snapshot=False, engine="eager") as probe:
        bench.step()
    assert probe.table is not None
    measured = bench.read(tensors.engines("cpu", bench.numel)["eager"]).table()
    np.testing.assert_array_equal(measured.values, probe.table.values)
    assert bench.bytes_to_read() == 4 * 4 * bench.numel
    assert bench.state_bytes() == 2 * 4 * bench.numel


RESULT: dict[str, Any] = {
    "made": "2026-01-02",
    "machine": {"cpu": "some", "threads": 2},
    "name": "engines",
    "device": "cpu",
    "quick": False,
    "tables": [
        {"title": "Engines", "about": "All.", "rows": [{"engine": "numba", "ms": 1234.5, "x": 0.98765}]}
    ],
    "bars": {"cpu_step": 3.0},
    "notes": ["too large"],
}


def test_the_page_is_filled_from_results(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _load("page", monkeypatch)
    text = "".join(
        f"<!-- {name} -->\nstale\n<!-- end -->\n" for name in ("bars", "unmeasured", "engines-cpu", "x")
    )
    filled = page.filled(f"before\n{text}after", [RESULT])
    assert "| numba | 1,234 | 0.988 |" in filled
    assert "Made 2026-01-02: cpu some, threads 2." in filled
    assert "- too large" in filled
    assert "does not hold" in filled
    assert "÷ a fused AdamW step" not in filled.split("<!-- unmeasured -->")[1]
    assert "stale" not in filled
    assert "Not measured yet" in filled.split("<!-- x -->")[1]
    assert filled.startswith("before")
    assert filled.endswith("after")
    assert page.filled(filled, [RESULT]) == filled
    assert "numba" not in page.filled(text, [RESULT | {"quick": True}])


def test_what_is_outdated_is_shown_and_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _load("page", monkeypatch)
    text = "".join(f"<!-- {name} -->\n<!-- end -->\n" for name in ("bars", "unmeasured", "engines-cpu"))
    filled = page.filled(text, [RESULT | {"outdated": "much has changed"}])
    bars, left, tables = filled.split("<!-- end -->")[:3]
    assert "Not measured yet" in bars
    assert "÷ a fused AdamW step on the same tensors, ≤ 2.5 (aim 1.5) (3 in an outdated measurement)" in left
    assert "**Outdated:** much has changed." in tables
    assert "| numba | 1,234 | 0.988 |" in tables


def test_no_figure_of_a_page_is_typed_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _load("page", monkeypatch)
    results = [json.loads(path.read_text()) for path in sorted((BENCHMARKS / "results").glob("*.json"))]
    for name, bars in page.PAGES.items():
        text = (ROOT / "docs" / name).read_text()
        assert page.filled(text, results, bars) == text, f"run `benchmarks/page.py` for {name}"


def test_the_page_has_a_place_for_every_benchmark() -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("performance.md", "diagnosis.md")]
    page = "".join(pages)
    for path in BENCHMARKS.glob("bench_*.py"):
        # TensorBoard, a browser and a diagnosis have nothing to do with a GPU.
        for device in ("cpu",) if path.stem in ("bench_tab", "bench_diagnosis") else ("cpu", "cuda"):
            assert f"<!-- {path.stem.removeprefix('bench_')}-{device} -->" in page


def test_a_ratio_is_taken_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = _load("_measure", monkeypatch)
    # The machine becomes ten times slower: medians of the times alone would say 2 to 20.
    assert measure.ratio({"a": [2.0, 20.0, 20.0], "b": [1.0, 10.0, 10.0]}, "a", "b") == (2.0, 2.0, 2.0)
    order: list[str] = []
    times = measure.interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repetitions=2, device="cpu"
    )
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}


def test_bars_hold_on_the_right_side(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = _load("_bars", monkeypatch).BARS
    assert bars["cpu_step"].holds(2.5)
    assert not bars["cpu_step"].holds(2.6)
    assert bars["cpu_composer"].holds(6.0)
    assert not bars["cpu_composer"].holds(5.9)


def test_a_busy_machine_judges_no_bar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measure = _load("_measure", monkeypatch)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for given, kept in ((0.5, {}), (1.0, {"cpu_step": 3.0})):
        monkeypatch.setattr(measure, "cores_given", lambda: 1.0)
        result = measure.Result("engines", "cpu", False, bars={"cpu_step": 3.0})
        written = json.loads(measure.finish(result, tmp_path, given).read_text())
        assert written["bars"] == kept
        assert bool(written["notes"]) == (not kept)
