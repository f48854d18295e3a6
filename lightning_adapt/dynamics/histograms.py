"""Histograms with edges fixed in advance, so that counts add up over shards, ranks and steps.

Every octave ``[2^e, 2^(e+1))`` is cut into equal parts, which is what the leading mantissa bits of a
floating-point number say: a bin index is a shift of its bit pattern, exact on every device and dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bins:
    """Fixed bins for non-negative numbers.

    Bin 0 holds everything below ``2^lowest`` (zero included), the last bin everything from
    ``2^highest`` on (inf included); between them each octave has ``2^mantissa_bits`` bins.

    Args:
        name: What is counted.
        lowest: Exponent of the lowest edge.
        highest: Exponent of the highest edge.
        mantissa_bits: Leading mantissa bits that take part: 2 means four bins an octave.

    Example:
        >>> bins = Bins("x", lowest=-1, highest=1, mantissa_bits=1)
        >>> bins.edges.tolist()
        [0.5, 0.75, 1.0, 1.5, 2.0]
        >>> bins.size
        6
    """

    name: str
    lowest: int
    highest: int
    mantissa_bits: int

    @property
    def size(self) -> int:
        """Number of bins, the two open ones included."""
        return ((self.highest - self.lowest) << self.mantissa_bits) + 2

    @property
    def first_key(self) -> int:
        """What to take from the leading bits of a float64 to get its bin: ``(bits >> shift) - first_key``."""
        return ((self.lowest + 1023) << self.mantissa_bits) - 1

    @cached_property
    def edges(self) -> FloatArray:
        """The ``size - 1`` edges between the bins, ascending; read only."""
        parts = 1 << self.mantissa_bits
        octaves = np.exp2(np.arange(self.lowest, self.highest, dtype=np.float64))
        within = 1.0 + np.arange(parts) / parts
        edges = np.append((octaves[:, None] * within).ravel(), 2.0**self.highest)
        edges.setflags(write=False)
        return edges

    @cached_property
    def widths(self) -> tuple[FloatArray, FloatArray]:
        """The lower edge of each bin, and the factor to its upper one; 1 for the two open ones."""
        lower, upper = np.append(self.edges[0], self.edges), np.append(self.edges, self.edges[-1])
        return lower, upper / lower


EFFECTIVE_LR = Bins("effective_lr", lowest=-64, highest=64, mantissa_bits=2)
SECOND_MOMENT = Bins("second_moment", lowest=-160, highest=96, mantissa_bits=1)
UPDATE = Bins("update", lowest=-96, highest=32, mantissa_bits=2)

HISTOGRAMS: tuple[Bins, ...] = (EFFECTIVE_LR, SECOND_MOMENT, UPDATE)
"""The histograms of a table: effective learning rate, bias-corrected second moment, |update|."""

EFFECTIVE_LR_QUANTILES: Mapping[str, float] = {
    "effective_lr_p05": 0.05,
    "effective_lr_p50": 0.5,
    "effective_lr_p95": 0.95,
}
"""The columns of a table that are quantiles, read from the first histogram."""

WIDTH = EFFECTIVE_LR.size
assert all(bins.size == WIDTH for bins in HISTOGRAMS)  # one rectangular array holds them all


#: Below this many elements every element is counted: less than 2^14 would be left of them.
SAMPLED_FROM = 3 << 14

# Primes: a sample must not walk down one column of a matrix.
_STRIDES = (
    1021, 509, 251, 127, 113, 101, 89, 79, 71, 61, 59, 53,
    47, 43, 41, 37, 31, 29, 23, 19, 17, 13, 11, 7, 5, 3,
)  # fmt: skip


@lru_cache(maxsize=1 << 14)  # the same for every reading of a run
def sample_stride(shape: tuple[int, ...]) -> int:
    """Which elements of a tensor a kernel counts: every ``stride``-th, and each of them ``stride`` times.

    At least 2^14 elements are counted, so that the rank of a quantile is off by less than 0.02 (five standard
    errors of a random sample). The stride divides no dimension, so that the sample meets every column.

    Args:
        shape: Of the tensor.

    Returns:
        1 below `SAMPLED_FROM` elements: all are counted.

    Example:
        >>> sample_stride((1000, 40)), sample_stride((768, 3072)), sample_stride((127 * 20, 1000))
        (1, 127, 113)
    """
    numel = math.prod(shape)
    if numel < SAMPLED_FROM:
        return 1
    most = numel >> 14
    return next((s for s in _STRIDES if s <= most and all(size % s for size in shape)), 1)


def quantile(
    counts: npt.ArrayLike, q: float, bins: Bins, lowest: npt.ArrayLike, highest: npt.ArrayLike
) -> FloatArray:
    """Read the ``q`` quantile of each row from histogram counts.

    Finds the bin that holds rank ``q · total`` and goes the right share of the way through it on a log
    scale; exact to the width of a bin (a factor of at most 1.25 with four bins an octave).

    Args:
        counts: Shape ``(rows, bins.size)``.
        q: In [0, 1].
        bins: What the counts count.
        lowest: Shape ``(rows,)``: the known minimum of each row; no quantile is below it.
        highest: Shape ``(rows,)``: the known maximum.

    Returns:
        Shape ``(rows,)``, NaN for a row without counts.

    Example:
        >>> counts = np.zeros((1, EFFECTIVE_LR.size), dtype=int)
        >>> counts[0, 1 + 64 * 4] = 10
        >>> quantile(counts, 0.5, EFFECTIVE_LR, [1.0], [1.2]).round(3).tolist()
        [1.118]
    """
    found: FloatArray = quantiles(counts, [q], bins, lowest, highest)[0]
    return found


def quantiles(
    counts: npt.ArrayLike, qs: Sequence[float], bins: Bins, lowest: npt.ArrayLike, highest: npt.ArrayLike
) -> FloatArray:
    """As `quantile`, several at once.

    Returns:
        Shape ``(len(qs), rows)``.
    """
    given = np.asarray(counts)
    used = np.logical_or.reduce(given, axis=0).nonzero()[0]  # a few dozen of hundreds of bins
    first, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    counted = given[:, first:end].astype(np.float64)
    low, high = np.asarray(lowest, dtype=np.float64), np.asarray(highest, dtype=np.float64)
    reached = counted.cumsum(axis=1)
    total, rows = reached[:, -1], np.arange(len(counted))
    target = np.array(qs)[:, None] * total
    place = np.minimum(np.add.reduce(reached < target[:, :, None], axis=2, dtype=np.intp), end - first - 1)
    inside, index = counted[rows, place], first + place
    share = (target - (reached[rows, place] - inside)) / np.where(inside > 0, inside, 1.0)
    left, growth = bins.widths
    value = left[index] * growth[index] ** np.minimum(np.maximum(share, 0.0), 1.0)
    value = np.where((index == 0) | (target == 0), low, np.where(index == bins.size - 1, high, value))
    found: FloatArray = np.where(total > 0, np.minimum(np.maximum(value, low), high), np.nan)
    return found
