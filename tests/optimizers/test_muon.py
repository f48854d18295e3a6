"""Muon takes hidden matrices only, and says what to do with the rest."""

import pytest
import torch
from torch import nn

from lightning_adapt.optimizers import adamw, muon, muon_parameters


def net() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 1), nn.Linear(4, 9)
    )


UNFIT = "0.weight, 1.bias, 2.weight, 2.bias, 3.weight, … (2 more)"


@pytest.mark.parametrize("given", [lambda m: m, lambda m: m.parameters(), lambda m: m.named_parameters()])
def test_what_it_is_not_made_for_is_named(given):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        muon(given(net()))
    assert f"got {UNFIT}; take `hidden, rest = muon_parameters(module)`" in str(caught.value)


def test_bare_parameters_are_named_by_shape():
    with pytest.raises(ValueError, match=r"got \(4,\); take"):
        muon([torch.ones(4, requires_grad=True), torch.ones(4, 4, requires_grad=True)])


def test_two_optimizers_share_all_parameters_and_train():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 9))
    hidden, rest = muon_parameters(model, exclude=["3.*"])
    first, second = muon(hidden, lr=0.02, overrides={"1.*": {"momentum": 0.9}}), adamw(rest, lr=0.02)
    assert first.param_groups[0]["momentum"] == 0.9
    covered = {id(p) for o in (first, second) for g in o.param_groups for p in g["params"]}
    assert covered == {id(p) for p in model.parameters()}
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(torch.arange(9)), torch.arange(9))
        for optimizer in (first, second):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (first, second):
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_a_module_of_matrices_and_ready_groups_go_straight_through():
    model = nn.Linear(3, 3, bias=False)
    assert muon(model.parameters()).param_groups[0]["parameter_names"] == ["weight"]
    assert muon([{"params": model.parameters(), "lr": 0.5}]).param_groups[0]["lr"] == 0.5


def test_frozen_parameters_do_not_count():
    model = nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    assert len(muon(model).param_groups) == 1
    assert muon_parameters(model) == ([("weight", model.weight)], [])


def test_a_pattern_that_excludes_nothing_is_refused():
    with pytest.raises(ValueError, match=r"`exclude` must be one of .*, got 'head\.\*'"):
        muon_parameters(net(), exclude=["head.*"])


@pytest.mark.parametrize(
    ("name", "class_name", "since"), [("muon", "Muon", "2.9"), ("adafactor", "Adafactor", "2.5")]
)
def test_an_older_torch_is_told_which_version_has_it(monkeypatch, name, class_name, since):
    from lightning_adapt import optimizers

    monkeypatch.delattr(torch.optim, class_name)
    with pytest.raises(ImportError, match=rf"`{name}` must have torch>={since}, got torch .*; upgrade torch"):
        getattr(optimizers, name)(nn.Linear(2, 2, bias=False))
