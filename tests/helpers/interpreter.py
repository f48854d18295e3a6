"""Triton's interpreter, fast enough for tests."""

from __future__ import annotations

from typing import Any

import pytest


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's interpreter patch its language once a launch, not once a call of a device function.

    That is where nine tenths of its time go. It does nothing where Triton is written differently.
    """
    interpreter: Any = pytest.importorskip("triton.runtime.interpreter")
    wanted = ("_patch_lang", "GridExecutor", "InterpretedFunction")
    if not all(hasattr(interpreter, name) for name in wanted) or not hasattr(
        interpreter.InterpretedFunction, "rewrite"
    ):
        return
    patched: set[Any] = set()
    launch = interpreter.GridExecutor.__call__

    def fresh_launch(self: Any, *args: Any, **kwargs: Any) -> None:
        patched.clear()
        launch(self, *args, **kwargs)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(self.fn)
        return self.rewrite()(*args, **kwargs)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", fresh_launch)
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast, with fp32 tiles of 16 elements and float64 tiles of 32: small tensors use all paths."""
    from lightning_adapt.dynamics.engines import triton_launch

    hasten(monkeypatch)
    for name, size in (("TILE_OF_ONE", 4), ("WIDE", 32), ("COUNTED", 32), ("MERGED", 64)):
        monkeypatch.setattr(triton_launch, name, size)


def launches_alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that are launched from now on; none of them runs: the interpreter uses torch."""
    from lightning_adapt.dynamics.engines import triton_launch

    launched: list[str] = []
    for name in ("begin", "measure_blocks", "merge_blocks"):
        kernel = getattr(triton_launch, name)
        monkeypatch.setattr(kernel, "run", lambda *_, _name=name, **__: launched.append(_name))
    return launched
