"""Set-ups before their first step: optimizers in code, and configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from torch import nn

from lightning_adapt import optimizers
from lightning_adapt.health import Finding, lint_config, lint_optimizer
from lightning_adapt.recipes import RECIPES


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def rules_of(findings: list[Finding]) -> set[str]:
    return {finding.rule for finding in findings}


SETTLED: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.0}


def test_a_usual_set_up_is_in_order() -> None:
    net = model()
    optimizer = optimizers.adamw(net, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    assert lint_optimizer(optimizer, net) == []
    assert lint_optimizer(torch.optim.AdamW(net.parameters(), **SETTLED), net.named_parameters()) == []


def test_parameters_in_no_optimizer_and_in_two() -> None:
    net = model()
    first = torch.optim.AdamW(net[0].parameters(), **SETTLED)
    (missing,) = lint_optimizer(first, net)
    assert missing.rule == "parameter-without-optimizer"
    assert missing.sentence.startswith("4 trainable parameters are in no optimizer")
    assert "1.weight, 1.bias, 2.weight, 2.bias" in missing.sentence
    rest = [*net[1].parameters(), *net[2].parameters(), next(net[0].parameters())]
    second = torch.optim.AdamW(rest, **SETTLED)
    (twice,) = lint_optimizer([first, second], net)
    assert (twice.rule, twice.parameter, twice.optimizer) == ("two-optimizers", "0.weight", "AdamW-1")
    assert "AdamW-1 and in AdamW" in twice.sentence


def test_positions_are_no_names() -> None:
    both = [torch.optim.AdamW(model().parameters(), **SETTLED) for _ in range(2)]
    assert lint_optimizer(both) == []


def test_frozen_parameters() -> None:
    net = model()
    net[0].requires_grad_(False)
    found = lint_optimizer(torch.optim.AdamW(net.parameters(), **SETTLED), net)
    assert [(f.rule, f.cause, f.parameter) for f in found] == [
        ("no-gradient", "frozen", "0.weight"),
        ("no-gradient", "frozen", "0.bias"),
    ]
    left_out = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], **SETTLED)
    assert lint_optimizer(left_out, net) == []


@pytest.mark.parametrize(
    ("precision", "options", "expected"),
    [
        ("16-true", {}, {"epsilon-lost"}),
        ("16-true", {"eps": 1e-4}, set()),
        ("16-true", {"eps": 1e-4, "betas": (0.9, 0.9999)}, {"second-moment-stuck"}),
        ("bf16-true", {}, set()),
        ("bf16-true", {"betas": (0.9, 0.999)}, {"second-moment-stuck"}),
        ("bf16-mixed", {"betas": (0.9, 0.999)}, set()),
        ("16-mixed", {"betas": (0.9, 0.999)}, set()),
    ],
)
def test_precision(precision: str, options: dict[str, Any], expected: set[str]) -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), **{**SETTLED, **options})
    # Warm-up is another matter.
    assert rules_of(lint_optimizer(optimizer, net, precision=precision)) - {"warm-up-missing"} == expected


def test_the_dtype_of_parameters_counts_and_a_loaded_state_even_more() -> None:
    net = model().to(torch.bfloat16)
    optimizer = torch.optim.RMSprop(net.parameters(), alpha=0.999)
    assert rules_of(lint_optimizer(optimizer, net)) == {"second-moment-stuck"}
    net = model()
    optimizer = torch.optim.RMSprop(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for state in optimizer.state.values():
        state["square_avg"] = state["square_avg"].bfloat16()
    found = lint_optimizer(optimizer, net)
    assert {(f.rule, f.cause) for f in found} == {("state-dtype", "narrow")}


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("clip", [1.0, None])
def test_fused_kernels_and_clipping(precision: str, fused: bool, clip: float | None) -> None:
    """As Lightning's MixedPrecision plugin does: it refuses, whatever the dtype."""
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), fused=fused, **SETTLED)
    found = lint_optimizer(optimizer, net, precision=precision, gradient_clip_val=clip)
    refused = fused and clip is not None and precision.endswith("mixed")
    assert [(f.rule, f.severity) for f in found] == ([("fused-clipping", "critical")] if refused else [])


def test_what_else_groups_say() -> None:
    net = model()
    groups = [
        {"params": net[0].parameters(), "name": "slow", "lr": 1e-7},
        {"params": [*net[1].parameters(), *net[2].parameters()], "name": "fast", "lr": 1e-2},
    ]
    found = lint_optimizer(torch.optim.Adam(groups, weight_decay=0.1), net)
    assert rules_of(found) == {"learning-rates", "l2-with-adaptive", "decay-on-norms", "warm-up-missing"}
    (rates,) = [f for f in found if f.rule == "learning-rates"]
    assert rates.sentence == "the learning rate of group fast (0.01) is 100000 times that of slow (1e-07)"


def test_a_schedule_that_warms_up_is_seen() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.0)
    assert rules_of(lint_optimizer(optimizer, net)) == {"warm-up-missing"}
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100))
    assert lint_optimizer(optimizer, net) == []


def test_changes_to_rules_and_wrong_names() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.0)
    assert lint_optimizer(optimizer, net, rules={"warm-up-missing": False}) == []
    with pytest.raises(ValueError, match="got '17-true'"):
        lint_optimizer(optimizer, net, precision="17-true")


def config_of(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


CONFIGS = {
    "top level": "optimizer: {class_path: torch.optim.AdamW, init_args: {fused: true}}",
    "short name": "optimizer: {class_path: AdamW, init_args: {fused: true}}",
    "in the model": "model: {init_args: {optimizer: {class_path: AdamW, init_args: {fused: true}}}}",
    "ours": "optimizer: {class_path: lightning_adapt.optimizers.adamw, init_args: {fused: true}}",
    "a list": "model: {optimizers: [{class_path: torch.optim.AdamW, init_args: {fused: true}}]}",
    "a name": "model: {optimizer: adamw, optimizer_options: {fused: true}}",
}


@pytest.mark.parametrize("where", CONFIGS)
@pytest.mark.parametrize("below_fit", [True, False])
def test_optimizers_are_found_wherever_they_are(where: str, below_fit: bool) -> None:
    config = config_of(CONFIGS[where]) | {"trainer": {"precision": "16-mixed", "gradient_clip_val": 1.0}}
    found = lint_config({"fit": config} if below_fit else config)
    assert "fused-clipping" in rules_of(found)
    found = lint_config(config | {"trainer": {"precision": "32-true", "gradient_clip_val": 1.0}})
    assert "fused-clipping" not in rules_of(found)


def test_a_plugin_that_clips_in_the_fused_step_is_no_fault() -> None:
    config = config_of(CONFIGS["top level"])
    plugins = [{"class_path": "lightning_adapt.callbacks.FusedMixedPrecision"}]
    config["trainer"] = {"precision": "16-mixed", "gradient_clip_val": 1.0, "plugins": plugins}
    assert "fused-clipping" not in rules_of(lint_config(config))


@pytest.mark.parametrize(
    ("class_path", "init_args", "expected"),
    [
        ("torch.optim.Adam", {}, {"epsilon-lost"}),
        ("torch.optim.Adam", {"eps": 1e-4}, set()),
        ("lightning_adapt.optimizers.adam", {}, set()),  # chooses an epsilon that fits
        ("lightning_adapt.optimizers.adam", {"eps": 1e-8}, {"epsilon-lost"}),
        ("torch.optim.SGD", {}, set()),
    ],
)
def test_half_precision(class_path: str, init_args: dict[str, Any], expected: set[str]) -> None:
    config = {
        "optimizer": {"class_path": class_path, "init_args": init_args},
        "trainer": {"precision": "16-true"},
    }
    assert rules_of(lint_config(config)) & {"epsilon-lost"} == expected


def test_what_a_name_leaves_open_is_not_guessed() -> None:
    """The module may have presets of its own: its beta2 is not known."""
    config = {"model": {"optimizer": "adamw", "lr": None}, "trainer": {"precision": "bf16-true"}}
    assert lint_config(config) == []
    config["model"]["optimizer_options"] = {"betas": [0.9, 0.999]}  # type: ignore[index]
    assert rules_of(lint_config(config)) == {"second-moment-stuck"}


@pytest.mark.parametrize(
    ("scheduler", "missing"),
    [
        (None, True),  # LightningCLI makes none then
        ({"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 10}}, True),
        ({"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1}}, False),
    ],
)
def test_warm_up(scheduler: Any, missing: bool) -> None:
    config: dict[str, Any] = {"optimizer": {"class_path": "torch.optim.Adam"}}
    if scheduler is not None:
        config["lr_scheduler"] = scheduler
    assert ("warm-up-missing" in rules_of(lint_config(config))) == missing
    inside = {"model": {"optimizer": config["optimizer"]}}
    assert lint_config(inside) == []  # the schedule may be in the code


def test_groups_of_our_optimizers() -> None:
    options = {"lr": 1e-2, "overrides": {"*.head.*": {"lr": 1e-7}}}
    config = {
        "model": {"optimizer": {"class_path": "lightning_adapt.optimizers.adamw", "init_args": options}}
    }
    (found,) = [f for f in lint_config(config) if f.rule == "learning-rates"]
    assert "group all (0.01) is 100000 times that of *.head.* (1e-07)" in found.sentence
    assert found.optimizer == "model.optimizer"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"trainer": {"max_epochs": 3}}, "must name an optimizer"),
        ({"optimizer": {"class_path": "my_package.Adam"}}, "must name an optimizer"),
        (["a"], "must be a mapping of keys, as LightningCLI writes it, got list"),
        (None, "must be a mapping of keys, as LightningCLI writes it, got NoneType"),
        ({"optimizer": "adam", "trainer": {"precision": "12"}}, "`precision` must be one of"),
    ],
)
def test_configs_that_cannot_be_judged(config: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lint_config(config)


@pytest.mark.parametrize(
    "path",
    [path for recipe in RECIPES.values() for path in (recipe.config_path, *recipe.presets.values())],
    ids=lambda path: path.stem,
)
def test_recipes_are_in_order(path: Any) -> None:
    assert [f for f in lint_config(config_of(path.read_text())) if f.severity != "info"] == []
