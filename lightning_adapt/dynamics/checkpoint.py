"""What a saved optimizer state says about the dynamics, without the model or its gradients."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row, StepView, as_real, host_number
from lightning_adapt.dynamics.engines import find_engine
from lightning_adapt.dynamics.hyperparameters import read_hyperparameters
from lightning_adapt.dynamics.reading import take
from lightning_adapt.dynamics.rows import canonical_step, given_names, group_name, prepared
from lightning_adapt.dynamics.table import DynamicsTable, RowInfo
from lightning_adapt.dynamics.update_rules import rule_for

# Which class a saved state belongs to is not saved; its entries and hyper-parameters tell. First match wins.
_SIGNS: tuple[tuple[str, frozenset[str], frozenset[str]], ...] = (
    # class, entries of the state, hyper-parameters of the group
    ("NAdam", frozenset({"mu_product", "exp_avg_sq"}), frozenset({"momentum_decay"})),
    ("Adamax", frozenset({"exp_inf"}), frozenset({"betas"})),
    ("Adam", frozenset({"exp_avg", "exp_avg_sq"}), frozenset({"amsgrad"})),
    ("RAdam", frozenset({"exp_avg", "exp_avg_sq"}), frozenset({"decoupled_weight_decay"})),
    ("SparseAdam", frozenset({"exp_avg", "exp_avg_sq"}), frozenset({"betas"})),
    ("RMSprop", frozenset({"square_avg"}), frozenset({"alpha", "centered"})),
    ("Adadelta", frozenset({"square_avg", "acc_delta"}), frozenset({"rho"})),
    ("Adagrad", frozenset({"sum"}), frozenset({"lr_decay"})),
    ("Adafactor", frozenset({"step"}), frozenset({"beta2_decay"})),
    ("Rprop", frozenset({"prev", "step_size"}), frozenset({"etas"})),
    ("ASGD", frozenset({"eta", "ax"}), frozenset({"lambd"})),
    ("Muon", frozenset({"momentum_buffer"}), frozenset({"ns_steps"})),
    ("SGD", frozenset(), frozenset({"momentum", "nesterov"})),
)


def read_checkpoint(path: str | os.PathLike[str]) -> list[DynamicsTable]:
    """Tables of the optimizer states in a checkpoint, as far as a state alone allows.

    Moments, effective learning rates and the epsilon floor follow from the state; gradients are gone, and
    what needs one is NaN: updates of many optimizers, the rates of Adadelta and Adafactor. An element with
    ``v = 0`` and ``m = 0`` counts as untouched. An optimizer that cannot be read is left out with a warning.

    Args:
        path: A Lightning checkpoint, or a file with ``optimizer.state_dict()``; read with
            ``weights_only=True``.

    Returns:
        One table an optimizer.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no optimizer state, or none that can be read.
    """
    file = Path(path)
    if not file.is_file():
        wrong = "is no file" if file.exists() else "does not exist"
        raise FileNotFoundError(f"`path` must be a checkpoint file, got {str(file)!r}, which {wrong}")
    try:
        # Lightning saves hyper-parameters, often with paths in them.
        with torch.serialization.safe_globals([PosixPath, WindowsPath, PurePosixPath, PureWindowsPath]):
            saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a file that is none makes the unpickler raise can be anything
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {foreign[1]}, which is code" if foreign else "it is no file of torch.save"
        raise ValueError(
            f"`path` must be a checkpoint that loads with weights_only=True, got {str(file)!r}: {reason}"
        ) from error
    states = _optimizer_states(saved)
    if not states:
        raise ValueError(
            f"`path` must hold an optimizer state, got {str(file)!r} without one; "
            "save it with save_weights_only=False, or save optimizer.state_dict() itself"
        )
    weights = saved.get("state_dict") if isinstance(saved, Mapping) else None
    weights = weights if isinstance(weights, Mapping) else {}
    readable, left_out = _readable(states)
    if not readable:
        raise ValueError(
            f"`path` must hold an optimizer state that can be read, got {str(file)!r}: {left_out[0]}"
        )
    for reason in left_out:
        warnings.warn(f"{file}: an optimizer was left out: {reason}", RuntimeWarning, stacklevel=2)
    return [_table(state, label, kind, weights, saved) for state, label, kind in readable]


def _optimizer_states(saved: object) -> list[Mapping[str, Any]]:
    if not isinstance(saved, Mapping):
        return []
    found = saved.get("optimizer_states", [saved] if "param_groups" in saved else [])
    return [state for state in found if isinstance(state, Mapping) and "param_groups" in state]


def _readable(states: list[Mapping[str, Any]]) -> tuple[list[tuple[Mapping[str, Any], str, str]], list[str]]:
    """State, label and class name of each optimizer that can be read; and why others cannot."""
    readable: list[tuple[Mapping[str, Any], str, str]] = []
    left_out: list[str] = []
    for state in states:
        try:
            kind = _kind(state)
        except ValueError as error:
            left_out.append(str(error))
            continue
        earlier = [known for *_, known in readable].count(kind)
        readable.append((state, f"{kind}-{earlier}" if earlier else kind, kind))
    return readable, left_out


def _kind(state: Mapping[str, Any]) -> str:
    group = state["param_groups"][0] if state["param_groups"] else {}
    entries: set[str] = set()
    for entry in state["state"].values():
        entries |= {key for key in entry if isinstance(key, str)}
    for name, needs_entries, needs_options in _SIGNS:
        if needs_entries <= entries and needs_options <= group.keys():
            return "AdamW" if name == "Adam" and group.get("decoupled_weight_decay") else name
    if not entries:
        raise ValueError("the optimizer state is empty: the optimizer has not stepped yet; train first")
    raise ValueError(
        f"the optimizer state must be of a torch.optim class, got entries {sorted(entries)}; "
        "inspect a run folder instead"
    )


def _table(
    state: Mapping[str, Any], label: str, kind: str, weights: Mapping[str, Any], saved: Mapping[str, Any]
) -> DynamicsTable:
    rates = {
        f"lr/{group_name(group, index)}": group["lr"]
        for index, group in enumerate(state["param_groups"])
        if "lr" in group
    }
    step = int(saved.get("global_step", 0) or 0)
    rows = list(_rows(state, kind, weights, moved=bool(saved.get("lr_schedulers"))))
    if not step:
        step = max((int(_step(entry)) for entry in state["state"].values()), default=0)
    # A scheduler has moved the rate on when a checkpoint is written: updates would not be those of the step.
    moved = bool(saved.get("lr_schedulers"))
    source = "checkpoint" if moved else "predicted"
    about = {
        "step": step,
        "optimizer": label,
        "real_steps": step,
        "update_source": source,
        "hyperparameters": {
            group_name(group, index): read_hyperparameters(group, getattr(torch.optim, kind))
            for index, group in enumerate(state["param_groups"])
        },
    }
    table = take(find_engine("eager"), rows, rates, histograms=True, about=about).table()
    # Where there is no update, none was lost; and where even the shape is not known, nothing is.
    table.values[np.isnan(table["update_rms"]), table.columns.index("update_lost_frac")] = np.nan
    table.values[table["numel"] == 0] = np.nan
    return table


def _step(entry: Mapping[str, Any]) -> float:
    step = entry.get("step", 1)
    return host_number(step) if isinstance(step, Tensor) else float(step)


def _rows(state: Mapping[str, Any], kind: str, weights: Mapping[str, Any], *, moved: bool) -> Iterator[Row]:
    rule = rule_for(getattr(torch.optim, kind))
    names = _names(state, weights)
    for group_index, group in enumerate(state["param_groups"]):
        for position, index in enumerate(group["params"]):
            given = given_names(group)
            name = given[position] if given else names.get(index, f"parameter_{index}")
            entry = state["state"].get(index, {})
            parameter = weights.get(name)
            if not isinstance(parameter, Tensor):
                parameter = _unknown_parameter(entry)
            info = RowInfo(
                name,
                group_name(group, group_index),
                tuple(parameter.shape),
                str(parameter.dtype).removeprefix("torch."),
            )
            tensors = {k: as_real(v) if isinstance(v, Tensor) else v for k, v in entry.items()}
            real = as_real(parameter)
            # What is not known is NaN, and makes all that a rule computes from it NaN.
            unknown = torch.full_like(real, torch.nan)
            view = StepView(real, unknown, tensors, group, _step(entry), touched=unknown)
            canonical = canonical_step(rule, prepared(rule, view))
            if canonical is not None:
                canonical.gradient = None
                factor = canonical.gradient_factor
                if moved or isinstance(factor, Tensor) or factor:
                    canonical.numerator = unknown
            yield Row(info, real, None, None, canonical)


def _unknown_parameter(entry: Mapping[str, Any]) -> Tensor:
    """NaN in the shape that a parameter's state tells: factored moments span it together."""
    known = [x for x in entry.values() if isinstance(x, Tensor) and x.dim()]
    if not known:
        return torch.zeros(0)
    shape = np.broadcast_shapes(*(tuple(x.shape) for x in known))
    return torch.full(shape, torch.nan, dtype=known[0].dtype)


def _names(state: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[int, str]:
    """Names by position, when the saved weights fit the states one to one in order and shape.

    Only one group without names is in model order for sure; several say nothing about theirs.
    """
    if len(state["param_groups"]) != 1:
        return {}
    indices = state["param_groups"][0]["params"]
    candidates = [
        (name, w)
        for name, w in weights.items()
        if isinstance(w, Tensor) and w.is_floating_point() and not name.endswith(_BUFFERS)
    ]
    if len(indices) != len(candidates):
        return {}
    for index, (_, weight) in zip(indices, candidates, strict=True):
        entry = state["state"].get(index, {})
        shapes = {tuple(x.shape) for x in entry.values() if isinstance(x, Tensor) and x.dim()}
        if shapes and tuple(weight.shape) not in shapes and "row_var" not in entry:
            return {}
    return {index: name for index, (name, _) in zip(indices, candidates, strict=True)}


_BUFFERS = ("running_mean", "running_var")
"""Saved beside parameters by batch norm, but no parameters."""
