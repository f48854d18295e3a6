"""The front end as one script: modules become functions that hand out what they export.

A page at a ``file:`` address may import no modules, and a strict policy allows only scripts whose hash it
names. In TensorBoard twenty requests, of which each names the next, take longer than all of their text. Our
modules are plain enough that a few patterns say all of their imports and exports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_IMPORT = re.compile(r'^import (?:\{([^}]*)\}|\* as (\w+)) from "([^"]+)";$', re.M)
_EXPORT = re.compile(r"^export (?:(?:async )?function|class|const|let) (\w+)", re.M)
_LEFT = re.compile(r"^\s*(?:import|export)\b", re.M)


def bundle(entry: Path) -> str:
    """One script that does what the module ``entry`` does.

    Raises:
        ValueError: If a module is written in a way that is not understood here.
    """
    text = "\n".join(['"use strict";', "const modules = {};", "(async () => {", *_functions(entry), "})();"])
    for mark in ("</script", "<!--", "\r", "\0"):
        if mark in text:
            raise ValueError(f"a script inside a page must not hold {mark!r}; write it in two parts")
    return text


def as_module(entry: Path) -> str:
    """One module that does and exports what the module ``entry`` does.

    Raises:
        ValueError: If a module is written in a way that is not understood here.
    """
    names = ", ".join(_EXPORT.findall(entry.read_text(encoding="utf-8")))
    return "\n".join(
        ["const modules = {};", *_functions(entry), f"export const {{ {names} }} = modules[{_key(entry)}];"]
    )


def _functions(entry: Path) -> list[str]:
    return [_as_function(path) for path in _in_order(entry)]


def _in_order(path: Path, seen: dict[Path, None] | None = None) -> Iterator[Path]:
    """``path`` and all that it imports, each once and after what it needs itself."""
    seen = {} if seen is None else seen
    seen[path] = None
    for _, _, target in _IMPORT.findall(path.read_text(encoding="utf-8")):
        needed = (path.parent / target).resolve()
        if needed not in seen:
            yield from _in_order(needed, seen)
    yield path


def _as_function(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    names = _EXPORT.findall(text)

    def imported(match: re.Match[str]) -> str:
        listed, whole, target = match.groups()
        what = f"{{{listed.replace(' as ', ': ')}}}" if listed is not None else whole
        return f"const {what} = modules[{_key(path.parent / target)}];"

    text = _IMPORT.sub(imported, text)
    text = _EXPORT.sub(lambda match: match.group().removeprefix("export "), text)
    if left := _LEFT.search(text):
        line = text[left.start() :].lstrip().partition("\n")[0]
        raise ValueError(f"an import or export of another form cannot be bundled: {path.name}: {line}")
    # Live bindings are not kept: no module exports what it changes later.
    return f"modules[{_key(path)}] = await (async () => {{\n{text}\nreturn {{ {', '.join(names)} }};\n}})();"


def _key(path: Path) -> str:
    return f'"{path.resolve().name}"'
