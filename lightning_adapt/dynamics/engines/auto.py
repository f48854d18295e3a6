"""The engine that leaves the work to the fastest one for the device."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines import choose, find_engine
from lightning_adapt.dynamics.engines.packed import Packed
from lightning_adapt.dynamics.engines.steady import SteadyRows


def measure(rows: Iterable[Row], *, histograms: bool = True) -> Packed:
    """Measure ``rows`` with the engine that `choose` names for the device of the first.

    Args:
        rows: Consumed lazily.
        histograms: Also count; without counts the quantile columns are NaN.
    """
    if isinstance(rows, SteadyRows):
        return find_engine(choose(rows.steady.device)[0])(rows, histograms=histograms)
    remaining = iter(rows)
    with torch.no_grad():
        first = next(remaining, None)
    device = torch.device("cpu") if first is None else first.parameter.device
    engine = find_engine("eager" if first is None else choose(device)[0])
    return engine(remaining if first is None else chain([first], remaining), histograms=histograms)
