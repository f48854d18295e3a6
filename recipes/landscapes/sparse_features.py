"""Rare features keep large steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, FloatArray
from lightning_adapt.recipes.landscapes._checks import at_least, positive
from lightning_adapt.recipes.landscapes._grouped import train_grouped
from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._sparse_models import (
    GraphWords,
    Links,
    NextWord,
    Tables,
    read_graph,
)
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study

Curves = dict[str, tuple[Sequence[float], Sequence[float]]]
_TITLES = {"adagrad": "Adagrad", "rmsprop": "RMSProp", "adam": "Adam"}
_ROOT = "every use must push as hard as any other, and no two against each other"
#: A median from the table's histogram is exact to the width of a bin, so that less is no difference.
_BIN = 1 + 2.0**-EFFECTIVE_LR.mantissa_bits
_LATE = f"less than the bin of the table's histogram, a factor of {_BIN:g}: gradients are alike or below ε"


class SparseFeatures(Study):
    """A row of a table that is seldom used has a small second moment, so a large effective learning rate.

    If each use gives a gradient of the same size, n uses give ``sqrt(v) ~ sqrt(n)`` when their directions are
    independent, and ``~ n`` when they agree and fall into one step. So the rates of rows used n and N times
    differ by ``sqrt(N/n)`` or more. A row never used has ``v = 0`` and keeps ``lr / eps``. Later, what is
    learned pushes no more, and all that is claimed is that rare rows have the larger rate.

    Source: Duchi, Hazan & Singer, Adaptive Subgradient Methods (2011).
    Look at: ``dynamics/effective_lr_p50`` of the groups ``tables.0[0]``, the rarest rows, to the last one.

    Args:
        adagrad_lr: Learning rate of Adagrad.
        lr: Of RMSProp and Adam.
        eps: Of all three; where it is not small beside the gradients, it makes all rates equal.
        points: Two steps: early, when little is learned, and late.
        seeds: Models side by side.
        data_root: A folder with Planetoid's ``Cora/raw``; without it the graph is the import graph of
            torch_geometric.
    """

    name = "sparse-features"
    claim = "Rare features keep large steps: words by count, words by document frequency, nodes by degree"

    def __init__(
        self,
        adagrad_lr: float = 0.1,
        lr: float = 0.01,
        eps: float = 1e-8,
        points: tuple[int, int] = (10, 200),
        seeds: int = 3,
        data_root: str | None = None,
    ) -> None:
        if not 0 < points[0] < points[1]:
            raise ValueError(f"`points` must be an early and a late step, got {points}; try [10, 200]")
        positive("a rate is measured", adagrad_lr=adagrad_lr, lr=lr, eps=eps)
        at_least("seeds", seeds, 1, "no model has no rates")
        self.lrs = {"adagrad": adagrad_lr, "rmsprop": lr, "adam": lr}
        self.eps, self.points, self.seeds, self.data_root = eps, points, seeds, data_root

    def run(self, lab: Lab) -> Outcome:
        """Three models, each with three optimizers, read at two points."""
        graph = read_graph(self.data_root)
        place = "Cora" if self.data_root else "the import graph"
        tasks: dict[str, Callable[..., Tables]] = {
            "words of a text": partial(NextWord, self.seeds, self.points[1]),
            f"words in nodes of {place}": partial(GraphWords, graph, self.seeds),
            f"nodes of {place}": partial(Links, graph, self.seeds),
        }
        findings: list[Finding] = []
        figures: list[Figure] = []
        for title, build in tasks.items():
            drawn: dict[str, FloatArray] = {}
            for optimizer, lr in self.lrs.items():
                options = {"lr": lr, "eps": self.eps}
                early, late = (
                    self._read(lab, build(optimizer, **options), point, _folder(title, optimizer, point))
                    for point in self.points
                )
                findings += [*self._never(late, optimizer), *self._bounds(title, optimizer, early, late)]
                drawn[optimizer] = late[0][late[0][:, 0] > 0]
            figures.append(self._figure(lab, title, drawn))
        return Outcome(findings, figures)

    def _read(self, lab: Lab, module: Tables, point: int, name: str) -> list[FloatArray]:
        """For each model, shape ``(groups, 3)``: median uses, median and smallest rate; rarest rows first."""
        groups = {f"tables.{seed}": module.groups(seed, point) for seed in range(self.seeds)}
        table = train_grouped(lab, module, groups, steps=point, name=name, every_n_steps=point)[-1]
        found = []
        for seed, (parameter, numbers) in enumerate(groups.items()):
            uses = module.uses(seed, point).double()
            rows = [
                [
                    float(uses[numbers == group].median()),
                    table[f"{parameter}[{group}]", "effective_lr_p50"],
                    table[f"{parameter}[{group}]", "effective_lr_min"],
                ]
                for group in sorted(set(numbers.tolist()))
            ]
            found.append(np.array(rows))
        return found

    def _never(self, models: list[FloatArray], optimizer: str) -> list[Finding]:
        """The rate of rows that were never used."""
        rates = [row[2] for model in models for row in model if row[0] == 0]
        if not rates:
            return []
        claim = f"words never seen, {_TITLES[optimizer]}: smallest rate, lr/ε"
        return [Finding(claim, self.lrs[optimizer] / self.eps, float(min(rates)), 1e-6)]

    def _bounds(
        self, title: str, optimizer: str, early: list[FloatArray], late: list[FloatArray]
    ) -> list[Finding]:
        """The rate of the rarest used rows over that of the most used, in the worst of the models."""
        first, last = ([model[model[:, 0] > 0] for model in models] for models in (early, late))
        root = [math.sqrt(model[-1, 0] / model[0, 0]) for model in first]
        ratios = [[float(model[0, 1] / model[-1, 1]) for model in models] for models in (first, last)]
        what = f"{title}, {_TITLES[optimizer]}: rate of rare over frequent rows, least of {self.seeds}, step"
        return [
            Finding(
                f"{what} {self.points[0]}: √(N/n)", max(root), min(ratios[0]), 0, "at least", reason=_ROOT
            ),
            Finding(f"{what} {self.points[1]}", _BIN, min(ratios[1]), 0, "at least", reason=_LATE),
        ]

    def _figure(self, lab: Lab, title: str, drawn: dict[str, FloatArray]) -> Figure:
        """Rates of one model as multiples of the rate of its most used rows, beside ``1/sqrt(n)``."""
        uses = next(iter(drawn.values()))[:, 0]  # the same with every optimizer
        predicted = np.sqrt(uses[-1] / uses).tolist()
        curves: Curves = {}
        for optimizer, model in drawn.items():
            measured = (model[:, 1] / model[-1, 1]).tolist()
            curves[f"measured, {_TITLES[optimizer]}"] = (uses.tolist(), measured)
            groups = range(len(uses))
            lab.draw(_folder(title, optimizer), "rate of group n over the last", groups, predicted, measured)
        curves["predicted, 1/√n"] = (uses.tolist(), predicted)
        what = f"{title}: rates at step {self.points[1]}, one model"
        return Figure(what, "uses n (median of a group)", "rate over the last group's", curves)


def _folder(*words: object) -> str:
    return "-".join(str(word) for word in words).replace(" ", "-")
