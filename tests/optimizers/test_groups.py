"""Named groups: decay by type and dimension, layer-wise rates, overrides by pattern."""

import pytest
import torch
from torch import nn

from lightning_adapt.optimizers import adamw, parameter_groups, sgd


class RMSNormOfSomeLibrary(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class Renamed(nn.BatchNorm1d):
    """A subclass whose own name does not tell."""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = RMSNormOfSomeLibrary()
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


class Transformer(nn.Module):
    def __init__(self, depth: int = 3):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.position = nn.Parameter(torch.zeros(5, 4))
        self.layers = nn.ModuleList(Block() for _ in range(depth))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 9)


def lr_of(groups: list[dict]) -> dict[str, float]:
    return {name: group["lr"] for group in groups for name in group["parameter_names"]}


def by_name(groups: list[dict]) -> dict[str, list[str]]:
    assert len({group["name"] for group in groups}) == len(groups)
    return {group["name"]: group["parameter_names"] for group in groups}


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.LayerNorm([3, 4]), "norm"),  # two dimensions, and still a norm
        (nn.GroupNorm(2, 4), "norm"),
        (nn.BatchNorm2d(4), "norm"),
        (nn.InstanceNorm1d(4, affine=True), "norm"),
        (RMSNormOfSomeLibrary(), "norm"),
        (Renamed(4), "norm"),
        (nn.Embedding(3, 4), "embedding"),
        (nn.EmbeddingBag(3, 4), "embedding"),
        (nn.PReLU(), "bias"),
        (nn.ParameterList([torch.zeros(())]), "bias"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_kinds_are_told_by_type_and_dimension(module, kind):
    for no_decay in ("bias", "embedding", "norm"):
        groups = by_name(parameter_groups(module, weight_decay=0.1, no_decay=[no_decay]))
        assert list(groups) == ["no_decay" if kind == no_decay else "decay"]


def test_one_kind_may_be_given_as_text_and_none_as_an_empty_list():
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    assert by_name(parameter_groups(net, no_decay="norm"))["no_decay"] == ["1.weight", "1.bias"]
    assert list(by_name(parameter_groups(net, no_decay=[]))) == ["decay"]


def test_multihead_attention_has_its_biases_undecayed_by_dimension():
    groups = by_name(parameter_groups(nn.MultiheadAttention(4, 2)))
    assert groups["no_decay"] == ["in_proj_bias", "out_proj.bias"]


def test_groups_carry_weight_decay_and_rate_and_the_optimizer_uses_them():
    net = Transformer()
    optimizer = adamw(net, lr=0.5, weight_decay=0.25)
    assert [(g["name"], g["weight_decay"], g["lr"]) for g in optimizer.param_groups] == [
        ("decay", 0.25, 0.5),
        ("no_decay", 0.0, 0.5),
    ]
    before = net.norm.weight.detach().clone(), net.head.weight.detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(net.norm.weight, before[0])
    torch.testing.assert_close(net.head.weight, before[1] * (1 - 0.5 * 0.25))


def test_layer_decay_gives_deeper_layers_smaller_rates():
    rates = lr_of(parameter_groups(Transformer(3), lr=1.0, layer_decay=0.5))
    assert rates["head.weight"] == rates["norm.bias"] == 1.0
    assert [rates[f"layers.{i}.mlp.2.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert rates["embed.weight"] == rates["position"] == 0.0625
    names = set(by_name(parameter_groups(Transformer(1), lr=1.0, layer_decay=0.5)))
    assert names == {
        f"{decay}/{layer}" for decay in ("decay", "no_decay") for layer in ("layer_0", "head")
    } | {"decay/embeddings"}


def test_layer_decay_of_one_changes_no_rate():
    assert set(lr_of(parameter_groups(Transformer(2), lr=0.3, layer_decay=1.0)).values()) == {0.3}


def test_freezing_layers_moves_no_other_layer():
    net = Transformer(3)
    free = lr_of(parameter_groups(net, lr=1.0, layer_decay=0.5))
    net.layers[0].requires_grad_(False)
    net.layers[2].requires_grad_(False)
    groups = parameter_groups(net, lr=1.0, layer_decay=0.5)
    assert lr_of(groups).items() <= free.items()
    assert "decay/layer_1" in by_name(groups)


def test_lists_side_by_side_are_one_layer_and_sequentials_follow_each_other():
    gnn = nn.ModuleDict(
        {
            "convs": nn.ModuleList(nn.Linear(2, 2) for _ in range(2)),
            "norms": nn.ModuleList(nn.LayerNorm(2) for _ in range(2)),
            "lin": nn.Linear(2, 2),
        }
    )
    rates = lr_of(parameter_groups(gnn, lr=1.0, layer_decay=0.5))
    assert rates["convs.0.weight"] == rates["norms.0.weight"] == 0.25
    assert rates["convs.1.weight"] == rates["norms.1.weight"] == 0.5
    assert rates["lin.weight"] == 1.0
    stages = nn.ModuleDict(
        {
            "stem": nn.Linear(2, 2),
            "layer1": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            "between": nn.Linear(2, 2),
            "layer2": nn.Sequential(nn.Linear(2, 2)),
        }
    )
    rates = lr_of(parameter_groups(stages, lr=1.0, layer_decay=0.5))
    expected = {"stem": 0.0625, "layer1.0": 0.125, "layer1.1": 0.25, "between": 0.25, "layer2.0": 0.5}
    assert {name.removesuffix(".weight"): lr for name, lr in rates.items() if "weight" in name} == expected


def test_embeddings_in_a_list_are_embeddings_and_no_layers():
    net = nn.ModuleDict(
        {
            "atoms": nn.ModuleList(nn.Embedding(3, 2) for _ in range(4)),
            "convs": nn.ModuleList([nn.Linear(2, 2)]),
        }
    )
    rates = lr_of(parameter_groups(net, lr=1.0, layer_decay=0.5))
    assert {rates[f"atoms.{i}.weight"] for i in range(4)} == {0.25}


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        (Transformer(), {"layer_decay": 0.0, "lr": 1.0}, r"`layer_decay` must be in \(0, 1\]"),
        (Transformer(), {"layer_decay": 1.5, "lr": 1.0}, r"`layer_decay` must be in \(0, 1\].*got .*1\.5"),
        (Transformer(), {"layer_decay": 0.5}, r"`layer_decay` .*needs `lr`"),
        (nn.Linear(2, 2), {"layer_decay": 0.5, "lr": 1.0}, r"no parameter is in a numbered layer"),
        (list(Transformer().parameters()), {"layer_decay": 0.5, "lr": 1.0}, r"pass the module"),
    ],
)
def test_layer_decay_that_cannot_be_is_refused(params, options, message):
    with pytest.raises(ValueError, match=message):
        parameter_groups(params, **options)


def test_overrides_the_first_match_wins_and_the_rest_stays():
    net = Transformer(2)
    groups = parameter_groups(
        net,
        lr=1.0,
        weight_decay=0.1,
        layer_decay=0.5,
        overrides={
            "head.*": {"lr": 3.0},
            "layers.*.mlp.*": {"weight_decay": 0.7},
            "*": {"betas": (0.8, 0.9)},
        },
    )
    told = {group["name"]: group for group in groups}
    assert (told["head.*/decay"]["lr"], told["head.*/decay"]["weight_decay"]) == (3.0, 0.1)
    assert told["head.*/no_decay"]["weight_decay"] == 0.0
    # Decay was set by the pattern, for biases too; the rate still follows the layer.
    mlp = told["layers.*.mlp.*/layer_1"]
    assert (mlp["lr"], mlp["weight_decay"], len(mlp["params"])) == (0.5, 0.7, 4)
    assert told["*/no_decay/head"]["parameter_names"] == ["norm.weight", "norm.bias"]
    assert "betas" not in mlp


def test_overrides_reach_the_optimizer():
    net = Transformer(1)
    optimizer = adamw(net, lr=1.0, overrides={"position": {"lr": 0.5, "weight_decay": 0.0, "eps": 1e-4}})
    group = next(group for group in optimizer.param_groups if group["name"] == "position")
    assert (group["lr"], group["eps"], group["parameter_names"]) == (0.5, 1e-4, ["position"])


def test_a_pattern_cannot_take_the_name_of_a_standard_group():
    net = nn.ParameterDict({"decay": torch.ones(2, 2), "other": torch.ones(2, 2)})
    groups = by_name(parameter_groups(net, overrides={"decay": {"weight_decay": 0.5}}))
    assert groups == {"override/decay": ["decay"], "decay": ["other"]}


def test_a_pattern_that_decides_nothing_is_refused():
    net = Transformer(1)
    with pytest.raises(ValueError, match=r"`overrides` must be one of head\.weight, .*, got 'haed\.weight'"):
        parameter_groups(net, overrides={"haed.weight": {}})
    with pytest.raises(ValueError, match=r"`overrides\['head.bias'\]` must decide .* earlier patterns match"):
        parameter_groups(net, overrides={"head.*": {}, "head.bias": {}})
    with pytest.raises(ValueError, match=r"`overrides` must be left out where parameters have no names"):
        parameter_groups(list(net.parameters()), overrides={"*": {}})


def test_ready_groups_keep_their_settings_and_get_names():
    a, b, c, frozen = (torch.ones(2, requires_grad=i < 3) for i in range(4))
    optimizer = sgd(
        [
            {"params": a, "lr": 0.5},
            {"params": [frozen]},
            {"params": iter([b, frozen])},
            {"params": [c], "name": "c"},
        ],
        lr=0.1,
        weight_decay=0.2,
    )
    assert [(g["name"], g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [
        ("group_0", 0.5, 0.2, 1),
        ("group_2", 0.1, 0.2, 1),
        ("c", 0.1, 0.2, 1),
    ]


def test_ready_groups_may_hold_modules_named_pairs_or_what_an_optimizer_had():
    net = Transformer(1)
    groups = parameter_groups(
        [{"params": net.embed.named_parameters()}, {"params": net.head, "name": "head"}]
    )
    assert by_name(groups) == {"group_0": ["weight"], "head": ["weight", "bias"]}
    net.norm.weight.requires_grad_(False)
    again = parameter_groups(adamw(net).param_groups)
    assert by_name(again) == by_name(adamw(net).param_groups)


def test_groups_without_names_may_join_later():
    net = Transformer(1)
    net.embed.requires_grad_(False)
    optimizer = adamw(net)
    optimizer.add_param_group({"params": [net.embed.weight.requires_grad_()]})
    assert len(optimizer.param_groups) == 3


def test_names_a_user_gave_stay_with_what_is_left():
    a, b = (torch.ones(1, requires_grad=on) for on in (False, True))
    (group,) = parameter_groups([{"params": [a, b], "param_names": ["a", "b"]}])
    assert group["param_names"] == ["b"]
    assert "parameter_names" not in group


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        (
            [{"params": [torch.ones(1, requires_grad=True)]}] * 2,
            {"layer_decay": 0.5},
            "must be left out where",
        ),
        (
            [{"params": [torch.ones(1, requires_grad=True)]}],
            {"overrides": {"a": {}}},
            "must be left out where",
        ),
        ([{"params": [torch.ones(1)]}], {}, "at least one parameter with requires_grad=True, got 1 without"),
        ([{"params": []}, torch.ones(1)], {}, r"`params\[1\]` must be a dict .*, got Tensor"),
        ([{"lr": 1.0}], {}, r"`params\[0\]` must be a dict with the key 'params'"),
        (
            [{"params": [torch.ones(1, requires_grad=True)], "name": "x"} for _ in range(2)],
            {},
            "different names, got 'x' twice",
        ),
        (
            [{"params": [torch.ones(1, requires_grad=True)], "param_names": []}],
            {},
            r"`params\[0\]\['param_names'\]` must be one name for each of the 1 parameters, got 0",
        ),
        (nn.Linear(1, 1), {"no_decay": None}, "`no_decay` must be a list of kinds, got None"),
    ],
)
def test_ready_groups_that_cannot_be_are_refused(params, options, message):
    with pytest.raises(ValueError, match=message):
        parameter_groups(params, **options)
