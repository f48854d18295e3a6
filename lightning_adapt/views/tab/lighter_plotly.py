"""The chart library, so that a browser begins sooner to draw with it.

Its text is 5 MB for 47 kinds of charts, of which we draw two. Nothing is cut out of it: two places are
written otherwise, and where a version of the library is not written as expected it stays as it is.
"""

from __future__ import annotations

import re

# A function as an argument is skimmed, then read again when it is called; in brackets it is read once, and by
# another thread than the one that draws. That function is the whole library.
_SKIMMED = (b": this, () => {", b"}));")
_READ_ONCE = (b": this, (() => {", b"})));")

# All kinds of charts are started where they are registered. Lines (``scatter``) are registered by themselves.
_REGISTERED = re.compile(rb"\.register\(\[((?:[\w$]+\(\),)+[\w$]+\(\))\]\)")
_HEAT_MAP = b'moduleType:"trace",name:"heatmap"'
_MODULE = re.compile(rb"([\w$]+)=[\w$]+\(\([\w$,]*\)=>\{")


def lighter(library: bytes) -> bytes:
    """``library`` without the start of what is not drawn here, compiled while it arrives."""
    return _read_once(_only_heat_maps(library))


def _read_once(library: bytes) -> bytes:
    (begin, end), text = _SKIMMED, library.rstrip()
    if library.count(begin) != 1 or not text.endswith(end):
        return library
    return text.removesuffix(end).replace(begin, _READ_ONCE[0]) + _READ_ONCE[1]


def _only_heat_maps(library: bytes) -> bytes:
    """Register no kind of chart but heat maps, as the library's own smaller editions do."""
    found = list(_REGISTERED.finditer(library))
    if len(found) != 1:
        return library
    registered = set(found[0][1].split(b","))
    # The module that holds the chart, or one that hands it on.
    name = _module_around(library, library.find(_HEAT_MAP))
    if name + b"()" not in registered:
        name = _module_around(library, library.find(b".exports=" + name + b"()})"))
    if name + b"()" not in registered:
        return library
    return library[: found[0].start(1)] + name + b"()" + library[found[0].end(1) :]


def _module_around(library: bytes, at: int) -> bytes:
    """The name of the module that holds what is at this place; empty where there is none."""
    before = list(_MODULE.finditer(library, max(0, at - 2000), max(0, at)))
    return before[-1][1] if before else b""
