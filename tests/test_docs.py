"""README and docs say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

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


PIECES = re.findall(
    r"^## (.+?)\n.*?```python\n(.*?)```",
    (ROOT / "docs" / "mixed-precision.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
)
@pytest.mark.parametrize("block", [block for _, block in PIECES], ids=[title for title, _ in PIECES])
def test_python_about_mixed_precision_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lightning.pytorch as pl
    import torch
    from torch.utils.data import DataLoader

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(2, 1)

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), fused=True)

        def train_dataloader(self) -> DataLoader[torch.Tensor]:
            return DataLoader(list(torch.ones(16, 2)), batch_size=2)  # type: ignore[arg-type]

    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    monkeypatch.setattr(pl, "Trainer", lambda **given: Trainer(**options, **quiet, **given))
    monkeypatch.chdir(tmp_path)
    exec(block, {"model": Model()})
    for expected in re.findall(r"print\(.*\)  # (\d+)$", block, re.MULTILINE):
        assert expected in capsys.readouterr().out.splitlines()


def test_every_piece_about_mixed_precision_has_an_example() -> None:
    from lightning_adapt import callbacks

    shown = "".join(block for _, block in PIECES)
    public = {
        name for name in callbacks.__all__ if name[0].isupper() and not name.endswith(("Error", "Warning"))
    }
    assert {name for name in public if name not in shown} == {"OptimizerDynamicsMonitor"}
