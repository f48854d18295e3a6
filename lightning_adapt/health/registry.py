"""Which rules there are, and how their thresholds are changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from lightning_adapt._text import unknown_name
from lightning_adapt.health.figures import check_columns
from lightning_adapt.health.rule import Rule

_HOMES = ("floor", "precision", "spikes", "steps", "schedule", "gradients", "scaler", "decay", "setup")


def default_rules() -> list[Rule]:
    """The rules of this package, in the order of `docs/health.md`."""
    found: list[Rule] = []
    for home in _HOMES:
        found += import_module(f"lightning_adapt.health.rules.{home}").RULES
    return found


def rules_from(rules: str | Sequence[Rule] | Mapping[str, Any]) -> list[Rule]:
    """Read what says which rules to use.

    Args:
        rules: ``"default"``; rules; or changes to the default ones, as YAML has them: rule name to new values
            of its thresholds, ``window``, ``patience`` or ``severity``; ``False`` leaves the rule out. A
            dotted path, ``package.module.rule: {}``, adds a rule of your own.

    Returns:
        The rules.

    Raises:
        ValueError: If a name is not known or a value makes no sense.

    Example:
        >>> changed = rules_from({"spike-warning": {"threshold": 3.0}, "epsilon-floor": False})
        >>> len(default_rules()) - len(changed)
        1
        >>> next(rule for rule in changed if rule.name == "spike-warning").thresholds
        {'threshold': 3.0, 'alarm': 3.0, 'jump': 1.25, 'near': 8.0}
    """
    if isinstance(rules, str):
        if rules != "default":
            raise ValueError(unknown_name("rules", rules, ["default"]))
        return default_rules()
    if not isinstance(rules, Mapping):
        given = list(rules)
        _check(given)
        return given
    found = {rule.name: rule for rule in default_rules()}
    for name, changes in rules.items():
        if "." in str(name):
            own = _imported(str(name))
            found[own.name] = own
            name = own.name
        if name not in found:
            raise ValueError(unknown_name("rules", name, found, most=60))
        if changes is False:
            del found[name]
        elif isinstance(changes, Mapping):
            found[name] = found[name].changed(**changes)
        elif changes not in (None, True):
            raise ValueError(
                f"`rules.{name}` must be a mapping of its thresholds, or false to leave it out, got "
                f"{changes!r}; for example {{'{next(iter(found[name].thresholds), 'patience')}': 3}}"
            )
    given = list(found.values())
    _check(given)
    return given


def _check(rules: Sequence[object]) -> None:
    for rule in rules:
        if not isinstance(rule, Rule):
            raise ValueError(
                f"`rules` must be 'default', rules, or a mapping of changes, got {rule!r} among them; "
                "make one with lightning_adapt.health.Rule"
            )
        check_columns(f"columns of {rule.name}", rule.columns)
    names = [rule.name for rule in rules if isinstance(rule, Rule)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`rules` must have names of their own, got {', '.join(twice)} twice; rename one")


def _imported(path: str) -> Rule:
    module, _, name = path.rpartition(".")
    try:
        rule = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"`rules` must name rules that can be imported, got {path!r}: {error}; it is package.module.rule"
        ) from error
    if not isinstance(rule, Rule):
        raise ValueError(f"`rules` must name rules, got {path!r}, which is {type(rule).__name__}; see Rule")
    return rule
