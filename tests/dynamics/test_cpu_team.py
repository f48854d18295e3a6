"""The threads that measure: torch's own, a pool where torch has none to share, none in a forked child."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numba import cfunc, types
from numba.np.numpy_support import carray

from lightning_adapt.dynamics.engines.cpu import _team
from lightning_adapt.dynamics.engines.cpu._compiled import following

needs_team = pytest.mark.skipif(_team._team() is None, reason="torch's threads are not libgomp's")


class _InPython(_team.Compiled):
    """In its place a function of Python, which only the pool can call."""

    def __init__(self, function: Callable[[int], None]) -> None:
        self._call = function


@pytest.fixture(scope="module")
def call() -> _team.Compiled:
    @cfunc(types.void(types.voidptr))
    def called(address: Any) -> None:
        following(carray(address, (1,), np.int64).ctypes.data)

    return _team.Compiled(called)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("team", [pytest.param(True, marks=needs_team), False])
def test_each_thread_calls_once(
    team: bool, threads: int, call: _team.Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not team:
        monkeypatch.setattr(_team, "_team", _team._no_team)
    counted = np.zeros(1, dtype=np.int64)
    _team.together(call, counted.ctypes.data, threads)
    # In a pool, a thread that comes too late is not waited for: there is nothing left to do.
    assert counted[0] == threads if team else 1 <= counted[0] <= threads


@needs_team
def test_it_is_the_copy_that_torch_has_loaded() -> None:
    """A parallel region of its own would leave torch's threads waiting beside it."""
    tasks = "/proc/self/task"
    if not os.path.isdir(tasks):
        pytest.skip("not Linux: threads cannot be counted")
    script = f"""
import ctypes, os, torch
from lightning_adapt.dynamics.engines.cpu import _team
torch.set_num_threads(3)
torch.ones(1 << 22).sin()
before = len(os.listdir("{tasks}"))
nothing = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
_team._team()(ctypes.cast(nothing, ctypes.c_void_p), None, 3, 0)
print(len(os.listdir("{tasks}")) - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr


def test_a_fault_in_a_thread_of_the_pool_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def run(_: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(60)
        else:
            begun.set()
            raise RuntimeError("in a thread")

    monkeypatch.setattr(_team, "_team", _team._no_team)
    with pytest.raises(RuntimeError, match="in a thread"):
        _team.together(_InPython(run), 0, 2)


def test_one_thread_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_team", "_pool"):
        monkeypatch.setattr(_team, name, lambda *_: pytest.fail("another thread"))
    called: list[int] = []
    _team.together(_InPython(called.append), 7, 1)
    assert called == [7]


def test_without_the_symbol_there_is_no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", refused)
    _team._team.cache_clear()
    try:
        assert _team._team() is None
    finally:
        _team._team.cache_clear()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_measures_without_the_parents_threads() -> None:
    script = """
import os, torch
from lightning_adapt.dynamics.canonical import Row
from lightning_adapt.dynamics.engines import cpu
from lightning_adapt.dynamics.table import RowInfo
torch.set_num_threads(2)
rows = [Row(RowInfo("p"), torch.ones(1 << 20), None, None, None)]
cpu.measure(rows)
child = os.fork()
if child == 0:
    cpu.measure(rows)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.strip() == "7", done.stderr


def test_torch_keeps_its_threads(call: _team.Compiled) -> None:
    threads = torch.get_num_threads()
    _team.together(call, np.zeros(1, dtype=np.int64).ctypes.data, threads)
    assert torch.get_num_threads() == threads
    assert torch.ones(1 << 20).sum() == 1 << 20
