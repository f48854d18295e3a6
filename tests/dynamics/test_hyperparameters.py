"""What a table says of the set-up, for every optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.cases import Case, all_optimizers

from lightning_adapt.dynamics import DynamicsProbe
from lightning_adapt.dynamics.hyperparameters import read_hyperparameters


def table_of(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> Any:
    with DynamicsProbe(optimizer, [("w", parameter)], strict=True) as probe:
        parameter.square().sum().backward()
        optimizer.step()
    return probe.table


@all_optimizers
def test_every_optimizer_tells_how_it_is_set_up(case: Case) -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = case.cls([parameter], **{"lr": 0.01, **case.options})
    table = table_of(optimizer, parameter)
    assert table.learning_rates == {"group_0": optimizer.param_groups[0]["lr"]}
    found, group = table.hyperparameters["group_0"], optimizer.param_groups[0]
    for key in ("weight_decay", "alpha", "rho", "momentum", "maximize", "amsgrad"):
        if group.get(key) is not None:
            assert found[key] == group[key]
    if isinstance(group.get("eps"), float):
        assert found["eps"] == group["eps"]
    if "betas" in group:
        assert (found["beta1"], found["beta2"]) == group["betas"]
    assert found.get("fused", 0.0) == float(bool(group.get("fused")))
    assert not found.keys() & {"lr", "params", "betas"}


@all_optimizers
def test_decoupled_decay_is_what_the_step_does(case: Case) -> None:
    """Decoupled decay shrinks a parameter without a gradient by lr · wd; L2 goes through the moments."""
    if not case.options.get("weight_decay"):
        pytest.skip("no weight decay")
    parameter = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    options = {"lr": 0.01, **case.options}
    optimizer = case.cls([parameter], **options)
    parameter.grad = torch.zeros_like(parameter)
    for _ in range(9):  # RAdam's first five steps have no denominator
        optimizer.step()
    shrunk = (1 - options["lr"] * options["weight_decay"]) ** 9
    by_decay = torch.allclose(parameter, torch.full_like(parameter, shrunk), atol=1e-9)
    found = read_hyperparameters(optimizer.param_groups[0], case.cls)
    if case.cls not in (torch.optim.SGD, torch.optim.ASGD):  # without a denominator both are one
        assert found["decoupled_weight_decay"] == float(by_decay)


def test_numbers_in_tensors_are_read_and_a_strange_optimizer_says_what_it_holds() -> None:
    class Own(torch.optim.Optimizer):
        pass

    group = {
        "params": [],
        "lr": 1.0,
        "betas": (torch.tensor(0.5), 0.25),
        "weight_decay": 0.1,
        "eps": (None, 1e-3),
        "on": True,
        "text": "a",
        "far": torch.zeros(1, device="meta"),
        "many": torch.zeros(3),
    }
    expected = {"beta1": 0.5, "beta2": 0.25, "weight_decay": 0.1, "eps2": 1e-3, "on": 1.0}
    assert read_hyperparameters(group, Own) == expected


def test_a_frozen_parameter_in_the_optimizer_is_marked() -> None:
    free, frozen = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = torch.optim.Adam([free, frozen])
    with DynamicsProbe(optimizer, [("free", free), ("frozen", frozen)], strict=True) as probe:
        for _ in range(2):
            (free.sum() + frozen.sum()).backward()
            optimizer.step()
            assert probe.table is not None
            assert [row.requires_grad for row in probe.table.rows] == [True, frozen.requires_grad]
            frozen.requires_grad_(True)


def test_equal_numbers_of_other_types_are_not_taken_for_each_other() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1)])
    (group,) = optimizer.param_groups
    found = []
    for eps in (np.float32(0.25), 0.25, np.float32(0.25)):
        group["eps"] = eps
        found.append(read_hyperparameters(group, torch.optim.Adam).get("eps"))
    assert found == [None, 0.25, None]


def test_what_was_read_may_be_changed() -> None:
    (group,) = torch.optim.Adam([torch.zeros(1)]).param_groups
    read_hyperparameters(group, torch.optim.Adam).clear()
    assert read_hyperparameters(group, torch.optim.Adam)["beta1"] == 0.9
