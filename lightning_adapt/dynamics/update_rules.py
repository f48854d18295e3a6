"""Which tensors and scalars of an optimizer are its canonical step: the registry, one rule a class.

The rules themselves are in `rules_adaptive` and `rules_other`. A rule for an own optimizer:

>>> import torch
>>> from lightning_adapt.dynamics import CanonicalStep, register_rule
>>> class SignOfMomentum(torch.optim.SGD):
...     pass
>>> @register_rule(SignOfMomentum)
... def sign_of_momentum(view):
...     m = view.state["momentum_buffer"]
...     return CanonicalStep(lr=view.group["lr"], numerator=m.sign(), first_moment=m)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar

import torch

from lightning_adapt.dynamics.canonical import CanonicalStep, StepView

RuleFunction = Callable[[StepView], CanonicalStep]
PrepareFunction = Callable[[StepView], Mapping[str, Any]]
Reads = Literal["stored", "elements", "whole"]
ReadsOf = Reads | Callable[[StepView], Reads]
_F = TypeVar("_F", bound=RuleFunction)


@dataclass(frozen=True)
class UpdateRule:
    """How to read one class of optimizers.

    Args:
        read: Brings a `StepView` to canonical form.
        remember: Names of small (0-dim) state entries that must be copied before the step.
        reads: ``"stored"``: hands on tensors as they are stored; ``"elements"``: makes tensors, element by
            element, and so reads a large parameter in pieces; ``"whole"``: needs the whole parameter at once.
            Or a function of the view that says which.
        prepare: Gives state entries that need the whole parameter, before it is read in pieces.
        exact: What is left after the step tells the update, up to the rounding of the parameter.
        shared: Its numbers follow from the group, the step count and dtypes alone, see `register_rule`.
        lasting: Nor does it look at the step count but in two ways, see `register_rule`.
    """

    read: RuleFunction
    remember: tuple[str, ...] = ()
    reads: ReadsOf = "whole"
    prepare: PrepareFunction | None = None
    exact: bool = False
    shared: bool = False
    lasting: bool = False


_RULES: dict[type[torch.optim.Optimizer], UpdateRule] = {}


def register_rule(
    optimizer_class: type[torch.optim.Optimizer],
    *,
    remember: Iterable[str] = (),
    reads: ReadsOf = "whole",
    prepare: PrepareFunction | None = None,
    exact: bool = False,
    shared: bool = False,
    lasting: bool = False,
) -> Callable[[_F], _F]:
    """Register how to read ``optimizer_class`` and its subclasses; a later rule replaces an earlier one.

    Args:
        optimizer_class: A subclass of ``torch.optim.Optimizer``.
        remember: Names of 0-dim state entries to copy before the step, for rules that need an old value.
        reads: What bounds the memory of a reading: ``"stored"`` if the rule only hands on tensors as they are
            stored, ``"elements"`` if it makes tensors element by element, ``"whole"`` for any rule.
        prepare: Function from the whole parameter's `StepView` to state entries for ``reads="elements"``.
        exact: Promise that what is left after the step tells the update, up to the rounding of the parameter:
            then a large model needs no copy of its parameters.
        shared: Promise that the numbers of the step follow from the parameter group, the step count and the
            dtypes alone, count by count should ``view.step`` be a vector of counts: then the rule is asked
            once for all parameters that are alike, and a row is built in a third of the time.
        lasting: Promise, too, that it looks at the step count in two ways only: as ``view.step``, or by
            `step_counts.bias_correction`, handing on untouched what that gives, and not as a weight of the
            gradient or as L2. Where it takes the second way alone, it is asked again only when its group
            has changed.

    Returns:
        A decorator for a function from `StepView` to `CanonicalStep`.

    Raises:
        TypeError: If ``optimizer_class`` is not an optimizer class.
        ValueError: If a rule is ``shared`` that also needs numbers of each parameter's own, or is ``lasting``
            but not ``shared``.
    """
    remembered = tuple(remember)
    if shared and (remembered or prepare is not None):
        raise ValueError(
            "`shared` must be False for a rule with `remember` or `prepare`, got True; what these give "
            "differs from parameter to parameter, so the rule has to be asked for each"
        )
    if lasting and not shared:
        raise ValueError(
            "`lasting` must be False for a rule that is not `shared`, got True; pass shared=True"
        )
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        raise TypeError(
            f"`optimizer_class` must be a subclass of torch.optim.Optimizer, got {optimizer_class!r}; "
            "pass the class itself"
        )

    def register(read: _F) -> _F:
        _RULES[optimizer_class] = UpdateRule(read, remembered, reads, prepare, exact, shared, lasting)
        return read

    return register


@cache
def _register_all() -> None:
    """Import the rules, which registers them; not at the top, because they import this module."""
    from lightning_adapt.dynamics import rules_adaptive, rules_other  # noqa: F401


def rule_for(optimizer: torch.optim.Optimizer | type[torch.optim.Optimizer]) -> UpdateRule | None:
    """The rule of the nearest registered class in the method resolution order, ``None`` when there is none.

    Example:
        >>> rule_for(torch.optim.LBFGS) is None
        True
    """
    _register_all()
    cls = optimizer if isinstance(optimizer, type) else type(optimizer)
    own = _RULES.get(cls)
    if own is not None:
        return own
    base = next((base for base in cls.__mro__ if base in _RULES), None)
    # A class of the user's own may step otherwise than the class it derives from.
    return None if base is None else replace(_RULES[base], exact=False)
