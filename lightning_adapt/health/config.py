"""Judging a LightningCLI config: which optimizer it names, with which options, at which precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lightning_adapt.dynamics.table import DynamicsTable, RowInfo
from lightning_adapt.health.facts import Facts
from lightning_adapt.health.finding import Finding
from lightning_adapt.health.judge import Rules
from lightning_adapt.health.lint import set_up_table
from lightning_adapt.health.offline import judge_snapshot

if TYPE_CHECKING:
    from lightning_adapt.optimizers import OptimizerInfo

_STATE_DTYPES = {"16-true": "float16", "bf16-true": "bfloat16", "64-true": "float64"}
_OPTION_KEYS = ("optimizer_options", "optimizer_kwargs", "optimizer_args")
_WARM = ("warm", "OneCycle", "LinearLR", "SequentialLR", "ChainedScheduler")


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer that a config names.

    Args:
        where: Path of keys, such as ``"model.optimizer"``.
        info: Its row in the catalog.
        options: Hyperparameters that are known: those given, and the defaults of a class or function.
        fits_eps: Made by this package, which chooses an epsilon that fits the dtype.
        warmup_steps: ``None`` where the config does not say.
    """

    where: str
    info: OptimizerInfo
    options: Mapping[str, Any]
    fits_eps: bool
    warmup_steps: int | None


def lint_config(config: Mapping[str, Any], rules: Rules = "default") -> list[Finding]:
    """Judge a LightningCLI config before anything is built from it.

    Optimizers are found as ``class_path`` with ``init_args`` anywhere in it (classes of torch.optim,
    functions of lightning_adapt.optimizers), and as a name with options, as the recipes have them.

    Args:
        config: What the YAML file holds; below ``fit`` if it is for subcommands.
        rules: As for `Judge`.

    Returns:
        Findings, most severe first; ``optimizer`` is the path of keys.

    Raises:
        ValueError: If it names no optimizer, or a precision or rule is not known.

    Example:
        >>> optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}
        >>> findings = lint_config({"optimizer": optimizer, "trainer": {"precision": "16-true"}})
        >>> [(finding.severity, finding.rule) for finding in findings][0]
        ('critical', 'epsilon-lost')
    """
    from lightning_adapt.optimizers._precision import read_precision

    if not isinstance(config, Mapping):
        raise ValueError(
            f"the config must be a mapping of keys, as LightningCLI writes it, got {type(config).__name__}"
        )
    body = config["fit"] if isinstance(config.get("fit"), Mapping) else config
    specs = list(find_optimizers(body))
    if not specs:
        raise ValueError(
            "the config must name an optimizer (class_path torch.optim.… or lightning_adapt.optimizers.…), "
            "got none; where the module builds its own, use lightning_adapt.health.lint_optimizer"
        )
    trainer = body.get("trainer") if isinstance(body.get("trainer"), Mapping) else {}
    assert isinstance(trainer, Mapping)
    precision = read_precision(trainer.get("precision") or None)
    findings: list[Finding] = []
    for spec in specs:
        facts = Facts(
            precision=precision,
            gradient_clip_val=None if _clips_fused(trainer) else trainer.get("gradient_clip_val"),
            warmup_steps=spec.warmup_steps,
        )
        findings += judge_snapshot([_table_of(spec, precision)], rules, facts)
    return findings


def find_optimizers(
    node: object, where: str = "", around: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[OptimizerSpec]:
    """Optimizers in a config, depth first.

    Args:
        node: The config, or a part of it.
        where: Path of keys that led to it.
        around: What holds it.
    """
    spec = _spec(where, node, around)
    if spec is not None:
        yield spec
    elif isinstance(node, Mapping):
        for key, part in node.items():
            yield from find_optimizers(part, f"{where}.{key}" if where else str(key), node)
    elif isinstance(node, list):
        for index, part in enumerate(node):
            yield from find_optimizers(part, f"{where}[{index}]", around)


def _spec(path: str, part: object, around: Mapping[str, Any]) -> OptimizerSpec | None:
    """``part`` as an optimizer: a class path with its arguments, or a name beside its options."""
    if isinstance(part, Mapping) and isinstance(part.get("class_path"), str):
        name, arguments = part["class_path"], part.get("init_args") or {}
    elif isinstance(part, str) and path.rpartition(".")[2] == "optimizer":
        name = part
        arguments = {key: around[key] for key in ("lr", "weight_decay") if around.get(key) is not None}
        for key in _OPTION_KEYS:
            arguments |= around.get(key) or {}
    else:
        return None
    info = _info(name)
    if info is None or not isinstance(arguments, Mapping):
        return None
    ours = "torch.optim" not in name and name.rpartition(".")[2] == info.name
    given = {key: value for key, value in arguments.items() if value is not None}
    # A module that is given a name has defaults of its own, which the config does not show.
    defaults = {} if isinstance(part, str) else info.defaults
    return OptimizerSpec(
        path, info, {**defaults, **given}, ours and "eps" not in given, _warmup(path, around, arguments)
    )


def _info(name: str) -> OptimizerInfo | None:
    """The catalog's row of a class or function: by its last name, and only where it is a known one."""
    from lightning_adapt.optimizers import catalog

    home, _, last = name.rpartition(".")
    if home and "optim" not in home.lower():
        return None
    return next((info for info in catalog.values() if last in (info.name, info.class_name)), None)


def _warmup(path: str, around: Mapping[str, Any], arguments: Mapping[str, Any]) -> int | None:
    steps = arguments.get("warmup_steps", around.get("warmup_steps"))
    if isinstance(steps, int):
        return steps
    # Beside an optimizer at the top LightningCLI makes the schedule, or none; elsewhere the code may.
    if path != "optimizer":
        return None
    return None if any(word in str(around.get("lr_scheduler")) for word in _WARM) else 0


def _clips_fused(trainer: Mapping[str, Any]) -> bool:
    """Whether a plugin of the trainer clips in the fused step."""
    return "FusedMixedPrecision" in str(trainer.get("plugins") or "")


def _table_of(spec: OptimizerSpec, precision: str | None) -> DynamicsTable:
    import torch

    from lightning_adapt.dynamics.hyperparameters import read_hyperparameters
    from lightning_adapt.optimizers._precision import FLOAT16_EPS

    dtype = _STATE_DTYPES.get(precision or "", "float32")
    common = dict(spec.options)
    if spec.fits_eps and dtype == "float16":
        common["eps"] = FLOAT16_EPS
    overrides = common.pop("overrides", None) or {}
    groups = {"all": common, **{name: {**common, **given} for name, given in overrides.items()}}
    cls = getattr(torch.optim, spec.info.class_name, torch.optim.Optimizer)
    rows = [
        RowInfo(f"{spec.where}[{name}]" if overrides else spec.where, name, (2, 2), dtype, dtype)
        for name in groups
    ]
    rates = {name: group.get("lr") for name, group in groups.items()}
    table = set_up_table(
        rows,
        optimizer=spec.where,
        learning_rates={name: float(r) for name, r in rates.items() if isinstance(r, int | float)},
        hyperparameters={name: read_hyperparameters(group, cls) for name, group in groups.items()},
    )
    return replace(table, update_source="config")
