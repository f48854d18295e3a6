"""What an optimizer and its parameters hold right after a step, listed without looking at it for long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.rows import NOTHING, Circumstances, Member, build_rows


class Seen:
    """Everything that rows are made of, as it is now.

    Args:
        optimizer: After its step.
        members: Its parameters.
        now: What is true for the whole step.

    Attributes:
        parameters: One a member, as all others: what each has, or ``None``.
        states: Entries of the optimizer's state.
        names: What is in each of these.
        held: All that is in them, one after the other.
        gradients: Of the parameters.
        befores: Parameters before the step; ``None`` if none was kept.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, members: Sequence[Member], now: Circumstances
    ) -> None:
        self.optimizer, self.members, self.now = optimizer, members, now
        state, before = optimizer.state, now.before
        self.parameters = [member.parameter for member in members]
        self.states = [state.get(parameter, NOTHING) for parameter in self.parameters]
        self.names = [*map(tuple, self.states)]
        self.held = [value for state in self.states for value in state.values()]
        self.gradients = [parameter.grad for parameter in self.parameters]
        self.befores = None if before is None else [before.get(id(x)) for x in self.parameters]

    @property
    def fresh(self) -> list[Tensor | None]:
        """Those that are others at each step."""
        return self.gradients if self.befores is None else self.gradients + self.befores

    def rows(self) -> Iterator[Row]:
        """The rows one by one, for whoever wants to see them."""
        return build_rows(self.optimizer, self.members, self.now)
