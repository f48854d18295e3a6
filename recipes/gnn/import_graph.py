"""A real graph that is on every machine: which module of an installed package imports which."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

#: Parts of an identifier: ``NormalizeFeatures`` -> normalize, features; ``edge_index`` -> edge, index.
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True)
class ImportGraph:
    """The modules of one package, what they import, and the words in them.

    Args:
        modules: Dotted names, sorted; the nodes.
        edges: Pairs of places in ``modules``, smaller first, each once; one of the two imports the other.
        classes: Top-level subpackages, largest first.
        labels: For each module, the place of its subpackage in ``classes``.
        words: For each module, the words its identifiers are made of.
    """

    modules: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    words: tuple[frozenset[str], ...]


def read_import_graph(package: str = "torch_geometric", classes: int = 5) -> ImportGraph:
    """Read the import graph of an installed package from its source files, without importing it.

    A node is a module, an edge an import (direction left out), a class a top-level subpackage. Only the
    ``classes`` largest subpackages are kept; modules elsewhere, and imports from there, are left out.

    Nothing that names a module's place is among its words: import statements, strings and comments are not
    read, and the names of the package and of the classes are dropped wherever they stand. What remains is
    what a module does (``edge``, ``forward``, ``download``), which says something about its class, but less
    than its imports do.

    Args:
        package: Name of an installed top-level package.
        classes: How many subpackages to keep, at least 2.

    Returns:
        The graph; the same files give the same graph.

    Raises:
        ValueError: If ``classes`` is too small or too large for the package, or ``package`` is a dotted name.
        ModuleNotFoundError: If ``package`` is not an installed package.

    Example:
        >>> graph = read_import_graph("torch_geometric", classes=2)
        >>> graph.classes
        ('nn', 'datasets')
    """
    return _read(package, _folder(package), classes)


@cache
def _read(package: str, root: Path, classes: int) -> ImportGraph:
    paths = {_dotted(package, root, path): path for path in sorted(root.rglob("*.py"))}
    sizes = Counter(name.split(".")[1] for name, path in paths.items() if path.parent != root)
    if not 2 <= classes <= len(sizes):
        raise ValueError(
            f"`data.classes` must be 2 or more, and at most the {len(sizes)} subpackages of {package}, "
            f"got {classes}; change it or name another package"
        )
    kept = sorted(sizes, key=lambda name: (-sizes[name], name))[:classes]
    modules = sorted(
        name for name, path in paths.items() if path.parent != root and name.split(".")[1] in kept
    )
    nodes = {name: list(ast.walk(ast.parse(paths[name].read_bytes()))) for name in modules}
    place = {name: index for index, name in enumerate(modules)}
    edges = {
        (min(place[name], place[other]), max(place[name], place[other]))
        for name in modules
        for other in _imports(nodes[name], name, paths[name].name == "__init__.py", place)
        if other != name
    }
    hidden = {part for name in (package, *kept) for part in _split(name)}
    return ImportGraph(
        modules=tuple(modules),
        edges=tuple(sorted(edges)),
        classes=tuple(kept),
        labels=tuple(kept.index(name.split(".")[1]) for name in modules),
        words=tuple(frozenset(_words(nodes[name])) - hidden for name in modules),
    )


def _folder(package: str) -> Path:
    if not package.isidentifier():
        # find_spec of a dotted name would import its parents.
        raise ValueError(
            f"`data.package` must be the name of a top-level package, got {package!r}; leave out the rest"
        )
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"`data.package` must be an installed package, got {package!r}; install it or name another"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _dotted(package: str, root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def _imports(nodes: list[ast.AST], name: str, is_package: bool, known: Mapping[str, int]) -> Iterator[str]:
    """Yield the known modules that a module imports anywhere in it."""
    here = name.split(".") if is_package else name.split(".")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from a import b` names either a module a.b or something inside module a.
                yield from [full for full in (f"{source}.{alias.name}", source) if full in known][:1]


def _words(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        # Import statements are `ast.alias` nodes, which are not asked for.
        if isinstance(node, ast.Name):
            yield from _split(node.id)
        elif isinstance(node, ast.Attribute):
            yield from _split(node.attr)
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield from _split(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _split(node.name)


@cache
def _split(identifier: str) -> tuple[str, ...]:
    return tuple(part.lower() for part in _PARTS.findall(identifier) if len(part) > 1)
