"""The files of the front end, and the chart library from the package that brings it."""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).with_name("static")
PLOTLY = "plotly.min.js"
_TYPES = {".js": "text/javascript", ".css": "text/css"}


def names() -> tuple[str, ...]:
    """Names of all files that may be asked for."""
    own = (path.name for path in FOLDER.iterdir() if path.suffix in _TYPES)
    return (*sorted(own), PLOTLY)


def content_type(name: str) -> str:
    """Of one of `names`."""
    return _TYPES[Path(name).suffix]


@lru_cache(maxsize=1)
def plotly_js() -> Path:
    """Where the JavaScript of plotly lies; its Python is not imported.

    Raises:
        FileNotFoundError: If the package is not installed, or does not hold it.
    """
    spec = find_spec("plotly")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "package_data", PLOTLY)
        if path.is_file():
            return path
    raise FileNotFoundError("charts need the package plotly; pip install 'lightning-adapt[tensorboard]'")


@lru_cache(maxsize=64)
def _compressed(path: Path, changed: float) -> bytes:
    return gzip.compress(path.read_bytes(), compresslevel=6, mtime=0)


def compressed(name: str) -> bytes:
    """The gzipped content of one of `names`; kept, because compressing plotly takes a third of a second.

    Raises:
        FileNotFoundError: If it is plotly's and that is not installed.
    """
    path = plotly_js() if name == PLOTLY else FOLDER / name
    return _compressed(path, path.stat().st_mtime)
