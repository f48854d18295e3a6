"""YAML files: configs to lint, and changes to the rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_yaml(file: Path, what: str) -> Any:
    """The contents of a YAML file, as plain values.

    Args:
        file: To read.
        what: The argument that names it, for the error.

    Raises:
        ValueError: If it cannot be read, or is no YAML.
    """
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ValueError(f"`{what}` must be a YAML file, got {str(file)!r}: {reason}") from error


def read_rules(file: Path | None, what: str = "--rules") -> Mapping[str, Any]:
    """Changes to the default rules, as `rules_from` takes them.

    Args:
        file: YAML; ``None`` changes nothing.
        what: The argument that names it, for the error.

    Raises:
        ValueError: If it cannot be read, or holds no mapping.
    """
    rules = {} if file is None else read_yaml(file, what) or {}
    if not isinstance(rules, Mapping):
        raise ValueError(
            f"`{what}` must hold a mapping of rule names to changes, got {type(rules).__name__} in "
            f"{str(file)!r}; for example  epsilon-floor: {{threshold: 0.2}}"
        )
    return rules
