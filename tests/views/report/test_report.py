"""Reports as text: what they say, how large they are, and what cannot be."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tab import HOSTILE
from helpers.tables import table, write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lightning_adapt.cli import main
from lightning_adapt.dynamics import COLUMNS
from lightning_adapt.health.offline import values_found
from lightning_adapt.views import read_dynamics
from lightning_adapt.views.report import embed, report, report_text, write_report
from lightning_adapt.views.report.numbers import EXACT, ROUNDED, decode


def bodies(html: str) -> list[bytes]:
    found = re.findall(r'<script type="text/plain" data-body="\d+">([A-Za-z0-9+/=]*)</script>', html)
    return [base64.b64decode(text) for text in found]


def index(html: str) -> Any:
    return json.loads(zlib.decompress(bodies(html)[0]))


def loud(tmp_path: Path, **fields: Any) -> Path:
    """A run that a rule finds something in."""
    values = table(["w", "v"], 1).values
    values[:, COLUMNS.index("rms_t")] = 4.0
    write(tmp_path / "loud", [table(["w", "v"], step, values=values, **fields) for step in (1, 2, 3)])
    return tmp_path / "loud"


def test_json_is_strict_and_says_what_the_tables_say(logs: Path):
    text, count = report_text([logs / "adam"], "json", judge=values_found)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    (run,) = json.loads(text, parse_constant=refuse)["runs"]
    history = read_dynamics(logs / "adam")
    last = history[-1]
    assert count == 1
    assert run["steps"] == {
        "read": len(history),
        "first": 0,
        "last": 15,
        "made": last.real_steps,
        "skipped": last.skipped_steps,
    }
    assert run["learning_rates"]["group_0"]["last"] == last.learning_rates["group_0"]
    assert run["hyperparameters"]["group_0"]["eps"]["last"] == 1e-4
    assert run["loss_scale"] == {"first": 1024.0, "last": 512.0, "min": 512.0, "max": 1024.0}
    assert run["loss"]["tag"] == "train/loss"
    for row in run["worst"]["rows"]:
        for name, value in row["statistics"].items():
            expected = last[row["parameter"], name]
            assert (value is None and np.isnan(expected)) or value == expected
    assert run["findings_from"] == "afterwards"


def test_markdown_has_summary_findings_and_worst_rows(tmp_path: Path):
    text, _ = report_text([loud(tmp_path)], "md", judge=values_found)
    assert "## " in text
    assert "- parameters: 2 with 12 elements" in text
    for finding in values_found(read_dynamics(tmp_path / "loud"), 3):
        assert finding["rule"] in text
    assert "### Worst parameters at step 3" in text
    assert len(re.findall(r"^\| [wv] \| float32 \|", text, re.M)) == 2


def test_findings_of_the_run_come_before_those_of_now(tmp_path: Path):
    from torch.utils.tensorboard import SummaryWriter

    from lightning_adapt.views.alerts import AlertsView

    folder = loud(tmp_path)
    (found, *_) = values_found(read_dynamics(folder), 2)
    told = {**found, "rule": "my-rule", "sentence": "a <b>rule</b> of the user's"}
    with SummaryWriter(str(folder)) as writer:
        AlertsView(writer).write([told], [told], 2)
    text, _ = report_text([folder], "json", judge=values_found)
    (run,) = json.loads(text)["runs"]
    assert run["findings_from"] == "training"
    assert [finding["rule"] for finding in run["findings"]] == ["my-rule"]
    html, _ = report_text([folder], judge=values_found)
    assert "a &lt;b&gt;rule&lt;/b&gt; of the user" in html
    assert index(html)["series"][0]["findings"][0]["rule"] == "my-rule"


def test_a_finding_of_many_parameters_is_told_once(tmp_path: Path):
    folder = loud(tmp_path)
    (found, *_) = values_found(read_dynamics(folder), 3)
    both = [{**found, "parameter": name} for name in ("w", "v")]
    html, _ = report_text([folder], judge=lambda tables, last_step: both)
    assert "<small>(and 1 more: v)</small>" in html


def test_a_finding_is_one_row_of_markdown_whatever_it_says(tmp_path: Path):
    folder = loud(tmp_path)
    (found, *_) = values_found(read_dynamics(folder), 3)
    odd = {**found, "sentence": "a|b\\|c \u2028 d\re <b> `f`"}
    text, _ = report_text([folder], "md", judge=lambda tables, last_step: [odd])
    (row,) = [
        line
        for line in text.splitlines()
        if "| what is wrong" not in line and line.startswith("| ") and odd["rule"] in line
    ]
    assert row.split(" | ")[3] == r"a\|b\\\|c \\u2028 d\\re &lt;b&gt; \`f\`"


def test_figures_are_exact_in_a_small_report_and_rounded_in_a_large_one(
    logs: Path, monkeypatch: pytest.MonkeyPatch
):
    history = read_dynamics(logs / "adam")
    for mantissa in (EXACT, ROUNDED):
        html, _ = report_text([logs / "adam"])
        series = index(html)["series"][0]
        assert series["mantissa"] == mantissa
        assert ("rounded, by at most 0.049 %" in html) == (mantissa == ROUNDED)
        for name, body in zip(series["columns"], series["bodies"], strict=True):
            expected = np.array([table[name] for table in history], dtype=np.float32)
            found = decode(bodies(html)[body], expected.shape, mantissa)
            np.testing.assert_allclose(found, expected, rtol=0 if mantissa == EXACT else 5e-4, equal_nan=True)
        monkeypatch.setattr(embed, "EXACT_CELLS", 8)


def test_steps_are_left_out_before_a_file_grows_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "long", [table(["a", "b"], step) for step in range(50)])
    monkeypatch.setattr(embed, "MOST_CELLS", 20)
    html, _ = report_text([tmp_path / "long"])
    assert "show 10 of the 50 steps that were read" in html
    assert index(html)["series"][0]["count"] == 10
    assert index(html)["runs"][0]["last_step"] == 49


def test_histograms_are_of_the_steps_that_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tables = [table(["a", "b"], step) for step in range(20)]
    write(tmp_path / "run", tables)
    monkeypatch.setattr(embed, "EXACT_CELLS", 8)
    monkeypatch.setattr(embed, "HISTOGRAM_CELLS", 10)
    html, _ = report_text([tmp_path / "run"])
    assert "Histograms are kept of 5 steps" in html
    kept = index(html)["series"][0]["histograms"]
    assert len(kept["steps"]) == 5
    kind = kept["kinds"]["update"]
    found = decode(bodies(html)[kind["counts"]], (5, sum(kind["lengths"])), kind["mantissa"])
    at = kind["lengths"][0]
    expected = tables[kept["steps"][2]].histograms[1, 2, 1:-1]
    first = kind["firsts"][1]
    np.testing.assert_allclose(found[2, at:], expected[first : first + kind["lengths"][1]], rtol=0.04)


@pytest.mark.slow
def test_two_hundred_parameters_and_a_thousand_steps_fit_into_ten_megabytes(tmp_path: Path):
    names = [f"layers.{i}.weight" for i in range(200)]
    walk = np.random.default_rng(1)
    values, tables = table(names, 0).values, []
    for step in range(1000):
        values = values * np.exp(walk.normal(0, 0.05, values.shape))
        tables.append(table(names, step, values=values))
    write(tmp_path / "run", tables)
    written = write_report([tmp_path / "run"], tmp_path / "r.html")
    assert written.size - written.scripts < 10e6


def test_several_runs_below_a_folder(logs: Path):
    text, count = report_text([logs, logs / "adam"], "json")
    assert count == sum(1 for path in logs.iterdir() if path.is_dir())
    assert {Path(run["run"]).name for run in json.loads(text)["runs"]} >= {"adam", "adagrad", "one"}


def test_a_folder_below_a_run_is_no_run(tmp_path: Path):
    write(tmp_path / "run", [table(["w"], 1)])
    write(tmp_path / "run" / "health_dumps" / "step-1", [table(["w"], 1)])
    assert report_text([tmp_path / "run"], "json")[1] == 1
    assert report_text([tmp_path / "run" / "health_dumps"], "json")[1] == 1


def test_two_optimizers_have_a_section_each(tmp_path: Path):
    write(tmp_path / "gan", [table(["d"], 1, optimizer="Adam"), table(["g"], 1, optimizer="Adam-1")])
    html, _ = report_text([tmp_path / "gan"])
    assert re.findall(r'data-optimizer="([^"]*)"', html) == ["Adam", "Adam-1"]


def test_what_the_log_folder_knows_of_the_model(tmp_path: Path):
    write(tmp_path / "run", [table(["w"], 1)])
    config = "model:\n  class_path: my.Model\n  init_args: {width: 64}\ntrainer: {precision: bf16-mixed}\n"
    (tmp_path / "run" / "config.yaml").write_text(config)
    text, _ = report_text([tmp_path / "run"], "md")
    assert "my.Model (width 64) with AdamW" in text.replace("\\", "")
    assert "bf16-mixed of the Trainer" in text
    for broken in ("{", "- 1", "model: 3"):
        (tmp_path / "run" / "config.yaml").write_text(broken)
        assert "its log folder does not name" in report_text([tmp_path / "run"], "md")[0]


def test_the_settings_that_lightning_leaves_in_the_folder(tmp_path: Path):
    write(tmp_path / "run", [table(["w"], 1)])
    (tmp_path / "run" / "hparams.yaml").write_text("width: 64\n_instantiator: x\ndeep: {a: 1}\n")
    assert "a model (width 64) with AdamW" in report_text([tmp_path / "run"], "md")[0]


def test_what_the_monitor_tells_of_a_run_is_in_its_event_file(logs: Path, tmp_path: Path):
    shutil.copytree(logs / "adam", tmp_path / "alone", ignore=shutil.ignore_patterns("*.yaml"))
    (run,) = json.loads(report_text([tmp_path / "alone"], "json")[0])["runs"]
    assert run["model"] == "helpers.logged.Logged"
    assert run["precision"] == "16-mixed"
    assert "helpers.logged.Logged with Adam" in report_text([tmp_path / "alone"])[0]


def test_a_run_of_skipped_steps_only(tmp_path: Path):
    write(tmp_path / "run", [table(["w"], 1, skipped=True, loss_scale=2.0, real_steps=0, skipped_steps=1)])
    for format in report.FORMATS:
        text, _ = report_text([tmp_path / "run"], format, judge=values_found)
        assert format == "json" or "No step was made" in text


def test_a_file_that_was_cut_short_is_told(tmp_path: Path):
    write(tmp_path / "run", [table(["w"], step) for step in range(5)])
    (file,) = (tmp_path / "run").iterdir()
    file.write_bytes(file.read_bytes()[:-2000])
    html, _ = report_text([tmp_path / "run"])
    assert "which was read only in part" in html


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.none() | st.integers(0, 7))
def test_a_file_that_is_cut_or_damaged_anywhere(
    tmp_path_factory: pytest.TempPathFactory, where: float, bit: int | None
):
    folder = tmp_path_factory.mktemp("damaged") / "run"
    write(folder, [table(["a", "b"], step) for step in range(4)])
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    at = int(where * len(content))
    if bit is None:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    file.write_bytes(bytes(content))
    for format in report.FORMATS:
        try:
            said = report_text([folder], format, judge=values_found)[0]
        except ValueError as error:
            said = str(error)
        # A file that was cut between two records is whole, as far as anybody can tell.
        assert re.search("read only in part|must hold tables of Optimizer", said) or bit is None


OURS = {"section", "h1", "h2", "h3", "dl", "dt", "dd", "p", "ol", "li", "span", "small", "details", "summary"}
OURS |= {"div", "table", "thead", "tbody", "tr", "th", "td"}
names = st.lists(
    st.sampled_from(["</script>", "<!--", "<script>", "&lt;", "|", "`", "\n", "\u2028", '"', "'"])
    | st.text(max_size=4),
    min_size=1,
    max_size=5,
).map("".join)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(names, min_size=1, max_size=4, unique=True), st.text(max_size=6))
@example(HOSTILE[:10], "<b>")
@example(HOSTILE[10:], "=b")
@example(["\ud800", "a\udc00"], "\ud800")
def test_any_name_is_text(tmp_path_factory: pytest.TempPathFactory, names: list[str], group: str):
    folder = tmp_path_factory.mktemp("run")
    rates = {"learning_rates": {group: 0.1}, "hyperparameters": {group: {"eps": 1e-8}}}
    write(folder, [table(names, step, **rates) for step in (1, 2)])
    html, _ = report_text([folder], judge=values_found)
    assert [row["name"] for row in index(html)["series"][0]["rows"]["rows"]] == names
    start, end = html.index("<section"), html.index("<noscript>")
    tags = set(re.findall(r"<(/?[a-zA-Z!][\w-]*)", html[start:end]))
    assert {tag.removeprefix("/") for tag in tags} <= OURS
    assert html.count("</script") == len(bodies(html)) + 2
    # Outside of names, and of the scripts, nothing but ASCII and what we write ourselves.
    assert all(letter.isprintable() or letter in "\n" for letter in html[start:end])
    run = json.loads(report_text([folder], "json")[0])["runs"][0]
    assert {row["parameter"] for row in run["worst"]["rows"]} == set(names)
    text, _ = report_text([folder], "md")
    rows = [line for line in text.splitlines() if line.startswith("|") and "float32" in line]
    assert len(rows) == len(names)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 12 for row in rows)
    assert not re.search(r"<[a-zA-Z!/]", text)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["adm"], r"`RUN` must be a log folder, got '.*adm', which does not exist; did you mean .*adam"),
        (["empty"], "`RUN` must hold a TensorBoard event file"),
        (["empty/file"], "must be a log folder, got the file"),
        (["adam", "-o", "no/such/r.html"], "must lie in a folder that exists, got 'no/such/r.html'"),
        (["adam", "-o", "."], "must be a file, got the folder"),
        (["adam", "--format", "pdf"], "`format` must be one of"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").touch()
    (tmp_path / "adam").symlink_to(logs / "adam")
    paths = [str(tmp_path / word) if at == 0 else word for at, word in enumerate(words)]
    assert main(["report", *paths]) in (1, 2)
    said = capsys.readouterr().err
    assert re.search(sentence, said)
    assert said.count("\n") == 1


def test_a_folder_that_must_not_be_written(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report.os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="must be where you may write"):
        write_report([logs / "adam"], tmp_path / "r.html")
    monkeypatch.undo()

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    (tmp_path / "r.md").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"could not be written to .*No space left"):
        write_report([logs / "adam"], tmp_path / "r.md", format="md")
    assert [path.name for path in tmp_path.iterdir()] == ["r.md"]
    assert (tmp_path / "r.md").read_text() == "old"


def test_the_command_writes_and_says_how_much(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(logs / "adam"), str(logs / "adagrad"), "-o", str(tmp_path / "r.html")]) == 0
    assert re.search(
        r"r\.html: 2 runs, \d\.\d MB, of which \d\.\d MB are the chart library", capsys.readouterr().out
    )
    assert main(["report", str(logs / "adam"), "-o", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["format"] == 1
    capsys.readouterr()
    assert main(["report", str(logs / "adam"), "--format", "md", "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("# Optimizer dynamics report\n")


def test_runs_of_one_name_keep_apart(tmp_path: Path):
    for top in ("x", "y"):
        write(tmp_path / top / "a" / "b" / "c", [table(["w"], 1)])
    text, _ = report_text([tmp_path], "json")
    assert [run["run"] for run in json.loads(text)["runs"]] == [
        (tmp_path / top / "a" / "b" / "c").resolve().as_posix() for top in ("x", "y")
    ]
