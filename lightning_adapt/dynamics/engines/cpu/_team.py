"""The threads that measure: torch's own where they can be had, else a pool."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch


class Compiled:
    """A compiled function of one address, as C sees it; a call lets go of the interpreter's lock.

    Args:
        function: From Numba's ``cfunc``.
    """

    def __init__(self, function: Any) -> None:
        self._function = function  # what it points to lives as long
        self.address: int = function.address
        self._call = function.ctypes

    def __call__(self, argument: int) -> None:
        """Call it on this thread."""
        self._call(argument)


def together(function: Compiled, argument: int, threads: int) -> None:
    """Call ``function(argument)`` on so many threads at once, the calling one among them, and wait for all.

    After an operation torch's threads wait for the next one without letting go of their cores, for some
    milliseconds: a reading comes right after an optimizer's step, and another thread would have to share a
    core with one that waits. So these very threads are asked, where torch has them from libgomp.

    Args:
        function: Safe to be run several times at once.
        argument: An address.
        threads: As many as torch has, so that nobody has to end or to begin.
    """
    if threads == 1:
        function(argument)
        return
    team = _team()
    if team is not None:
        team(function.address, argument, threads, 0)
        return
    helping = [_pool(threads).submit(function, argument) for _ in range(threads - 1)]
    function(argument)
    for future in helping:
        if not future.cancel():
            future.result()


@lru_cache(maxsize=1)
def _team() -> Callable[..., None] | None:
    """What libgomp runs a parallel region with, of the very copy that torch has loaded; None: another one."""
    folder = Path(torch.__file__).parent
    for path in (*folder.glob("lib/libgomp*"), *folder.parent.glob("torch.libs/libgomp*")):
        try:
            region = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):
            continue
        region.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        region.restype = None
        return region
    return None


def _no_team() -> None:
    return None


@lru_cache(maxsize=1)
def _pool(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="lightning-adapt-engine")


def _forked() -> None:
    """Threads do not live on in a child, and libgomp does not notice."""
    global _team
    _team = lru_cache(maxsize=1)(_no_team)
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
