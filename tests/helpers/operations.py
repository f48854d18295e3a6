"""What torch is asked to do: noted operation by operation."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Notes torch's operations, as ``calls["add"]`` and with their overload, ``calls["aten.add.Tensor"]``.

    Attributes:
        calls: How often each was called.
        computed: Names of those that do more than make memory or a view, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.computed: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        self.calls[str(func)] += 1
        if not (func.is_view or name in ("empty", "detach", "lift_fresh")):
            self.computed.append(name)
        return func(*args, **(kwargs or {}))
