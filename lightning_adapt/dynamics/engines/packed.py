"""The figures an engine hands over: sums, maxima and counts that merge, and how columns follow from them.

Everything a reading needs travels in one buffer, so that one copy brings it to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_adapt.dynamics.histograms import (
    EFFECTIVE_LR,
    EFFECTIVE_LR_QUANTILES,
    HISTOGRAMS,
    WIDTH,
    FloatArray,
    quantiles,
)
from lightning_adapt.dynamics.statistics import COLUMNS

COUNTS: tuple[str, ...] = (
    "numel",
    "grad_numel",  # elements that have a gradient
    "grad_finite",
    "grad_zero",
    "first_finite",
    "second_numel",
    "second_finite",
    "second_zero",
    "second_subnormal",
    "floor_numel",  # elements whose step has an epsilon
    "floor_untouched",
    "floor_underflow",
    "floor_small",
    "eps_share_numel",
    "update_finite",
    "lost_numel",
    "lost",
    "param_finite",
    "decay_finite",
    "rms_t_numel",
    "snr_numel",
)
SUMS: tuple[str, ...] = (
    "grad_square",
    "first_square",
    "second_hat",
    "eps_share",
    "update_square",
    "update_dot_grad",
    "param_square",
    "decay_square",
    "rms_t",
    "snr",
)
MAXIMA: tuple[str, ...] = (
    "grad_absmax",
    "first_moment_absmax",
    "second_moment_absmax",
    "effective_lr_max",
    "effective_lr_negated_min",
    "update_absmax",
)
ADDED = len(COUNTS) + len(SUMS)
"""Figures that are added where parts come together; of the others, `MAXIMA`, the largest stays."""
FIGURES = ADDED + len(MAXIMA)


#: Numbers of the step that fit behind the figures of a reading, see `Packed.buffer`.
SPARE = 16


@dataclass
class Unpacked:
    """What was measured, on the host, figures in float64."""

    figures: FloatArray
    counts: npt.NDArray[np.int32] | None
    scalars: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """How figures, then counts, then numbers of the step lie in one piece of memory.

    Args:
        rows: Of figures and counts.
        histograms: Whether there are counts.
        dtype: Of figures and numbers: float64, or float32 where the device has no float64.
    """

    rows: int
    histograms: bool
    dtype: torch.dtype = torch.float64

    @cached_property
    def split(self) -> int:
        """Bytes of the figures, behind which the counts begin."""
        return self.rows * FIGURES * self.dtype.itemsize

    @cached_property
    def end(self) -> int:
        """Bytes of figures and counts."""
        return self.split + (self.rows * len(HISTOGRAMS) * WIDTH * 4 if self.histograms else 0)

    @cached_property
    def size(self) -> int:
        """Bytes, with room for `SPARE` numbers."""
        return self.end + 8 * SPARE

    def arrays(self, memory: npt.NDArray[np.uint8]) -> tuple[FloatArray, npt.NDArray[np.int32] | None]:
        """Figures and counts in memory on the host."""
        kind: Any = np.float64 if self.dtype == torch.float64 else np.float32
        figures: FloatArray = memory[: self.split].view(kind).reshape(self.rows, FIGURES)
        if not self.histograms:
            return figures, None
        counts = memory[self.split : self.end].view(np.int32)
        return figures, counts.reshape(self.rows, len(HISTOGRAMS), WIDTH)

    def unpack(self, buffer: Tensor) -> Unpacked:
        """Read a buffer that has arrived on the host; numbers that nobody has set are anything."""
        memory = buffer.numpy()
        figures, counts = self.arrays(memory)
        return Unpacked(figures.astype(np.float64), counts, memory[self.end :].view(figures.dtype).tolist())


@lru_cache(maxsize=64)  # the same for every reading of a run
def layout_of(rows: int, histograms: bool) -> Layout:
    """Where what an engine measures lies."""
    return Layout(rows, histograms)


@dataclass
class Packed:
    """What an engine measured, still on the device.

    Args:
        memory: All of it in one piece, flat, uint8.
        layout: What lies where.
        scalars: 0-dim device tensors that travel along (found_inf, loss scale, learning rates).
        strides: Which elements the counts of each row are of, see `sample_stride`; empty: all of them.
    """

    memory: Tensor
    layout: Layout
    scalars: Sequence[Tensor] = ()
    strides: Sequence[int] = ()

    @classmethod
    def room(cls, rows: int, device: torch.device, *, histograms: bool) -> Packed:
        """Room for ``rows``, not filled."""
        layout = layout_of(rows, histograms)
        return cls(torch.empty(layout.size, dtype=torch.uint8, device=device), layout)

    @classmethod
    def of(cls, figures: Tensor, counts: Tensor | None, strides: Sequence[int] = ()) -> Packed:
        """Put together what was measured apart."""
        parts = [figures.reshape(-1).view(torch.uint8)]
        if counts is not None:
            parts.append(counts.reshape(-1).view(torch.uint8))
        memory = torch.cat([*parts, parts[0].new_empty(8 * SPARE)])
        return cls(memory, Layout(len(figures), counts is not None, figures.dtype), strides=strides)

    @property
    def figures(self) -> Tensor:
        """Shape ``(rows, FIGURES)``: `COUNTS`, `SUMS`, `MAXIMA`; a maximum of nothing means nothing."""
        return self.memory[: self.layout.split].view(self.layout.dtype).view(self.layout.rows, FIGURES)

    @property
    def counts(self) -> Tensor | None:
        """Shape ``(rows, 3, WIDTH)``, int32, or ``None``."""
        if not self.layout.histograms:
            return None
        counts = self.memory[self.layout.split : self.layout.end].view(torch.int32)
        return counts.view(self.layout.rows, len(HISTOGRAMS), WIDTH)

    def buffer(self) -> Tensor:
        """All of it with its numbers, as one flat uint8 tensor on the device."""
        if not self.scalars:
            return self.memory
        dtype, end = self.layout.dtype, self.layout.end
        given = [s.to(self.memory.device, dtype) for s in self.scalars]
        if len(given) > SPARE:
            return torch.cat([self.memory[:end], torch.stack(given).view(torch.uint8)])
        torch.stack(given, out=self.memory[end : end + dtype.itemsize * len(given)].view(dtype))
        return self.memory


def concatenated(parts: Sequence[Packed]) -> Packed:
    """The rows of several `Packed`, one after the other, on the device of those that are not on the host."""
    if len(parts) == 1:
        return parts[0]
    homes = [part.memory.device for part in parts]
    home = next((device for device in homes if device.type != "cpu"), homes[0])
    dtype = torch.float32 if home.type == "mps" else torch.float64
    counts = [part.counts.to(home, non_blocking=True) for part in parts if part.counts is not None]
    return Packed.of(
        torch.cat([part.figures.to(home, dtype, non_blocking=True) for part in parts]),
        torch.cat(counts) if counts else None,
        [stride for part in parts for stride in (part.strides or [1] * part.layout.rows)],
    )


_BELONGS = {
    "grad_absmax": "grad_finite",
    "first_moment_absmax": "first_finite",
    "second_moment_absmax": "second_finite",
    "effective_lr_max": "numel",
    "effective_lr_negated_min": "numel",
    "update_absmax": "update_finite",
}
"""The count of elements that each maximum is taken over."""

_SHARES = {
    "grad_zero_frac": ("grad_zero", "grad_numel"),
    "grad_finite_frac": ("grad_finite", "grad_numel"),
    "second_moment_zero_frac": ("second_zero", "second_numel"),
    "second_moment_subnormal_frac": ("second_subnormal", "second_numel"),
    "eps_floor_untouched_frac": ("floor_untouched", "floor_numel"),
    "eps_floor_underflow_frac": ("floor_underflow", "floor_numel"),
    "eps_floor_small_frac": ("floor_small", "floor_numel"),
    "eps_share_mean": ("eps_share", "eps_share_numel"),
    "update_lost_frac": ("lost", "lost_numel"),
    "snr_mean": ("snr", "snr_numel"),
    # From here on their roots: root mean squares.
    "grad_rms": ("grad_square", "grad_finite"),
    "first_moment_rms": ("first_square", "first_finite"),
    "second_moment_rms": ("second_hat", "second_finite"),
    "update_rms": ("update_square", "update_finite"),
    "param_rms": ("param_square", "param_finite"),
    "decay_rms": ("decay_square", "decay_finite"),
    "rms_t": ("rms_t", "rms_t_numel"),
}
"""Columns that are one sum or count divided by another."""
_ROOTS = [*_SHARES].index("grad_rms")


_FURTHER = (
    *("numel", "grad_nonfinite_frac", "effective_lr_min", "eps_floor_frac"),
    *("update_grad_cosine", "update_ratio"),
)
_KNOWN = (*_SHARES, *MAXIMA, *_FURTHER, *EFFECTIVE_LR_QUANTILES)
"""Everything that figures say, among it the columns."""
_COLUMN = {name: place for place, name in enumerate(_KNOWN)}
_ORDER = np.array([_COLUMN[name] for name in COLUMNS])
_FIGURE = {name: place for place, name in enumerate((*COUNTS, *SUMS, *MAXIMA))}
_UPPER = [*(part for part, _ in _SHARES.values()), *MAXIMA]
_LOWER = [*(whole for _, whole in _SHARES.values()), *(_BELONGS[name] for name in MAXIMA)]
_OTHERS = ("numel", "update_square", "grad_square", "update_dot_grad")
_ASKED = np.array([_FIGURE[name] for name in (*_UPPER, *_LOWER, *_OTHERS)])
_CAUSES = slice(_COLUMN["eps_floor_untouched_frac"], _COLUMN["eps_floor_small_frac"] + 1)


def finalise(measured: Unpacked) -> FloatArray:
    """Turn merged sums, maxima and counts into the table's columns.

    Args:
        measured: Of one reading, or the merger of several partial ones.

    Returns:
        Shape ``(rows, len(COLUMNS))``; NaN where there was nothing to measure.
    """
    # Methods rather than numpy's functions, which are Python: a small table takes as long as its calls.
    asked = measured.figures.take(_ASKED, axis=1)
    known = np.empty((len(asked), len(_KNOWN)))
    known.fill(np.nan)
    of = {name: known[:, _COLUMN[name]] for name in _FURTHER}  # views
    n, shares = len(_UPPER), len(_SHARES)
    upper, there, (numel, update, gradient, dot) = asked[:, :n], asked[:, n:-4] > 0, asked.T[-4:]
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(upper[:, :shares], asked[:, n : n + shares], out=known[:, :shares], where=there[:, :shares])
        np.sqrt(known[:, _ROOTS:shares], out=known[:, _ROOTS:shares])
        norms = np.sqrt(update) * np.sqrt(gradient)
        np.divide(dot, norms, out=of["update_grad_cosine"], where=norms > 0)
        rms = known[:, _COLUMN["param_rms"]]
        np.divide(known[:, _COLUMN["update_rms"]], rms, out=of["update_ratio"], where=rms > 0)
    tops = upper[:, shares:]
    np.copyto(known[:, shares:n], tops, where=there[:, shares:] & (tops > -np.inf))
    of["numel"][:] = numel
    np.subtract(1.0, known[:, _COLUMN["grad_finite_frac"]], out=of["grad_nonfinite_frac"])
    np.negative(known[:, _COLUMN["effective_lr_negated_min"]], out=of["effective_lr_min"])
    np.add.reduce(known[:, _CAUSES], axis=1, out=of["eps_floor_frac"])
    if measured.counts is not None:
        ends = of["effective_lr_min"], known[:, _COLUMN["effective_lr_max"]]
        qs = [*EFFECTIVE_LR_QUANTILES.values()]
        known[:, -len(qs) :] = quantiles(measured.counts[:, 0], qs, EFFECTIVE_LR, *ends).T
    return known.take(_ORDER, axis=1)
