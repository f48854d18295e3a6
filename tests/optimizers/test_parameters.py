"""What may be handed to a factory, and that names survive LightningCLI's ``module.parameters()``."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_adapt.optimizers import adamw
from lightning_adapt.optimizers._parameters import module_of, trainer_attribute


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)


DECAY, NO_DECAY = ["embed.weight", "head.weight"], ["norm.weight", "norm.bias", "head.bias"]


def names(optimizer: torch.optim.Optimizer) -> dict[str, list[str] | None]:
    return {group["name"]: group.get("parameter_names") for group in optimizer.param_groups}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda net: net, id="module"),
        pytest.param(lambda net: net.parameters(), id="parameters()"),
        pytest.param(lambda net: net.named_parameters(), id="named_parameters()"),
        pytest.param(lambda net: list(net.named_parameters()), id="list of pairs"),
        pytest.param(lambda net: dict(net.named_parameters()).items(), id="dict items"),
    ],
)
def test_names_are_known(given):
    assert names(adamw(given(Net()))) == {"decay": DECAY, "no_decay": NO_DECAY}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda net: list(net.parameters()), id="list"),
        pytest.param(lambda net: filter(lambda p: p.requires_grad, net.parameters()), id="filter"),
    ],
)
def test_bare_parameters_are_grouped_by_dimension_without_names(given):
    net = Net()
    optimizer = adamw(given(net))
    assert names(optimizer) == {"decay": None, "no_decay": None}
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(net.embed.weight), id(net.head.weight)]


def test_module_types_are_known_from_a_generator():
    assert names(adamw(Net().parameters(), no_decay=["embedding"])) == {
        "no_decay": ["embed.weight"],
        "decay": [*NO_DECAY[:2], "head.weight", "head.bias"],
    }


def test_a_generator_that_says_something_else_than_the_whole_module_is_taken_by_its_word():
    net = Net()
    started = net.parameters()
    next(started)
    assert module_of(started) is None
    assert [len(group["params"]) for group in adamw(started).param_groups] == [3, 1]
    assert module_of(net.parameters(recurse=False)) is None
    assert module_of(net.named_parameters(recurse=False)) is None
    assert module_of(net.named_parameters(remove_duplicate=False)) is None
    assert module_of(p for p in net.parameters()) is None
    assert names(adamw(net.named_parameters(prefix="net")))["decay"] == [f"net.{name}" for name in DECAY]


def test_frozen_parameters_are_left_out_and_tied_ones_appear_once():
    net = Net()
    net.norm.requires_grad_(False)
    net.head.weight = net.embed.weight
    for given in (net, net.parameters(), net.named_parameters(remove_duplicate=False)):
        assert names(adamw(given)) == {"decay": ["embed.weight"], "no_decay": ["head.bias"]}


@pytest.mark.parametrize("freeze", [True, False])
def test_nothing_to_train_is_one_clear_sentence(freeze):
    given = Net().requires_grad_(False) if freeze else []
    count = 5 if freeze else 0
    with pytest.raises(
        ValueError, match=rf"`params` must hold at least one .*, got {count} without; unfreeze"
    ):
        adamw(given)


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (torch.ones(2, requires_grad=True), "one Parameter|one Tensor"),
        ({"params": []}, "one dict"),
        ("net", "one str"),
        (3, "one int"),
        ([1.0], "one float"),
        ([(0, torch.ones(1))], "one tuple"),
        ([("a", torch.ones(1), 2)], "one tuple"),
    ],
)
def test_what_is_no_collection_of_parameters_is_refused(given, got):
    with pytest.raises(ValueError, match=rf"`params` must .*, got ({got}); pass the module itself"):
        adamw(given)


def test_names_survive_a_checkpoint():
    net = Net()
    optimizer = adamw(net)
    fresh = adamw(net)
    fresh.load_state_dict(optimizer.state_dict())
    assert names(fresh) == names(optimizer)


class Detached(nn.Linear):
    @property
    def trainer(self):
        raise RuntimeError("not attached to a Trainer")


class OnFabric(nn.Linear):
    class trainer:
        def __getattr__(self, name):
            raise NotImplementedError(name)

    trainer = trainer()  # type: ignore[assignment]


def test_the_trainer_is_asked_only_where_there_is_one():
    attached = nn.Linear(1, 1)
    attached.trainer = SimpleNamespace(precision="bf16-true")  # type: ignore[assignment]
    assert trainer_attribute(attached, "precision") == "bf16-true"
    for module in (None, nn.Linear(1, 1), Detached(1, 1), OnFabric(1, 1)):
        assert trainer_attribute(module, "precision") is None
