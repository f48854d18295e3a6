"""The bars: what this plugin promises to cost at most, as ratios within one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from _measure import Table


@dataclass(frozen=True)
class Bar:
    """One promise; ``measured`` must be at most (or, with ``at_least``, at least) ``limit``."""

    where: str
    what: str
    limit: float
    at_least: bool = False
    aim: float | None = None

    def holds(self, measured: float) -> bool:
        """Whether ``measured`` keeps the promise."""
        return measured >= self.limit if self.at_least else measured <= self.limit

    @property
    def asked(self) -> str:
        """The limit, and what is aimed at beyond it."""
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:g}" + (f" (aim {self.aim:g})" if self.aim is not None else "")


BARS: dict[str, Bar] = {
    "cpu_step": Bar(
        "CPU", "full table of 124 M parameters ÷ a fused AdamW step on the same tensors", 2.5, aim=1.5
    ),
    "cpu_composer": Bar(
        "CPU", "time of Composer's OptimizerMonitor ÷ time of the full table", 6, at_least=True, aim=15
    ),
    "cpu_memory": Bar("CPU", "extra memory at peak ÷ optimizer state, packed buffers aside", 0.005),
    "cpu_elements": Bar("CPU", "cost per element from 1 M elements to the largest, greatest ÷ least", 1.3),
    "cpu_tensors": Bar("CPU", "cost per tensor from 10 to 10,000 tensors, greatest ÷ least", 1.3),
    "cuda_copy_124m": Bar("GPU", "bytes to be read ÷ time, against a copy, 124 M parameters", 0.85, True),
    "cuda_copy_1b": Bar("GPU", "bytes to be read ÷ time, against a copy, 1 B parameters", 0.85, True),
    "cuda_gpt2_every": Bar("GPU", "GPT-2 124M, bf16-mixed, monitor at every step ÷ without", 1.01),
    "cuda_gpt2_default": Bar("GPU", "GPT-2 124M, bf16-mixed, default cadence ÷ without", 1.002),
    "cuda_gnn_every": Bar("GPU", "2-layer GCN, monitor at every step ÷ without", 1.05),
    "cuda_syncs": Bar("GPU", "waits of the host in a reading", 0),
    "cuda_launches": Bar("GPU", "kernel launches of a reading", 3),
    "cuda_memory": Bar("GPU", "extra memory at peak ÷ optimizer state, packed buffers aside", 0.005),
    "cuda_elements": Bar("GPU", "cost per element from 1 M elements to the largest, greatest ÷ least", 1.3),
    "cuda_tensors": Bar("GPU", "cost per tensor from 10 to 10,000 tensors, greatest ÷ least", 1.3),
    "tab_first": Bar("TensorBoard", "seconds to the first picture, 1,000 parameters × 2,000 steps", 3),
    "tab_switch": Bar("TensorBoard", "seconds to another statistic, 1,000 parameters × 2,000 steps", 0.5),
    "tab_memory": Bar(
        "TensorBoard", "MB of TensorBoard's process at peak, its data server aside, the same", 500
    ),
    "tab_start": Bar("TensorBoard", "seconds that the plugin adds to its start", 0.2),
}


def verdicts(measured: Mapping[str, float], bars: Mapping[str, Bar] = BARS) -> Table:
    """The bars that were measured, and whether they hold."""
    about = "ratios within one run, so that they say something on a busy machine, too" if bars is BARS else ""
    table = Table("Bars", about)
    for key, bar in bars.items():
        if key in measured:
            found = float(measured[key])
            verdict = "holds" if bar.holds(found) else "does not hold"
            table.rows.append(
                {
                    "where": bar.where,
                    "what": bar.what,
                    "bar": bar.asked,
                    "measured": found,
                    "verdict": verdict,
                }
            )
    return table


def unmeasured(measured: Mapping[str, float]) -> dict[str, Bar]:
    """The bars that nobody has measured yet."""
    return {key: bar for key, bar in BARS.items() if key not in measured}
