"""The files of the front end as the browser gets them, and the chart library out of its package."""

from __future__ import annotations

import gzip
import hashlib
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, Thread

from lightning_adapt.views.tab.bundle import as_module
from lightning_adapt.views.tab.lighter_plotly import lighter

FOLDER = Path(__file__).with_name("static")
ENTRY, STYLE, PLOTLY = "index.js", "style.css", "plotly.min.js"
NAMES = (ENTRY, STYLE, PLOTLY)
"""All files that may be asked for; the first holds every module of ours."""

_TYPES = {".js": "text/javascript", ".css": "text/css"}
_locks = {name: Lock() for name in NAMES}


def content_type(name: str) -> str:
    """Of one of `NAMES`."""
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


def content(name: str) -> bytes:
    """What one of `NAMES` holds.

    Raises:
        FileNotFoundError: If it is plotly's and that is not installed.
    """
    if name == PLOTLY:
        return lighter(plotly_js().read_bytes())
    return as_module(FOLDER / name).encode() if name == ENTRY else (FOLDER / name).read_bytes()


def version() -> str:
    """Changes whenever what one of `NAMES` holds does."""
    paths = sorted(FOLDER.iterdir())
    with suppress(FileNotFoundError):
        paths.append(plotly_js())
    found = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:12]


@lru_cache(maxsize=8)
def _compressed(name: str, _: str) -> bytes:
    return gzip.compress(content(name), compresslevel=3, mtime=0)


def compressed(name: str) -> bytes:
    """The gzipped content of one of `NAMES`; kept, because compressing plotly takes a fifth of a second.

    Raises:
        FileNotFoundError: If it is plotly's and that is not installed.
    """
    with _locks[name]:
        return _compressed(name, version())


@lru_cache(maxsize=1)
def prepare() -> None:
    """Compress them all, beside whatever else goes on: once, before the tab asks for them."""
    Thread(target=_prepare, name="lightning-adapt-files", daemon=True).start()


def _prepare() -> None:
    for name in NAMES:
        with suppress(FileNotFoundError):  # whoever asks for it is told
            compressed(name)
