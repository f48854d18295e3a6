"""Impossible hyperparameters are refused in one sentence that says the rule, the value and the remedy."""

import pytest
import torch
from torch import nn

from lightning_adapt import optimizers

REFUSED = [
    ("adamw", {"lr": -1.0}, r"^`lr` must be a finite number >= 0, got -1\.0; leave .* default 0\.001$"),
    ("adamw", {"lr": float("nan")}, r"`lr` must be .*, got nan"),
    ("adamw", {"lr": float("inf")}, r"`lr` must be .*, got inf"),
    ("adamw", {"lr": "1e-3"}, r"`lr` must be .*, got '1e-3'"),
    ("adamw", {"lr": True}, r"`lr` must be .*, got True"),
    ("adamw", {"lr": None}, r"`lr` must be .*, got None"),
    ("adam", {"weight_decay": -0.1}, r"`weight_decay` must be .* >= 0, got -0\.1"),
    ("adam", {"betas": (0.9, 1.0)}, r"`betas` must be two numbers in \[0, 1\), got \(0\.9, 1\.0\)"),
    ("adam", {"betas": (-0.1, 0.9)}, r"`betas` must be"),
    ("adam", {"betas": 0.9}, r"`betas` must be"),
    ("adam", {"betas": (0.9, 0.99, 0.999)}, r"`betas` must be"),
    ("adam", {"eps": -1e-8}, r"`eps` must be a finite number >= 0"),
    ("adafactor", {"eps": (-1.0, 1e-3)}, r"`eps` must be"),
    ("adafactor", {"eps": (None, -1.0)}, r"`eps` must be"),
    ("adafactor", {"d": 0.5}, r"`d` must be a number >= 1"),
    ("adafactor", {"beta2_decay": 0.8}, r"`beta2_decay` must be a number <= 0"),
    ("adagrad", {"lr_decay": -1}, r"`lr_decay` must be"),
    ("adagrad", {"initial_accumulator_value": -1}, r"`initial_accumulator_value` must be"),
    ("nadam", {"momentum_decay": -1}, r"`momentum_decay` must be"),
    ("rmsprop", {"alpha": 1.5}, r"`alpha` must be a number in \[0, 1\), got 1\.5"),
    ("rmsprop", {"momentum": -0.5}, r"`momentum` must be"),
    ("adadelta", {"rho": 1.0}, r"`rho` must be a number in \[0, 1\)"),
    ("sgd", {"momentum": float("nan")}, r"`momentum` must be"),
    ("muon", {"ns_steps": 0}, r"`ns_steps` must be a whole number from 1 to 99, got 0"),
    ("muon", {"adjust_lr_fn": "orig"}, r"`adjust_lr_fn` must be one of original, .*mean 'original'"),
    ("adamw", {"fused": True, "foreach": True}, r"`fused` must not be True together with `foreach`"),
    ("adamw", {"precision": "fp16"}, r"`precision` must be one of .*, got 'fp16'"),
    ("adamw", {"no_decay": ["biases"]}, r"`no_decay` must be one of bias, .*did you mean 'bias'"),
    ("adamw", {"overrides": {"weight": {"lr": -1}}}, r"`overrides\['weight'\]\['lr'\]` must be .*got -1"),
    ("adamw", {"overrides": {"weight": {"beta": 1}}}, r"`options in overrides\['weight'\]` .*mean 'betas'"),
    ("adam", {"overrides": {"weight": {"eps": None}}}, r"`overrides\['weight'\]\['eps'\]` must be"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_refused_with_rule_value_and_remedy(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(optimizers, name)(nn.Linear(2, 2, bias=False), **options)


def test_settings_of_ready_groups_are_checked_too():
    groups = [{"params": [torch.ones(2, requires_grad=True)], "betas": (2.0, 0.9)}]
    with pytest.raises(ValueError, match=r"`params\[0\]\['betas'\]` must be two numbers in \[0, 1\)"):
        optimizers.adam(groups)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {"lr": 0.0, "eps": 0.0, "betas": (0.0, 0.0)}),
        ("adam", {"lr": torch.tensor(0.1)}),
        ("adafactor", {"eps": (1e-3, 0.0)}),
        ("muon", {"adjust_lr_fn": "match_rms_adamw"}),
    ],
)
def test_what_torch_takes_at_the_border_is_taken(name, options):
    optimizer = getattr(optimizers, name)(nn.Linear(2, 2, bias=False), **options)
    for key, value in options.items():
        assert optimizer.param_groups[0][key] == value
