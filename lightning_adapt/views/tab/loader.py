"""What TensorBoard imports when it starts: no torch, no Lightning, nothing that could fail or take time."""

from __future__ import annotations

from typing import Any

from tensorboard.plugins import base_plugin

PLUGIN_NAME = "lightning_adapt"
KEPT_STEPS = 1000


class DynamicsLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Makes the plugin, and keeps enough steps for it."""

    def fix_flags(self, flags: Any) -> None:
        """Keep 1,000 steps of a table unless the user says otherwise: TensorBoard's default is 10 or 100."""
        samples = getattr(flags, "samples_per_plugin", None)
        if isinstance(samples, dict):
            samples.setdefault(PLUGIN_NAME, KEPT_STEPS)

    def load(self, context: base_plugin.TBContext) -> Any:
        """The plugin; TensorBoard logs a fault and goes on without the tab."""
        from lightning_adapt.views.tab.plugin import DynamicsPlugin

        return DynamicsPlugin(context)
