"""What a saved optimizer state tells: kind, names, the floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_adapt.dynamics import DynamicsProbe, DynamicsTable, read_checkpoint
from lightning_adapt.optimizers import catalog
from lightning_adapt.views import print_worst

KINDS = [
    *(
        (getattr(torch.optim, i.class_name), {})
        for i in catalog.values()
        if hasattr(torch.optim, i.class_name)
    ),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    (torch.optim.ASGD, {}),
    (torch.optim.Rprop, {}),
]
FROM_STATE = ("second_moment_rms", "second_moment_zero_frac", "eps_floor_frac", "effective_lr_max")


def _trained(cls: Any, options: dict[str, Any], path: Path) -> tuple[DynamicsTable, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=cls.__name__ != "Muon"))
    optimizer = cls(model.parameters(), lr=0.01, **options)
    with DynamicsProbe(optimizer, model, strict=True) as probe:
        for _ in range(8):
            optimizer.zero_grad()
            model(torch.randn(5, 3) * torch.tensor([1.0, 1.0, 0.0])).square().sum().backward()
            optimizer.step()
    saved = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "global_step": 8}
    torch.save(saved, path)
    assert probe.table is not None
    return probe.table, model


@pytest.mark.parametrize(("cls", "options"), KINDS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_the_state_alone_gives_the_same_moments(cls: Any, options: dict[str, Any], tmp_path: Path) -> None:
    real, _ = _trained(cls, options, tmp_path / "a.ckpt")
    (table,) = read_checkpoint(tmp_path / "a.ckpt")
    assert table.optimizer == cls.__name__
    assert table.step == 8
    assert table.names == real.names
    if cls.__name__ not in ("Adafactor", "Adadelta"):  # their rates need the gradient, which is gone
        for column in FROM_STATE:
            np.testing.assert_allclose(table[column], real[column], rtol=1e-6, err_msg=column)
    assert np.isnan(table["grad_rms"]).all()
    assert table.hyperparameters == real.hyperparameters


def test_untouched_rows_are_named(tmp_path: Path) -> None:
    _trained(torch.optim.Adam, {}, tmp_path / "a.ckpt")
    (table,) = read_checkpoint(tmp_path / "a.ckpt")
    assert table["0.weight", "eps_floor_untouched_frac"] == pytest.approx(1 / 3)


def test_updates_that_need_a_gradient_are_left_out(tmp_path: Path) -> None:
    _trained(torch.optim.Adagrad, {}, tmp_path / "a.ckpt")
    (table,) = read_checkpoint(tmp_path / "a.ckpt")
    assert np.isnan(table["update_rms"]).all()
    real, _ = _trained(torch.optim.AdamW, {}, tmp_path / "b.ckpt")
    (table,) = read_checkpoint(tmp_path / "b.ckpt")
    np.testing.assert_allclose(table["update_rms"], real["update_rms"], rtol=1e-4)


SAYS_ITS_UPDATE = ("Adam", "AdamW", "Adamax", "RAdam", "Rprop")
UPDATE = ("update_rms", "update_absmax", "update_ratio", "update_lost_frac", "decay_rms")


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        *KINDS,
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.RMSprop, {"momentum": 0.9}),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_a_figure_is_the_real_one_or_none(cls: Any, options: dict[str, Any], tmp_path: Path) -> None:
    real, _ = _trained(cls, options, tmp_path / "a.ckpt")
    (table,) = read_checkpoint(tmp_path / "a.ckpt")
    for column in (*UPDATE, *(f"effective_lr_{q}" for q in ("min", "p05", "p50", "p95", "max"))):
        known = ~np.isnan(table[column])
        np.testing.assert_allclose(
            table[column][known], real[column][known], rtol=1e-4, atol=1e-9, err_msg=column
        )
    momentum = options.get("momentum") and not options.get("nesterov")
    says = cls.__name__ in SAYS_ITS_UPDATE or momentum
    assert not np.isnan(table["update_rms"]).any() if says else np.isnan(table["update_rms"]).all()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_a_state_does_not_say_which_rows_a_sparse_step_touched(tmp_path: Path) -> None:
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    for index in (1, 2):
        optimizer.zero_grad()
        table(torch.tensor([index])).sum().backward()
        optimizer.step()
    torch.save(
        {"state_dict": table.state_dict(), "optimizer_states": [optimizer.state_dict()]}, tmp_path / "c"
    )
    (read,) = read_checkpoint(tmp_path / "c")
    assert np.isnan(read["update_rms"]).all()
    assert read["weight", "effective_lr_max"] > 0


@pytest.mark.parametrize("cls", [cls for cls, options in KINDS if cls.__name__ in ("Adafactor", "SGD")][:2])
def test_a_bare_state_has_the_parameters_shape_or_none(cls: Any, tmp_path: Path) -> None:
    model = nn.Linear(4, 6)
    optimizer = cls(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    (table,) = read_checkpoint(tmp_path / "o.pt")
    expected = [24.0, 6.0] if cls.__name__ == "Adafactor" else [np.nan, np.nan]
    np.testing.assert_array_equal(table["numel"], expected)
    print_worst([table])


def test_an_optimizer_that_has_not_stepped_is_left_out(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    stepped, idle = torch.optim.Adam([model.weight]), torch.optim.Adam([model.bias])
    model(torch.ones(1, 2)).sum().backward()
    stepped.step()
    torch.save({"optimizer_states": [idle.state_dict(), stepped.state_dict()]}, tmp_path / "c")
    with pytest.warns(RuntimeWarning, match="an optimizer was left out: the optimizer state is empty"):
        (table,) = read_checkpoint(tmp_path / "c")
    assert table.optimizer == "Adam"
    assert table["numel"].tolist() == [4.0]


def test_a_bare_optimizer_state_has_positions_for_names(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    (table,) = read_checkpoint(tmp_path / "o.pt")
    assert table.names == ("parameter_0", "parameter_1")
    assert table.step == 1


def test_two_optimizers_and_fewer_parameters_than_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizers = [torch.optim.Adam(layer.parameters()) for layer in model]
    model(torch.ones(1, 2)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"state_dict": model.state_dict(), "optimizer_states": states}, tmp_path / "o.pt")
    tables = read_checkpoint(tmp_path / "o.pt")
    assert [table.optimizer for table in tables] == ["Adam", "Adam-1"]
    assert tables[0].names == ("parameter_0", "parameter_1")


class Own(torch.optim.Optimizer):
    pass


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"state_dict": {}}, "must hold an optimizer state"),
        ([1, 2], "must hold an optimizer state"),
        ({"optimizer_states": []}, "must hold an optimizer state"),
        (
            {"state": {0: {"mine": torch.ones(1)}}, "param_groups": [{"params": [0], "lr": 1}]},
            r"must be of a torch.optim class, got entries \['mine'\]",
        ),
        ({"state": {}, "param_groups": [{"params": [0], "lr": 1}]}, "the optimizer has not stepped yet"),
    ],
)
def test_files_that_are_no_use(content: object, sentence: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match=sentence):
        read_checkpoint(tmp_path / "c.ckpt")


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError, match="which is no file"):
        read_checkpoint(tmp_path)
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="loads with weights_only=True"):
        read_checkpoint(tmp_path / "text.ckpt")
    torch.save(Own, tmp_path / "code.ckpt")
    with pytest.raises(ValueError, match="loads with weights_only=True"):
        read_checkpoint(tmp_path / "code.ckpt")


def test_names_are_not_guessed_over_several_groups(tmp_path: Path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Linear(4, 4)})
    optimizer = torch.optim.Adam(
        [{"params": model["head"].parameters()}, {"params": model["body"].parameters()}]
    )
    model["head"](model["body"](torch.ones(1, 4))).sum().backward()
    optimizer.step()
    torch.save(
        {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}, tmp_path / "c"
    )
    assert read_checkpoint(tmp_path / "c")[0].names[0] == "parameter_0"


def test_running_statistics_are_no_parameters(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 2)).sum().backward()
    optimizer.step()
    torch.save(
        {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}, tmp_path / "c"
    )
    assert read_checkpoint(tmp_path / "c")[0].names == tuple(name for name, _ in model.named_parameters())


def test_a_scheduler_has_moved_the_rate_on(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    saved = {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "hyper_parameters": {"path": Path("somewhere")},
    }
    torch.save(saved, tmp_path / "c")
    (table,) = read_checkpoint(tmp_path / "c")
    assert table.update_source == "checkpoint"
    assert np.isnan(table["update_rms"]).all()
