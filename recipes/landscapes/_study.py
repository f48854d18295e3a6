"""The words of a landscape: a study makes findings, a finding compares a prediction with a measurement."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from lightning_adapt.recipes.landscapes._lab import Lab

Kind = Literal["equal", "at most", "at least"]


@dataclass(frozen=True)
class Finding:
    """A number that theory predicts beside the number that was measured.

    Args:
        claim: One sentence that the numbers are about.
        predicted: From the formula.
        measured: From the monitor's tables.
        tolerance: Largest relative difference that still counts as agreement; absolute when ``predicted``
            is 0 or ``absolute``.
        kind: ``"equal"``, or a bound: the measurement must be ``"at most"`` or ``"at least"`` the prediction.
        absolute: Compare the difference itself.
        reason: What the tolerance is made of, or why the claim does not hold as textbooks say it.

    Example:
        >>> finding = Finding("steps to cross", predicted=100, measured=91, tolerance=0.1)
        >>> round(finding.difference, 3), finding.holds
        (0.09, True)
    """

    claim: str
    predicted: float
    measured: float
    tolerance: float
    kind: Kind = "equal"
    absolute: bool = False
    reason: str = ""

    @property
    def difference(self) -> float:
        """How far apart: relative to the prediction, or absolute."""
        apart = abs(self.measured - self.predicted)
        return apart if self.absolute or self.predicted == 0 else apart / abs(self.predicted)

    @property
    def allowance(self) -> float:
        """The tolerance as a number of the measurement's own unit."""
        if self.tolerance == 0 or self.absolute or self.predicted == 0:
            return self.tolerance
        return self.tolerance * abs(self.predicted)

    @property
    def explained(self) -> bool:
        """Whether ``reason`` belongs beside the numbers.

        It does where the claim does not hold, and where more than rounding is allowed: there it says what
        the tolerance is made of, such as an interval over seeds.
        """
        return bool(self.reason) and (not self.holds or self.tolerance > 1e-6)

    @property
    def holds(self) -> bool:
        """Whether the claim held."""
        if math.isnan(self.measured) or math.isnan(self.predicted):
            return False
        if self.kind == "at most" and self.measured <= self.predicted:
            return True
        if self.kind == "at least" and self.measured >= self.predicted:
            return True
        return self.measured == self.predicted or self.difference <= self.tolerance


@dataclass(frozen=True)
class Figure:
    """Curves of one picture.

    Args:
        title: What it shows.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        curves: Legend to ``(x values, y values)``. A legend that begins with ``predicted`` is drawn dashed.
        log_x: Logarithmic horizontal axis.
        log_y: Logarithmic vertical axis.
    """

    title: str
    x: str
    y: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log_x: bool = True
    log_y: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a study found."""

    findings: Sequence[Finding]
    figures: Sequence[Figure] = field(default_factory=tuple)


class Study(ABC):
    """One claim of the theory as an experiment.

    A subclass takes its numbers as keyword arguments with defaults (they become command-line options), and
    its docstring gives the formula, the source and what to look at.
    """

    #: Name on the command line, without ``landscapes/``.
    name: ClassVar[str]
    #: The claim in one sentence.
    claim: ClassVar[str]

    @abstractmethod
    def run(self, lab: Lab) -> Outcome:
        """Run the experiment with real Trainers and compare.

        Args:
            lab: Trains modules with the monitor on and keeps the tables.
        """
