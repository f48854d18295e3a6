"""What makes a training sick."""

from __future__ import annotations

from diagnosis.injections import gradients, settings
from diagnosis.injections.base import Injection

INJECTIONS: dict[str, type[Injection]] = {
    "decay-on-all": settings.DecayOnAll,
    "detached": gradients.Detached,
    "epochwise-schedule": settings.EpochwiseSchedule,
    "epsilon": settings.Epsilon,
    "exploding": gradients.Exploding,
    "frozen": gradients.Frozen,
    "infinite-batch": gradients.InfiniteBatch,
    "lost-epsilon": settings.LostEpsilon,
    "not-zeroed": gradients.NotZeroed,
    "returning-signal": gradients.ReturningSignal,
    "scale-collapse": gradients.ScaleCollapse,
    "stalling": settings.Stalling,
    "stuck-moment": settings.StuckMoment,
    "two-optimizers": gradients.TwoOptimizers,
    "unseen-rows": settings.UnseenRows,
    "wrong-state-dtype": settings.WrongStateDtype,
}

__all__ = ["INJECTIONS", "Injection"]
