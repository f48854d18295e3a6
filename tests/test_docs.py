"""README and docs say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_adapt.dynamics import COLUMNS, STATISTICS
from lightning_adapt.recipes.landscapes.registry import LANDSCAPES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: s.name)
def test_readme_explains_every_statistic(statistic: object) -> None:
    name, unit, meaning, advice = (getattr(statistic, k) for k in ("name", "unit", "meaning", "advice"))
    meaning, advice = (text.replace("|", "\\|") for text in (meaning, advice))
    assert f"| `{name}` | {unit} | {meaning} | {advice} |" in README


def test_formulas_name_every_column() -> None:
    formulas = (ROOT / "docs" / "statistics.md").read_text()
    suffixes = {word.lstrip("…_") for word in re.findall(r"`([\w…]+)`", formulas)}
    missing = {
        column for column in COLUMNS if not any(column == s or column.endswith(f"_{s}") for s in suffixes)
    }
    assert missing <= {"numel", "grad_absmax", "first_moment_absmax", "update_absmax", "grad_zero_frac"}


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_results_have_a_section_for_each_landscape() -> None:
    """`lightning-adapt landscapes --md docs/landscapes/results.md` writes the page anew."""
    results = (ROOT / "docs" / "landscapes" / "results.md").read_text()
    assert re.findall(r"^## (.+)$", results, re.MULTILINE) == list(LANDSCAPES)


def test_make_verbs_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet without Lightning, on a small model."""
    import torch

    block = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "DynamicsProbe" in b)
    model = torch.nn.Module()
    model.layer = torch.nn.Linear(2, 1)
    printed: list[float] = []
    exec(
        block,
        {
            "model": model,
            "optimizer": torch.optim.Adam(model.parameters()),
            "data": [torch.ones(3, 2)] * 2,
            "loss": lambda model, batch: model.layer(batch).square().mean(),
            "print": printed.append,
        },
    )
    assert len(printed) == 2
    assert printed[0] > 0
