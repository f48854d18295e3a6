"""Watching one optimizer: hooks around its step, no training framework needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_adapt._text import whole_number
from lightning_adapt.dynamics.canonical import Scalar, as_real
from lightning_adapt.dynamics.engines import find_engine
from lightning_adapt.dynamics.hyperparameters import read_hyperparameters
from lightning_adapt.dynamics.kept_rows import KeptRows
from lightning_adapt.dynamics.reading import Reading, take
from lightning_adapt.dynamics.row_groups import Groups, RowGroups
from lightning_adapt.dynamics.rows import Circumstances, Member, group_name, members
from lightning_adapt.dynamics.step_hooks import StepHooks, has_step_hooks
from lightning_adapt.dynamics.table import DynamicsTable
from lightning_adapt.dynamics.update_rules import UpdateRule, rule_for

SNAPSHOT_BYTES = 1 << 25
"""A model up to this size (32 MiB) is copied before a step that is read, unless told otherwise."""


@dataclass
class _Armed:
    """What was kept before the step."""

    before: dict[int, Tensor] | None
    remembered: dict[int, dict[str, Tensor]]
    about: Mapping[str, Any]
    loss_scale: Scalar | None
    groups: dict[int, dict[str, Any]]
    cost_s: float


class DynamicsProbe:
    """Reads the dynamics of every parameter when its optimizer has stepped.

    Nothing of the training changes: the probe keeps a copy of the parameters from just before a step that
    it is going to read, and measures from the gradients the step used and the state it left.

    Args:
        optimizer: A torch optimizer.
        named_parameters: The model, or ``model.named_parameters()``: gives the rows their names and order.
        every_n_steps: Read every n-th step.
        engine: ``"auto"``, ``"triton"``, ``"numba"``, ``"eager"`` or ``"reference"``.
        histograms: Keep histogram counts in the table; without them the quantile columns are NaN.
        snapshot: Keep the parameters from before the step, so that ``update`` is measured. ``False`` makes
            no copy and predicts the update from the optimizer's state. ``None`` keeps all of a small
            model (up to `SNAPSHOT_BYTES`), and of a large one those parameters whose update the state does
            not tell: half precision, and optimizers whose rule is not ``exact``.
        row_groups: Parameters to show as several rows of the table: ``{"embed.weight": {"rare": indices}}``
            makes ``embed.weight[rare]`` and ``embed.weight[rest]``; see `RowGroups`.
        strict: Let a fault in the probe raise; by default it warns once and switches itself off.

    Raises:
        TypeError: If ``optimizer`` has no step hooks.
        ValueError: If ``every_n_steps`` is not positive, ``engine`` is unknown or ``row_groups`` do not fit.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        >>> with DynamicsProbe(optimizer, model.named_parameters()) as probe:
        ...     model(torch.ones(2, 3)).sum().backward()
        ...     optimizer.step()
        >>> round(probe.table["weight", "effective_lr_p50"], 6)  # lr / (|g| + eps) with g = 2
        0.005
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        named_parameters: nn.Module | Iterable[tuple[str, Tensor]] = (),
        *,
        every_n_steps: int = 1,
        engine: str = "auto",
        histograms: bool = True,
        snapshot: bool | None = None,
        row_groups: Mapping[str, Groups] | None = None,
        strict: bool = False,
    ) -> None:
        whole_number("every_n_steps", every_n_steps, 1, "1 reads every step")
        if not has_step_hooks(optimizer):
            raise TypeError(
                f"`optimizer` must have `register_step_post_hook` (every torch.optim.Optimizer does), got "
                f"{type(optimizer).__name__}; pass the torch optimizer inside it"
            )
        self.optimizer = optimizer
        self.strict = strict
        self.on_fault: Callable[[Exception], None] | None = None
        self.steps = 0  # calls of optimizer.step that came through
        self.skipped = 0  # announced steps that did not, see `note_skipped`
        # Called before a step that nobody armed; a callback that knows better when to read replaces it.
        self.on_step: Callable[[], None] | None = self._arm_when_due
        self._every, self._engine = every_n_steps, find_engine(engine)
        self._histograms, self._snapshot = histograms, snapshot
        self._module = named_parameters if isinstance(named_parameters, nn.Module) else None
        named = named_parameters
        given = list(named.named_parameters() if isinstance(named, nn.Module) else named)
        self._names = {id(parameter): name for name, parameter in given}
        self._row_groups: RowGroups | None = None
        if row_groups:
            # Names of other optimizers' parameters are right too: they are only not met here.
            shapes = {name: tuple(parameter.shape) for name, parameter in given}
            shapes |= {member.info.name: member.info.shape for member in members(optimizer, self._names)}
            self._row_groups = RowGroups(row_groups, shapes)
        self._members: list[Member] = []
        self._rows = KeptRows(optimizer)
        self._key: tuple[object, ...] = ()
        self._armed: _Armed | None = None
        self._fused_skips: Tensor | None = None
        self._pending: list[Reading] = []
        self._latest: DynamicsTable | None = None
        self._hooks = StepHooks(optimizer, before=self._before_step, after=self._after_step)

    # --- life ---

    def attach(self) -> Self:
        """Register the hooks; does nothing when they are there."""
        self._hooks.attach()
        return self

    def detach(self) -> None:
        """Remove the hooks and let go of what was kept for the next reading."""
        self._hooks.detach()
        self._armed = None
        self._rows.forget()

    def __enter__(self) -> Self:
        """Attach."""
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach."""
        self.detach()

    # --- results ---

    @property
    def table(self) -> DynamicsTable | None:
        """The table of the last step read, ``None`` before the first; waits for its copy if need be."""
        self.collect(wait=True)
        return self._latest

    def collect(self, *, wait: bool = False, **about: Any) -> list[DynamicsTable]:
        """Tables that have arrived since the last call, oldest first.

        Args:
            wait: Wait for those still on their way.
            **about: Further fields of `DynamicsTable` to set.
        """
        tables: list[DynamicsTable] = []
        while self._pending and (wait or self._pending[0].ready()):
            tables.append(self._pending.pop(0).table(**about))
        if tables:
            self._latest = tables[-1]
        return tables

    @property
    def armed(self) -> bool:
        """Whether the next step will be read."""
        return self._armed is not None

    # --- reading ---

    def arm(self, *, loss_scale: Scalar | None = None, **about: Any) -> None:
        """Read the next step: keep what will be gone after it.

        Call it when gradients are ready and nothing but the step will change the parameters.

        Args:
            loss_scale: The gradient scaler's scale for this step.
            **about: Fields of the table that are known now, such as ``step``.
        """
        started = perf_counter()
        rule = rule_for(self.optimizer)
        remember = rule.remember if rule is not None else ()
        copied = self._copied(rule)
        before: dict[int, Tensor] | None = {} if copied else None
        remembered: dict[int, dict[str, Tensor]] = {}
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if before is not None and id(parameter) in copied:
                    before[id(parameter)] = as_real(parameter.detach()).clone()
                state = self.optimizer.state.get(parameter, {})
                kept = {name: state[name].clone() for name in remember if name in state}
                if kept:
                    remembered[id(parameter)] = kept
        scale = loss_scale.detach().clone() if isinstance(loss_scale, Tensor) else loss_scale
        # For a step that never comes: when that is known, a scheduler may have moved the rates on.
        groups = {
            index: {
                key: value.detach().clone() if isinstance(value, Tensor) else value
                for key, value in group.items()
                if key != "params"
            }
            for index, group in enumerate(self.optimizer.param_groups)
        }
        self._armed = _Armed(before, remembered, about, scale, groups, perf_counter() - started)

    def _copied(self, rule: UpdateRule | None) -> set[int]:
        """Which parameters to keep from before the step, by ``id``."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self._snapshot is None and sum(p.numel() * p.itemsize for p in parameters) > SNAPSHOT_BYTES:
            exact = rule is not None and rule.exact
            parameters = [p for p in parameters if not exact or as_real(p.detach()).itemsize < 4]
        return {id(p) for p in parameters} if self._snapshot is not False else set()

    @property
    def stepping(self) -> bool:
        """Whether ``optimizer.step`` is running right now."""
        return self._hooks.stepping

    def disarm(self) -> None:
        """Let go of what was kept for a step that will not come."""
        self._armed = None

    def note_skipped(self) -> None:
        """Count a step that never came (the gradient scaler found inf), and read it if it was armed."""
        self.skipped += 1
        if self._armed is not None:
            self._measure(applied=0.0, skipped=True)

    def ledger(self) -> dict[str, int]:
        """Steps really taken and steps skipped so far; waits for the device under a fused optimizer."""
        fused = 0 if self._fused_skips is None else int(self._fused_skips)
        return {"real_steps": self.steps - fused, "skipped_steps": self.skipped + fused}

    def restore(self, ledger: Mapping[str, int]) -> None:
        """Go on counting from an earlier `ledger`."""
        self.steps, self.skipped = ledger.get("real_steps", 0), ledger.get("skipped_steps", 0)
        self._fused_skips = None

    def _arm_when_due(self) -> None:
        if (self.steps + 1) % self._every == 0:
            self.arm()

    def _before_step(self, lost: bool) -> None:
        if lost:
            self._armed = None  # what was kept is from before a step that failed
        if self._armed is None and self.on_step is not None:
            self._guarded(self.on_step)

    def _after_step(self) -> None:
        self.steps += 1
        found_inf = getattr(self.optimizer, "found_inf", None)
        if found_inf is not None:
            found = (found_inf.detach() > 0).float().reshape(())
            self._fused_skips = found if self._fused_skips is None else self._fused_skips + found
        if self._armed is not None:
            self._guarded(self._measure)

    def _guarded(self, action: Callable[[], None]) -> None:
        """An observer must not kill a run: tell once, switch off."""
        try:
            action()
        except Exception as error:
            if self.strict:
                raise
            self.detach()
            if self.on_fault is not None:
                self.on_fault(error)
                return
            warnings.warn(
                f"DynamicsProbe switched itself off after a fault: {type(error).__name__}: {error}. "
                "Training goes on; pass strict=True to see the traceback.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _measure(self, applied: Scalar = 1.0, *, skipped: bool = False) -> None:
        armed, self._armed = self._armed, None
        assert armed is not None
        groups = armed.groups if skipped else dict(enumerate(self.optimizer.param_groups))
        scalars: dict[str, Scalar] = {
            f"lr/{group_name(group, index)}": group["lr"] for index, group in groups.items() if "lr" in group
        }
        gradient_factor: Scalar = 1.0
        scale, found_inf = armed.loss_scale, getattr(self.optimizer, "found_inf", None)
        if found_inf is not None:
            # A fused step divides in its kernel, and does neither that nor anything else when it found inf.
            found = found_inf.detach().double() if found_inf.device.type != "mps" else found_inf.detach()
            scalars["found_inf"], applied = found.reshape(()), (found.reshape(()) == 0).to(found.dtype)
            given = getattr(self.optimizer, "grad_scale", None)
            if given is not None:
                divisor = given.detach().clone().reshape(())
                scale = divisor if scale is None else scale
                inverse = 1 / divisor.to(found.dtype)
                # Made by clipping gradients that are not finite, it is not finite either: it says nothing.
                undone = (found.reshape(()) > 0) & divisor.isfinite()
                gradient_factor = torch.where(undone, inverse, torch.ones_like(inverse))
        if scale is not None:
            scalars["loss_scale"] = scale
        if self._fused_skips is not None:
            scalars["fused_skips"] = self._fused_skips
        watched = self._current_members()
        now = Circumstances(armed.before, armed.remembered, self.steps, applied, gradient_factor, groups)
        about = {
            "step": self.steps,
            "optimizer": type(self.optimizer).__name__,
            "real_steps": self.steps,
            "skipped_steps": self.skipped,
            "skipped": skipped,
            "update_source": _source(armed.before, len(watched)),
            "hyperparameters": {
                group_name(group, index): read_hyperparameters(group, type(self.optimizer))
                for index, group in groups.items()
            },
            "cost_s": armed.cost_s,
            **armed.about,
        }
        grouped = () if self._row_groups is None else self._row_groups.parameters
        rows = self._rows.rows(watched, now, whole=grouped)
        if self._row_groups is not None:
            rows = self._row_groups.split(rows)
        self._pending.append(take(self._engine, rows, scalars, histograms=self._histograms, about=about))

    def _current_members(self) -> list[Member]:
        """The rows, rebuilt when parameters or groups were added."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        key = tuple(
            (group_name(group, index), id(p), p.dtype, p.shape, p.requires_grad)
            for index, group in enumerate(self.optimizer.param_groups)
            for p in group["params"]
        )
        if key != self._key:
            if self._module is not None:
                self._names = {id(parameter): name for name, parameter in self._module.named_parameters()}
            for parameter in parameters:
                if type(parameter).__name__ == "DTensor" or hasattr(parameter, "_local_tensor"):
                    raise TypeError("sharded parameters (DTensor) are not read yet; watch an unsharded run")
            self._members, self._key = members(self.optimizer, self._names), key
        return self._members


def _source(before: Mapping[int, Tensor] | None, parameters: int) -> str:
    if before is None:
        return "predicted"
    return "measured" if len(before) == parameters else "mixed"
