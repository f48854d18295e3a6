"""The frame around the studies: findings, the table, the pages, the command."""

from __future__ import annotations

import inspect
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from lightning_adapt import cli
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study
from lightning_adapt.recipes.landscapes.page import svg, write_html, write_markdown
from lightning_adapt.recipes.landscapes.registry import LANDSCAPES, Entry, find
from lightning_adapt.recipes.landscapes.run import (
    Result,
    attempt,
    findings_table,
    fresh,
    numbers,
    parse,
    run_one,
    show,
    sum_up,
)
from lightning_adapt.views.reader import read_dynamics

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("predicted", "measured", "tolerance", "kind", "holds"),
    [
        (100.0, 101.0, 0.01, "equal", True),
        (100.0, 102.0, 0.01, "equal", False),
        (0.0, 0.0, 0.0, "equal", True),
        (0.0, 1e-3, 1e-6, "equal", False),
        (10.0, 3.0, 0.0, "at most", True),
        (10.0, 10.5, 0.1, "at most", True),
        (10.0, 12.0, 0.1, "at most", False),
        (10.0, 12.0, 0.0, "at least", True),
        (10.0, 8.0, 0.1, "at least", False),
        (10.0, math.nan, 1.0, "at least", False),
        (math.inf, math.inf, 0.0, "equal", True),
    ],
)
def test_when_a_finding_holds(
    predicted: float, measured: float, tolerance: float, kind: str, holds: bool
) -> None:
    assert Finding("c", predicted, measured, tolerance, kind).holds is holds  # type: ignore[arg-type]


def test_absolute_difference() -> None:
    finding = Finding("c", 0.5, 0.6, 0.2, absolute=True)
    assert finding.difference == pytest.approx(0.1)
    assert numbers(finding) == ("0.5", "0.6", "1.0e-01 abs.", "±0.2 abs.")


@pytest.mark.parametrize(
    ("finding", "within"),
    [
        (Finding("c", 10.0, 10.0, 1e-6), "±1e-06"),
        (Finding("c", 0.0, 0.0, 1e-6), "±1e-06 abs."),
        (Finding("c", 10.0, 10.0, 0.0), "±0"),
        (Finding("c", 10.0, 3.0, 0.1, "at most"), "≤ 11"),
        (Finding("c", 10.0, 30.0, 0.1, "at least"), "≥ 9"),
        (Finding("c", -10.0, 30.0, 0.1, "at least"), "≥ -11"),
        (Finding("c", 10.0, 30.0, 0.1, "at least", absolute=True), "≥ 9.9"),
        (Finding("c", math.inf, math.inf, 0.0, "at least"), "≥ inf"),
    ],
)
def test_what_a_difference_may_be(finding: Finding, within: str) -> None:
    assert numbers(finding)[3] == within


def test_pages_say_what_an_interval_is_made_of(tmp_path: Path) -> None:
    findings = [
        Finding("noisy", 1.0, 1.1, 0.3, reason="3 standard errors"),
        Finding("exact", 1.0, 1.0, 1e-6, reason="rounding broke it"),
    ]
    results = [Result(_Entry("made", "Made", ""), "claim", Outcome(findings))]
    write_markdown(results, tmp_path / "p.md")
    write_html(results, tmp_path / "p.html")
    for page in ("p.md", "p.html"):
        text = (tmp_path / page).read_text()
        assert "3 standard errors" in text
        assert "±0.3" in text
        assert "rounding broke it" not in text


@pytest.mark.parametrize("entry", LANDSCAPES.values(), ids=lambda entry: entry.name)
def test_every_landscape_is_complete(entry: Entry) -> None:
    study = entry.load()
    assert study.name == entry.name
    assert study.claim
    values = yaml.safe_load(entry.config_path.read_text())
    defaults = {n: p.default for n, p in inspect.signature(study).parameters.items()}
    assert {n: list(v) if isinstance(v, tuple) else v for n, v in defaults.items()} == values
    page = (ROOT / "docs" / "landscapes" / f"{entry.name}.md").read_text()
    assert f"lightning-adapt run landscapes/{entry.name} --" in page
    exercise = re.search(rf"run landscapes/{entry.name} --(\w+)", page)
    assert exercise
    assert exercise[1] in defaults
    assert re.search(r"\(\D*\d{4}\D*\)|\d{4}", page)  # a source with its year
    assert "Source" in (study.__doc__ or "")


@pytest.mark.parametrize("entry", LANDSCAPES.values(), ids=lambda entry: entry.name)
def test_options_come_from_yaml_and_command_line(entry: Entry) -> None:
    assert isinstance(parse(entry, []), entry.load())
    with pytest.raises(ValueError, match="no_such_option"):
        parse(entry, ["--no_such_option", "1"])


def test_one_value_can_be_changed() -> None:
    study = parse(LANDSCAPES["adagrad-decay"], ["--lr", "0.5", "--steps=7"])
    assert (study.lr, study.steps, study.gradient) == (0.5, 7, 2.0)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="lr"):
        parse(LANDSCAPES["adagrad-decay"], ["--lr", "much"])


@pytest.mark.parametrize("entry", LANDSCAPES.values(), ids=lambda entry: entry.name)
def test_the_help_teaches(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", f"landscapes/{entry.name}", "--help"]) == 0
    text = capsys.readouterr().out
    study = entry.load()
    theory, _, arguments = (inspect.getdoc(study) or "").partition("\n\nArgs:")
    assert text.count(theory.partition("\n")[0].rstrip(".")) == 1
    assert theory in text
    assert arguments
    assert arguments not in text
    assert study.claim in text
    assert "--logs DIR" in text
    assert all(f"--{name}" in text for name in inspect.signature(study).parameters)


def test_the_list_of_recipes_has_one_column_of_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = {len(line) - len(line.partition("  ")[2].lstrip()) for line in lines}
    assert starts == {max(len(line.split()[0]) for line in lines) + 2}


def test_unknown_landscape() -> None:
    with pytest.raises(ValueError, match=r"`landscape` must be one of .* did you mean 'fisher'"):
        find("landscapes/fischer")


class Made(Study):
    name, claim = "made", "a <claim> that may fail"

    def run(self, lab: Lab) -> Outcome:
        findings = [Finding("one & <b>", 1.0, 1.0, 0.0), Finding("two | 2", 1.0, 2.0, 0.1, reason="<noise>")]
        curves = {"measured": ([1.0, 2.0], [1.0, 2.0]), "predicted": ([1.0, 2.0], [1.0, 2.1])}
        return Outcome(findings, [Figure("title", "x", "y", curves, log_x=False)])


class Broken(Made):
    def run(self, lab: Lab) -> Outcome:
        raise ArithmeticError("no <luck>")


class _Entry(Entry):
    def load(self) -> type[Study]:
        return {"Made": Made, "Broken": Broken, "Drawn": Drawn}[self.class_name]


@pytest.fixture
def results() -> list[Result]:
    return [attempt(_Entry("made", name, ""), None) for name in ("Made", "Broken")]


def test_the_table_tells_what_held_and_why_not(results: list[Result]) -> None:
    console = Console(file=(out := io.StringIO()), width=120)
    show(results, console)
    sum_up(results, console, 71.6)
    text = out.getvalue()
    assert "1 of 2 claims held, 72 s" in text  # of the whole command, not the sum over landscapes
    assert "made: two | 2: <noise>" in text
    assert "made failed: ArithmeticError: no <luck>" in text
    assert findings_table(results).row_count == 3  # the name and two claims


def test_a_failure_alone_has_no_table(results: list[Result]) -> None:
    show(results[1:], Console(file=(out := io.StringIO()), width=120))
    assert out.getvalue().startswith("made failed")


@pytest.mark.parametrize("width", [80, 110, 160])
def test_the_table_cuts_no_words(width: int) -> None:
    claim = "the [rows] of any coordinate's rate, deviation from lr/(|g|√t+ε), in [bold] too"
    numbers = (-1.23456e-16, 1.23456e-16, 1.23e-6)
    findings = [Finding(claim, *numbers, absolute=True), Finding(claim, *numbers, "at least")]
    results = [Result(LANDSCAPES["edge-of-stability"], "", Outcome(findings))]
    console = Console(file=(out := io.StringIO()), width=width)
    console.print(findings_table(results))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in out.getvalue()
    assert "-1.23456e-16" in out.getvalue()
    assert "±1.2e-06 abs." in out.getvalue()
    room = lines[0].index("predicted") - 4  # its cells are wider than the title
    words = [word for line in lines[3:] for word in line[:room].split()]
    assert [word for word in words if word in claim.split()] == claim.split() * 2
    assert lines[2].split() == ["edge-of-stability"]


def test_markdown_page_with_figures(results: list[Result], tmp_path: Path) -> None:
    files = write_markdown(results, tmp_path / "page.md")
    assert [file.name for file in files] == ["page.md", "page-made-1.svg"]
    text = (tmp_path / "page.md").read_text()
    assert "| two \\| 2 | 1 | 2 | 1.0e+00 | ±0.1 | **no** |" in text
    assert "![title](page-made-1.svg)" in text
    assert "It failed: ArithmeticError" in text
    assert (tmp_path / "page-made-1.svg").read_text().startswith("<svg")


def test_html_page_is_one_file_and_escapes(results: list[Result], tmp_path: Path) -> None:
    write_html(results, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "one &amp; &lt;b&gt;" in text
    assert "no &lt;luck&gt;" in text
    assert text.count("<table>") == 1  # none below a failure
    assert "<svg" in text
    assert "http://" not in re.sub(r'"http://www\.w3\.org[^"]*"', "", text)


def test_the_same_numbers_give_the_same_figure() -> None:
    figure = Made().run(Lab()).figures[0]
    assert svg(figure) == svg(figure)


def test_logs_hold_the_tables_and_the_prediction_beside(tmp_path: Path) -> None:
    entry = LANDSCAPES["adagrad-decay"]
    assert run_one(entry, tmp_path, parse(entry, ["--steps", "9"])).folder == tmp_path
    assert read_dynamics(tmp_path / "constant").steps == tuple(range(9))
    assert len(list((tmp_path / "constant-claim").glob("*tfevents*"))) == 1


class Drawn(Made):
    def run(self, lab: Lab) -> Outcome:
        for name in ("adam", "sgd"):
            for what in ("way |x|, step is 10^n", "norm (L2)"):
                lab.draw(name, what, range(3), [1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
        return Outcome([])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what TensorBoard is made of
def test_tensorboard_shows_every_chart_with_its_own_two_curves(tmp_path: Path) -> None:
    """Asked of TensorBoard itself, over a folder of two landscapes."""
    plugin, context = _custom_scalars(tmp_path, names := ("one", "two"))
    categories = json.loads(plugin.layout_impl(context, ""))["category"]
    charts = [chart for category in categories for chart in category["chart"]]
    assert len({category["title"] for category in categories}) == len(categories) == 4
    assert len(charts) == 8
    patterns = [pattern for chart in charts for pattern in chart["multiline"]["tag"]]
    shown = [curve for pattern in patterns for curve in _matches(plugin, context, pattern)]
    assert len(shown) == len(set(shown)) == 16
    assert {run.split("/")[0] for run, _ in shown} == set(names)


def _custom_scalars(folder: Path, names: tuple[str, ...]) -> tuple[Any, Any]:
    """The plugin of custom scalars over the logs of a landscape that draws, under several names."""
    from tensorboard import context
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin

    for name in names:
        run_one(_Entry(name, "Drawn", ""), folder / name / "version_0")
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    plugin = CustomScalarsPlugin(TBContext(data_provider=provider, logdir=str(folder)))
    return plugin, context.RequestContext()


def _matches(plugin: Any, context: Any, pattern: str) -> list[tuple[str, str]]:
    """Run and tag of each curve that a chart's pattern finds; TensorBoard looks in every run."""
    curves = plugin._data_provider.list_scalars(context, experiment_id="", plugin_name="scalars")
    return [(run, tag) for run, tags in curves.items() for tag in tags if re.match(pattern, tag)]


def test_each_run_of_the_command_has_folders_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--steps", "3", "--noisy_steps", "3"]
    one = tmp_path / "landscapes" / "adagrad-decay"
    for number in range(2):
        assert cli.main(["run", "landscapes/adagrad-decay", *few, "--logs", str(tmp_path)]) == 0
        assert f"--logdir {one / f'version_{number}'}\n" in capsys.readouterr().out
        assert len(list((one / f"version_{number}" / "constant-claim").glob("*tfevents*"))) == 1
    for number in range(2):
        assert cli.main(["landscapes", "adagrad-decay", "--logs", str(tmp_path)]) == 0
        place = tmp_path / "landscapes" / f"version_{number}" / "adagrad-decay"
        assert f"--logdir {place}\n" in capsys.readouterr().out
        assert (place / "constant").is_dir()


def test_a_fresh_folder_comes_after_all_others(tmp_path: Path) -> None:
    assert fresh(tmp_path / "new").name == "version_0"
    for name in ("version_2", "version_10", "version_x"):
        (tmp_path / name).mkdir()
    assert fresh(tmp_path) == tmp_path / "version_11"


def test_the_command_runs_one_and_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = ["--logs", str(tmp_path)]
    assert cli.main(["run", "landscapes/adagrad-decay", "--steps", "5", "--noisy_steps", "5", *logs]) == 0
    assert "3 of 3 claims held" in capsys.readouterr().out
    pages = ["--html", str(tmp_path / "p.html"), "--md", str(tmp_path / "p.md")]
    assert cli.main(["landscapes", "adagrad-decay", *pages, *logs]) == 0
    assert (tmp_path / "p.html").exists()
    assert (tmp_path / "p-adagrad-decay-1.svg").exists()


def _spoil(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run(self: Study, lab: Lab) -> Outcome:
        raise error

    monkeypatch.setattr(LANDSCAPES["adagrad-decay"].load(), "run", run)


RUN = ["run", "landscapes/adagrad-decay", "--logs"]


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ValueError("`lr` must be positive"), 2, "error: `lr` must be positive\n"),
        (ArithmeticError("no luck"), 1, "error: ArithmeticError: no luck (--debug shows where)\n"),
    ],
)
def test_a_failure_of_the_one_landscape_is_a_sentence(
    error: Exception,
    status: int,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _spoil(monkeypatch, error)
    assert cli.main([*RUN, str(tmp_path)]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"lightning-adapt: {sentence}"
    with pytest.raises(type(error)) as raised:
        cli.main(["--debug", *RUN, str(tmp_path)])
    assert raised.value is error


def test_among_several_a_failure_is_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, ValueError("`lr` must be positive"))
    assert cli.main(["landscapes", "adagrad-decay", "--logs", str(tmp_path)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "adagrad-decay failed: ValueError: `lr` must be positive" in out
    assert "--debug run landscapes/adagrad-decay" in out


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["run", "landscapes/fischer"], 2, "did you mean 'fisher'"),
        (["landscapes", "fischer"], 2, "did you mean 'fisher'"),
        (["run", "landscapes/adagrad-decay", "--lrr", "1"], 2, "lrr"),
        (["landscapes", "--html", "no/such/folder/p.html"], 1, "make it first"),
    ],
)
def test_bad_words(words: list[str], status: int, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == status
    assert sentence in capsys.readouterr().err
