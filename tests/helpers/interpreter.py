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
