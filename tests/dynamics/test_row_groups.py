"""One parameter as several rows: the parts come together to the whole, and bad groups are told."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers.cases import Case, all_optimizers, train_rows
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.dynamics import DynamicsProbe, DynamicsTable, RowGroups, split_row
from lightning_adapt.dynamics.engines import eager
from lightning_adapt.dynamics.engines.packed import COUNTS, SUMS
from lightning_adapt.dynamics.statistics import COLUMNS
from lightning_adapt.views.rollup import summarise

ROWS = 7


def _read(groups: Any, *, cls: Any = torch.optim.AdamW, **options: Any) -> DynamicsTable:
    torch.manual_seed(0)
    model = nn.ModuleDict({"embed": nn.Embedding(ROWS, 3), "head": nn.Linear(3, 2)})
    optimizer = cls(model.parameters(), lr=0.01)
    with DynamicsProbe(optimizer, model, row_groups=groups, strict=True, **options) as probe:
        for tokens in ([0, 0, 1, 2], [0, 1, 5]):
            optimizer.zero_grad()
            model["head"](model["embed"](torch.tensor(tokens))).square().sum().backward()
            optimizer.step()
    assert probe.table is not None
    return probe.table


def test_names_and_sizes_stand_in_place_of_the_parameter() -> None:
    table = _read({"embed.weight": {"frequent": [0], "rare": torch.tensor([2, 5])}})
    assert table.names == (
        "embed.weight[frequent]",
        "embed.weight[rare]",
        "embed.weight[rest]",
        "head.weight",
        "head.bias",
    )
    assert [row.shape for row in table.rows] == [(1, 3), (2, 3), (4, 3), (2, 3), (2,)]
    assert table["numel"].tolist() == [3, 6, 12, 6, 2]
    assert {row.state_dtype for row in table.rows} == {"float32"}


@pytest.mark.parametrize("snapshot", [True, False], ids=["measured", "predicted"])
@all_optimizers
def test_groups_come_together_to_the_whole(case: Case, snapshot: bool) -> None:
    for rows, _ in train_rows(case, torch.float32, steps=2, snapshot=snapshot):
        for row in (row for row in rows if row.parameter.dim() and row.parameter.numel()):
            index = torch.randperm(len(row.parameter), generator=torch.Generator().manual_seed(1))
            parts = list(split_row(row, {"a": index[:1], "b": index[1:]}))
            whole, pieces = eager.measure([row]), eager.measure(parts)
            assert whole.counts is not None
            assert pieces.counts is not None
            assert torch.equal(pieces.counts.sum(0), whole.counts[0])
            added = len(COUNTS) + len(SUMS)
            found, expected = pieces.figures.numpy(), whole.figures[0].numpy()
            np.testing.assert_array_equal(found[:, : len(COUNTS)].sum(0), expected[: len(COUNTS)])
            np.testing.assert_allclose(found[:, :added].sum(0), expected[:added], rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(found[:, added:].max(0), expected[added:])


def test_the_table_rolls_up_to_the_same_figures() -> None:
    plain = summarise(_read(None))
    grouped = summarise(_read({"embed.weight": {"frequent": [0, 1], "rare": [2]}, "head.bias": {"one": [1]}}))
    for column in set(COLUMNS) - {"snr_mean"}:  # a mean over elements with a second moment, rolled up by all
        assert grouped[column] == pytest.approx(plain[column], rel=1e-12, nan_ok=True), column


def test_each_group_has_its_own_figures() -> None:
    table = _read(
        {"embed.weight": {"frequent": [0], "once": [2, 5], "never": [3, 4, 6]}}, cls=torch.optim.Adagrad
    )
    frequent, once, never = (f"embed.weight[{name}]" for name in ("frequent", "once", "never"))
    assert table[never, "eps_floor_untouched_frac"] == 1.0
    assert table[never, "update_rms"] == 0.0
    assert table[once, "grad_zero_frac"] == 0.5  # row 5 in this batch, row 2 in the one before
    assert table[frequent, "effective_lr_p50"] < table[once, "effective_lr_p50"]
    assert table[once, "effective_lr_max"] < table[never, "effective_lr_min"]


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (torch.tensor([2, 0, 0, 2, 2, 0, 2]), ["0", "2"]),
        (torch.tensor([1, -1, -1, 1, 1, 0, 1], dtype=torch.int32), ["0", "1", "rest"]),
        ({"even": torch.arange(ROWS) % 2 == 0, "odd": torch.arange(ROWS) % 2 == 1}, ["even", "odd"]),
        ({"rest": range(ROWS)}, ["rest"]),
        ({"some": [6]}, ["some", "rest"]),
    ],
    ids=["numbers", "numbers, some in none", "masks", "all named rest", "indices"],
)
def test_ways_to_say_it(groups: Any, names: list[str]) -> None:
    table = _read({"embed.weight": groups})
    assert list(table.names[: len(names)]) == [f"embed.weight[{name}]" for name in names]
    assert table["numel"][: len(names)].sum() == 3 * ROWS


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ({"embed.wait": {"a": [0]}}, "did you mean 'embed.weight'?"),
        ({"embed.weight": {"a": [ROWS]}}, "fit the 7 rows of 'embed.weight', got an index out of range"),
        ({"embed.weight": {"a": [-1]}}, "indices count from 0 to 6"),
        ({"embed.weight": torch.zeros(3, dtype=torch.int64)}, "got 3 entries"),
        ({"embed.weight": {"a": torch.ones(8, dtype=torch.bool)}}, "got 8 entries"),
        ({"embed.weight": {"a": [0, 1], "b": [1]}}, "each row once, got some twice"),
        ({"embed.weight": {"a": [0, 0]}}, "each row once, got some twice"),
        ({"embed.weight": {"a": []}}, "rows in each group, got none in embed.weight[a]"),
        ({"embed.weight": {}}, "must have groups, got none"),
        ({"embed.weight": torch.full((ROWS,), -1)}, "must have groups, got none"),
        ({"embed.weight": {"a": [0.5]}}, "whole numbers in one dimension, got float32"),
        ({"embed.weight": {"a": [[0]]}}, "shape (1, 1) for 'embed.weight[a]'"),
        ({"embed.weight": torch.ones(ROWS, dtype=torch.bool)}, "got bool of shape (7,)"),
        ({"embed.weight": {"rest": [0]}}, "must not call a group 'rest'"),
        (
            {"embed.weight": {"a": torch.arange(7) > 5, "b": torch.arange(8) > 7}},
            "masks of one length, got [7, 8]",
        ),
    ],
)
def test_bad_groups(groups: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        _read(groups)


def test_a_single_number_has_no_rows() -> None:
    with pytest.raises(ValueError, match="a single number"):
        RowGroups({"scale": {"a": [0]}}, {"scale": ()})


def test_indices_go_to_the_device_once() -> None:
    groups = RowGroups({"w": {"a": [0]}}, {"w": (2,)})
    cpu = torch.device("cpu")
    assert groups._indices("w", cpu) is groups._indices("w", cpu)
    assert groups.names == ("w[a]", "w[rest]")


class _Words(LightningModule):
    """Two optimizers, each with an embedding."""

    def __init__(self, two: bool) -> None:
        super().__init__()
        self.two, self.automatic_optimization = two, not two
        self.left, self.right = nn.Embedding(ROWS, 2), nn.Embedding(ROWS, 2)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.tensor([0, 1] * 3), batch_size=2)  # type: ignore[arg-type]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = (self.left(batch) + self.right(batch)).square().sum()
        if self.two:
            self.manual_backward(loss)
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        if not self.two:
            return torch.optim.Adagrad(self.parameters(), lr=0.1)
        return [torch.optim.Adagrad(part.parameters(), lr=0.1) for part in (self.left, self.right)]


def _fit(monitor: OptimizerDynamicsMonitor, module: LightningModule) -> None:
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)


def test_a_learning_rate_of_one_element() -> None:
    model = torch.nn.Linear(2, 4, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor([0.01]), foreach=False)
    with DynamicsProbe(optimizer, model, row_groups={"weight": {"a": [0, 3]}}, strict=True) as probe:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert probe.table is not None
    assert probe.table["weight[a]", "effective_lr_p50"] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")
class TestMonitor:
    def test_groups_pass_through(self) -> None:
        monitor = OptimizerDynamicsMonitor(1, row_groups={"left.weight": {"seen": [0, 1]}}, strict=True)
        _fit(monitor, _Words(two=False))
        assert monitor.latest is not None
        assert monitor.latest.names == ("left.weight[seen]", "left.weight[rest]", "right.weight")

    def test_each_optimizer_takes_its_own(self) -> None:
        groups = {"left.weight": {"seen": [0, 1]}, "right.weight": {"seen": [0, 1]}}
        monitor = OptimizerDynamicsMonitor(1, row_groups=groups, strict=True)
        _fit(monitor, _Words(two=True))
        assert {table.names for table in monitor.history} == {
            (f"{side}.weight[seen]", f"{side}.weight[rest]") for side in ("left", "right")
        }

    def test_groups_change_no_bit_of_the_training(self) -> None:
        saved = []
        for groups in (None, {"left.weight": {"seen": [0, 1]}}):
            torch.manual_seed(0)
            module = _Words(two=False)
            _fit(OptimizerDynamicsMonitor(1, row_groups=groups, strict=True), module)
            buffer = io.BytesIO()
            torch.save(module.state_dict(), buffer)
            saved.append(buffer.getvalue())
        assert saved[0] == saved[1]

    def test_bad_groups_and_misfits_are_told_before_training(self) -> None:
        with pytest.raises(ValueError, match=r"must be names with indices, .* got \[0, 1\] for 'a'"):
            OptimizerDynamicsMonitor(row_groups={"a": [0, 1]})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="must map parameter names to groups"):
            OptimizerDynamicsMonitor(row_groups=["a"])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="each row once"):
            OptimizerDynamicsMonitor(row_groups={"left.weight": {"a": [0, 0]}})
        module = _Words(two=False)
        with pytest.raises(ValueError, match=r"must be one of left.weight, right.weight"):
            _fit(OptimizerDynamicsMonitor(1, row_groups={"middle.weight": {"a": [0]}}), module)
        assert module.trainer.global_step == 0

    def test_parameters_made_in_configure_model_have_groups(self) -> None:
        class Late(_Words):
            def __init__(self) -> None:
                super().__init__(two=False)
                self.later: torch.nn.Linear | None = None

            def configure_model(self) -> None:
                if self.later is None:
                    self.later = torch.nn.Linear(2, 2)

        monitor = OptimizerDynamicsMonitor(1, row_groups={"later.weight": {"a": [0]}}, strict=True)
        _fit(monitor, Late())
        assert monitor.latest is not None
        assert "later.weight[a]" in monitor.latest.names
