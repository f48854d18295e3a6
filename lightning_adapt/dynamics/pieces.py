"""One parameter piece by piece, so that what a rule has to compute is never as large as the parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import StepView, as_real


def cut(view: StepView, size: int) -> Iterator[StepView]:
    """Cut ``view`` along the parameter's first dimension; nothing is copied but what is sparse.

    Args:
        view: Of the whole parameter; its gradient and state may be sparse.
        size: Elements of a piece at most, where one slice of the first dimension has not more.

    Yields:
        Views of the pieces, dense. State tensors with as many dimensions and rows as the parameter are cut
        like it; others, such as numbers, stay whole.
    """
    if view.parameter.numel() <= size and not _must_change(view):
        yield view
        return
    parameter, gradient = view.parameter, _coalesced(view.gradient)
    state = {key: _coalesced(value) for key, value in view.state.items()}
    rows = parameter.shape[0] if parameter.dim() else 0
    step = rows if parameter.numel() <= size else max(size * rows // parameter.numel(), 1)
    for start in range(0, rows, step) if rows else (0,):
        stop = min(start + step, rows)
        whole = start == 0 and stop == rows
        part = gradient if whole or gradient is None else _slice(gradient, start, stop)
        yield replace(
            view,
            parameter=parameter[start:stop] if rows else parameter,
            gradient=None if part is None else as_real(_dense(part)),
            state={key: _cut(value, parameter, start, stop) for key, value in state.items()},
            before=view.before[start:stop] if rows and view.before is not None else view.before,
            touched=_touched(part),
        )


def _must_change(view: StepView) -> bool:
    """Whether anything is sparse or complex; else a view that is small enough stays as it is."""
    for x in (view.gradient, *view.state.values()):  # runs for every parameter: any() takes twice as long
        if isinstance(x, Tensor) and (x.is_sparse or x.is_complex()):
            return True
    return False


def _cut(value: Any, parameter: Tensor, start: int, stop: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    dimensions = value.dim() + int(value.is_complex())  # the parameter is real already
    if parameter.dim() and dimensions == parameter.dim() and value.shape[0] == parameter.shape[0]:
        value = _slice(value, start, stop)
    return as_real(_dense(value))


def _coalesced(value: Any) -> Any:
    return value.detach().coalesce() if isinstance(value, Tensor) and value.is_sparse else value


def _slice(tensor: Tensor, start: int, stop: int) -> Tensor:
    if not tensor.is_sparse:
        return tensor.detach()[start:stop]
    indices, values = tensor.indices(), tensor.values()
    # Reads two numbers on the host; that a tensor is coalesced has waited for the device already.
    ends = torch.tensor([start, stop], device=indices.device)
    first, last = torch.searchsorted(indices[0].contiguous(), ends).tolist()
    inside = indices[:, first:last].clone()
    inside[0] -= start
    return torch.sparse_coo_tensor(
        inside,
        values[first:last],
        (stop - start, *tensor.shape[1:]),
        is_coalesced=True,
        check_invariants=False,
    )


def _dense(tensor: Tensor) -> Tensor:
    return tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()


def _touched(gradient: Tensor | None) -> Tensor | None:
    """Which elements a sparse gradient names; ``None`` for a dense one."""
    if gradient is None or not gradient.is_sparse:
        return None
    touched = torch.zeros(gradient.shape, dtype=torch.bool, device=gradient.device)
    touched[tuple(gradient.indices())] = True
    return touched


def any_sparse(gradient: Tensor | None, state: Mapping[str, Any]) -> bool:
    """Whether anything of a parameter must be made dense to be read."""
    return any(isinstance(x, Tensor) and x.is_sparse for x in (gradient, *state.values()))
