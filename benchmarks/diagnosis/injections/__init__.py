"""What makes a training sick."""

from __future__ import annotations

from diagnosis.injections.base import Injection
from diagnosis.injections.gradients import Detached, NotZeroed
from diagnosis.injections.settings import LargeEpsilon

INJECTIONS: dict[str, type[Injection]] = {
    "large-epsilon": LargeEpsilon,
    "detached": Detached,
    "not-zeroed": NotZeroed,
}

__all__ = ["INJECTIONS", "Injection"]
