"""What a gradient scaler did, step by step: counted on the host, after copies that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_adapt.callbacks._guard import Guard
from lightning_adapt.callbacks._numbers import Numbers
from lightning_adapt.dynamics.canonical import Scalar
from lightning_adapt.dynamics.step_hooks import StepHooks

COUNTS: tuple[str, ...] = ("growths", "backoffs", "skipped_steps", "real_steps")

MOST_WAITING = 256
"""Steps noted before they are sent to the host, at the latest."""


@dataclass
class _Step:
    """One announced step: the scale it used, and whether it was skipped, which a step undoes."""

    scale: Scalar
    skipped: Scalar = 1.0


@dataclass
class Report:
    """Counts at some moment.

    Args:
        scale: For the next step.
        counts: Since training began, see `COUNTS`.
        recent_steps: Announced since the report before.
        recent_skips: Skipped of these.
        about: What the sender said.
    """

    scale: float
    counts: dict[str, int]
    recent_steps: int
    recent_skips: int
    about: dict[str, Any] = field(default_factory=dict)


class ScaleLedger:
    """Counts growths and back-offs of the scale, steps skipped and made.

    A step is announced; then its optimizer's ``step`` is called, unless the scaler found inf. A fused
    optimizer is called in any case and gets ``found_inf``, which stays on the device until it is sent.

    Args:
        optimizers: Torch optimizers, all with step hooks.
        scale: Gives the scaler's scale without waiting.
        counts: Where to go on counting.
        guard: Runs what is done inside the optimizers' steps.
    """

    def __init__(
        self,
        optimizers: Iterable[Optimizer],
        scale: Callable[[], Scalar],
        counts: Mapping[str, int],
        guard: Guard,
    ) -> None:
        self.counts = {name: int(counts.get(name, 0)) for name in COUNTS}
        self._scale = scale
        self._steps: list[_Step] = []
        self._open: _Step | None = None
        self._sent: list[tuple[Numbers, dict[str, Any] | None]] = []
        self._last_scale: float | None = None
        self._recent = [0, 0]
        self._hooks = [
            StepHooks(optimizer, after=partial(guard, partial(self._made, optimizer))).attach()
            for optimizer in optimizers
        ]

    def detach(self) -> None:
        """Let go of the optimizers."""
        for hooks in self._hooks:
            hooks.detach()

    def announced(self) -> None:
        """A step is about to be made."""
        self.over()
        scale = self._scale()
        # The scaler writes the next scale over this one.
        self._open = _Step(scale.detach().clone() if isinstance(scale, Tensor) else scale)

    def _made(self, optimizer: Optimizer) -> None:
        if self._open is not None:
            found_inf = getattr(optimizer, "found_inf", None)
            self._open.skipped = 0.0 if found_inf is None else found_inf.detach()

    def over(self, *, nothing: bool = False) -> bool:
        """The step that was announced is over, if there was one.

        Args:
            nothing: There was no loss, and so no step.

        Returns:
            Whether there was one.
        """
        step, self._open = self._open, None
        if step is None or nothing:
            return False
        self._steps.append(step)
        if len(self._steps) >= MOST_WAITING:
            self.send(None)
        return True

    def send(self, about: dict[str, Any] | None) -> None:
        """Start the copy to the host of what was noted so far.

        Args:
            about: Comes back in the `Report`; ``None`` asks for none.
        """
        steps, self._steps = self._steps, []
        values = [step.scale for step in steps] + [step.skipped for step in steps] + [self._scale()]
        self._sent.append((Numbers(values), about))

    def collect(self, *, wait: bool = False) -> Iterator[Report]:
        """Count what has arrived.

        Args:
            wait: Wait for what is still on its way.

        Yields:
            A report for each `send` that asked for one.
        """
        while self._sent and (wait or self._sent[0][0].ready()):
            numbers, about = self._sent.pop(0)
            *noted, scale = numbers.read()
            middle = len(noted) // 2
            self._count(noted[:middle], noted[middle:], scale)
            if about is not None:
                (steps, skips), self._recent = self._recent, [0, 0]
                yield Report(scale, dict(self.counts), steps, skips, about)

    def _count(self, scales: list[float], skipped: list[float], scale: float) -> None:
        trail = [*([] if self._last_scale is None else [self._last_scale]), *scales, scale]
        moves = [after - before for before, after in pairwise(trail)]
        skips = sum(found > 0 for found in skipped)
        self.counts["growths"] += sum(move > 0 for move in moves)
        self.counts["backoffs"] += sum(move < 0 for move in moves)
        self.counts["skipped_steps"] += skips
        self.counts["real_steps"] += len(skipped) - skips
        self._recent = [self._recent[0] + len(skipped), self._recent[1] + skips]
        self._last_scale = scale
