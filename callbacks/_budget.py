"""What watching costs, and how often a budget lets it happen."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from time import perf_counter


class Budget:
    """Keeps the monitor's share of the training time, and lengthens its interval to stay within a budget.

    ``overhead_frac = seconds spent by the monitor / seconds of training``. A reading of ``cost`` seconds
    every ``every`` steps of ``step`` seconds takes the share ``cost / (every · step)``.

    Args:
        every: Interval asked for, in steps.
        share: Most of the step time that readings may take; ``None`` never changes the interval.
        clock: Seconds.

    Example:
        >>> time = iter([0.0, 10.0])
        >>> budget = Budget(every=1, share=0.01, clock=lambda: next(time))
        >>> budget.start()
        >>> for _ in range(3):
        ...     budget.add(0.5)
        >>> budget.interval(steps=17)  # half a second, steps of half a second: every hundredth step
        100
    """

    def __init__(
        self, every: int, share: float | None = None, *, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.every = every
        self._asked, self._share, self._clock = every, share, clock
        self._started = 0.0
        self._spent = 0.0
        self._costs: deque[float] = deque(maxlen=9)

    def start(self) -> None:
        """Training begins."""
        self._started = self._clock()
        self._spent = 0.0
        self._costs.clear()

    def add(self, cost: float) -> None:
        """Reading, all optimizers together, has cost so many seconds."""
        self._spent += cost
        self._costs.append(cost)

    def spend(self, seconds: float) -> None:
        """The monitor took so many seconds beside its readings."""
        self._spent += seconds
        if self._costs:
            self._costs[-1] += seconds

    def overhead_frac(self) -> float:
        """Share of the time since `start` that readings took."""
        elapsed = self._clock() - self._started
        return self._spent / elapsed if elapsed > 0 else 0.0

    def _usual(self) -> float:
        """Mean of the last costs but the largest: the first warms caches, and any may be disturbed."""
        return (sum(self._costs) - max(self._costs)) / (len(self._costs) - 1)

    def interval(self, steps: int) -> int:
        """The interval from now on: a multiple of the one asked for, never shorter than before.

        Args:
            steps: Since `start`.
        """
        if self._share is None or len(self._costs) < 3 or steps < 1:
            return self.every
        step = max(self._clock() - self._started - self._spent, 1e-9) / steps
        needed = self._usual() / (self._share * step)
        self.every = max(self.every, self._asked * math.ceil(needed / self._asked))
        return self.every
