"""How long a way takes: steps until a distance is travelled."""

from __future__ import annotations

import math

import numpy as np

from lightning_adapt.dynamics.histograms import FloatArray


def steps_to(distance: float, steps: FloatArray, travelled: FloatArray) -> float:
    """Steps until ``distance`` is travelled, between two readings on a straight line.

    Args:
        distance: To travel.
        steps: Number of steps at each reading, from 1, rising.
        travelled: Way from the start at each reading.

    Returns:
        Steps with a fraction, so that nothing is lost by rounding; inf if the end is not reached.

    Example:
        >>> steps_to(2.5, np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
        3.0
    """
    beyond = np.flatnonzero(travelled >= distance)
    if not len(beyond):
        return math.inf
    last = beyond[0]
    n, way = (np.concatenate([[0.0], values[: last + 1]]) for values in (steps, travelled))
    return float(n[-1] - (n[-1] - n[-2]) * (way[-1] - distance) / (way[-1] - way[-2]))
