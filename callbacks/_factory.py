"""Lightning's entry point for callbacks that attach themselves."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Callback

VARIABLE = "LIGHTNING_ADAPT"


def callbacks_factory() -> list[Callback]:
    """Attach a monitor to every Trainer when the environment variable ``LIGHTNING_ADAPT`` is ``1``.

    Called by Lightning at each ``Trainer()``; an error or anything but a list would break it, so this
    returns an empty list instead.

    Returns:
        One `OptimizerDynamicsMonitor`, or nothing.
    """
    if os.environ.get(VARIABLE, "").strip().lower() not in ("1", "true", "yes", "on"):
        return []
    try:
        from lightning_adapt.callbacks.dynamics_monitor import OptimizerDynamicsMonitor

        return [OptimizerDynamicsMonitor._attached_by_itself()]
    except Exception as error:
        warnings.warn(
            f"{VARIABLE} is set but the monitor could not be made: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return []
