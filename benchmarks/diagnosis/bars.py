"""What the diagnosis promises, judged on the half that no threshold was set on."""

from __future__ import annotations

from _bars import Bar

BARS: dict[str, Bar] = {
    "found_least": Bar(
        "sick", "share of variations found with parameter and cause, the least of all sicknesses", 0.95, True
    ),
    "spikes_warned": Bar(
        "spikes",
        "share of loss spikes with a warning before the loss moves, the less of both kinds",
        0.8,
        True,
    ),
    "spike_lead": Bar("spikes", "steps from the warning to the spike, median", 1, True),
    "healthy_critical": Bar("healthy", "critical findings a run", 0),
    "healthy_warnings": Bar("healthy", "warnings a run", 0.05),
}
