"""What can be said of a set-up before its first step: a table without figures, and the same rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lightning_adapt.dynamics.statistics import COLUMNS
from lightning_adapt.dynamics.table import DynamicsTable, RowInfo
from lightning_adapt.health.facts import Facts
from lightning_adapt.health.finding import Finding
from lightning_adapt.health.judge import Rules
from lightning_adapt.health.offline import judge_snapshot

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


def lint_optimizer(
    optimizer: Optimizer | Sequence[Optimizer],
    named_parameters: nn.Module | Iterable[tuple[str, Tensor]] = (),
    *,
    precision: str | None = None,
    gradient_clip_val: float | None = None,
    rules: Rules = "default",
) -> list[Finding]:
    """Judge one or more optimizers as they are set up, before they step.

    Parameters in no optimizer or in two, frozen ones, epsilon and betas that the dtype of the state cannot
    hold, fused kernels with clipping, decay on norms, L2 where decoupled decay is meant, learning rates far
    apart, no warm-up.

    Args:
        optimizer: One, or all of the run.
        named_parameters: The model, or ``model.named_parameters()``.
        precision: Lightning's, such as ``"bf16-true"``; decides about the dtype of states to come.
        gradient_clip_val: The trainer's.
        rules: As for `Judge`.

    Returns:
        Findings, most severe first.

    Raises:
        ValueError: If ``precision`` or a rule is not known.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.AdamW([model.weight], betas=(0.9, 0.95))
        >>> for finding in lint_optimizer(optimizer, model):
        ...     print(f"{finding.severity}: {finding.sentence}")
        warning: 1 trainable parameters are in no optimizer, and will not learn: bias
    """
    from torch import nn

    from lightning_adapt.optimizers._precision import read_precision

    optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    named = named_parameters
    given = list(named.named_parameters() if isinstance(named, nn.Module) else named)
    held = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
    facts = Facts(
        precision=read_precision(precision),
        gradient_clip_val=gradient_clip_val,
        unoptimized=tuple(name for name, p in given if p.requires_grad and id(p) not in held),
    )
    names = {id(p): name for name, p in given}
    tables = [
        _table_of(one, label, names, facts)
        for one, label in zip(optimizers, _labels(optimizers), strict=True)
    ]
    return judge_snapshot(tables, rules, facts)


def _labels(optimizers: Sequence[Optimizer]) -> Iterator[str]:
    names = [type(one).__name__ for one in optimizers]
    for index, name in enumerate(names):
        earlier = names[:index].count(name)
        yield f"{name}-{earlier}" if earlier else name


def _table_of(optimizer: Optimizer, label: str, names: Mapping[int, str], facts: Facts) -> DynamicsTable:
    from lightning_adapt.dynamics.hyperparameters import read_hyperparameters
    from lightning_adapt.dynamics.rows import group_name, members

    groups = {group_name(group, index): group for index, group in enumerate(optimizer.param_groups)}
    rows = [
        _row(optimizer, member.parameter, member.info, facts.precision)
        for member in members(optimizer, names)
    ]
    return set_up_table(
        rows,
        optimizer=label,
        learning_rates={name: float(group["lr"]) for name, group in groups.items() if "lr" in group},
        hyperparameters={
            name: read_hyperparameters(group, type(optimizer)) for name, group in groups.items()
        },
    )


def _row(optimizer: Optimizer, parameter: Tensor, info: RowInfo, precision: str | None) -> RowInfo:
    """With the dtype that the state has, or will have; precision may still change both."""
    from torch import Tensor

    from lightning_adapt.optimizers._precision import state_dtype

    state = optimizer.state.get(parameter, {})
    known = [x.dtype for x in state.values() if isinstance(x, Tensor) and x.dim() and x.is_floating_point()]
    if known:
        return replace(info, state_dtype=str(known[0]).removeprefix("torch."))
    to_come = str(state_dtype(parameter, precision)).removeprefix("torch.")
    return replace(info, dtype=to_come, state_dtype=to_come)


def set_up_table(
    rows: Sequence[RowInfo],
    *,
    optimizer: str,
    learning_rates: Mapping[str, float],
    hyperparameters: Mapping[str, Mapping[str, float]],
) -> DynamicsTable:
    """A table that knows how the optimizer is set up, and nothing else."""
    values = np.full((len(rows), len(COLUMNS)), np.nan)
    return DynamicsTable(
        tuple(rows),
        values,
        step=0,
        optimizer=optimizer,
        learning_rates=learning_rates,
        hyperparameters=hyperparameters,
        update_source="set-up",
    )
