"""READ: an optimizer after a step becomes one `DynamicsTable`.

Torch only; the tables themselves (`table`, `statistics`, `histograms`) need numpy alone, so that viewers
start quickly. Public names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adapt.dynamics.canonical import CanonicalStep, StepView
    from lightning_adapt.dynamics.checkpoint import read_checkpoint
    from lightning_adapt.dynamics.curvature import (
        exact_hessian,
        hessian_operator,
        hessian_vector_product,
        largest_eigenvalue,
        preconditioned_sharpness,
        preconditioner_diagonal,
    )
    from lightning_adapt.dynamics.histograms import HISTOGRAMS
    from lightning_adapt.dynamics.probe import DynamicsProbe
    from lightning_adapt.dynamics.row_groups import RowGroups, split_row
    from lightning_adapt.dynamics.statistics import COLUMNS, STATISTICS
    from lightning_adapt.dynamics.table import DynamicsHistory, DynamicsTable, RowInfo
    from lightning_adapt.dynamics.update_rules import register_rule

_HOME = {
    "COLUMNS": "statistics",
    "CanonicalStep": "canonical",
    "DynamicsHistory": "table",
    "DynamicsProbe": "probe",
    "DynamicsTable": "table",
    "HISTOGRAMS": "histograms",
    "RowGroups": "row_groups",
    "RowInfo": "table",
    "STATISTICS": "statistics",
    "StepView": "canonical",
    "exact_hessian": "curvature",
    "hessian_operator": "curvature",
    "hessian_vector_product": "curvature",
    "largest_eigenvalue": "curvature",
    "preconditioned_sharpness": "curvature",
    "preconditioner_diagonal": "curvature",
    "read_checkpoint": "checkpoint",
    "register_rule": "update_rules",
    "split_row": "row_groups",
}
__all__ = [  # noqa: RUF022  plain sorted() order, as the guard test asks
    "COLUMNS",
    "CanonicalStep",
    "DynamicsHistory",
    "DynamicsProbe",
    "DynamicsTable",
    "HISTOGRAMS",
    "RowGroups",
    "RowInfo",
    "STATISTICS",
    "StepView",
    "exact_hessian",
    "hessian_operator",
    "hessian_vector_product",
    "largest_eigenvalue",
    "preconditioned_sharpness",
    "preconditioner_diagonal",
    "read_checkpoint",
    "register_rule",
    "split_row",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
