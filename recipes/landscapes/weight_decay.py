"""L2 in the gradient is divided by the denominator like all of the gradient; decoupled decay is not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_adapt.dynamics import DynamicsHistory
from lightning_adapt.dynamics.histograms import FloatArray
from lightning_adapt.recipes.gnn.node_data import NodeDataModule
from lightning_adapt.recipes.landscapes._checks import at_least, own_name, positive
from lightning_adapt.recipes.landscapes._grouped import train_grouped
from lightning_adapt.recipes.landscapes._lab import Curves, Lab, column
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study
from lightning_adapt.recipes.landscapes._weight_decay_models import (
    ADAM,
    EPS,
    WORDS,
    Alternating,
    Repeated,
    Words,
    adam_with_l2,
    unreached,
)

TITLES = {"adam": "L2 through Adam", "adamw": "AdamW"}


@dataclass
class Trainings:
    """Of the real task with one optimizer.

    Args:
        history: Tables of the first.
        start: Its weights of unreached words before the first step, flat.
        accuracy: On the test nodes, of each.
    """

    history: DynamicsHistory
    start: FloatArray
    accuracy: FloatArray


class WeightDecay(Study):
    """L2 is part of the gradient, and Adam divides it: ``lr · wd · θ / (sqrt(v_hat) + eps)`` a step.

    The larger a weight's data gradient, the less it decays. A weight without one has ``sqrt(v_hat)`` near
    ``wd · θ`` and goes to 0 at the full ``lr`` a step, whatever ``wd``. AdamW takes ``lr · wd · θ`` from all.

    The real task is a GCN with words that no training node reaches. Under L2 their weights follow Adam's
    formula with the gradient ``wd · θ`` alone; under AdamW ``(1 - lr · wd)**epochs`` of them is left.

    Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization (2019); Kipf & Welling, Semi-Supervised
    Classification with Graph Convolutional Networks (2017).
    Look at: ``decay_rms``, and ``param_rms`` of ``net.conv1.lin.weight[unreached]``.

    Args:
        lr: Learning rate.
        weight_decay: Of both kinds.
        steps: With known gradients.
        epochs: Of the real task, one step each.
        seeds: Trainings of the real task with each optimizer.
        data_root: Folder that holds ``CiteSeer/raw``; without one the graph is what torchmetrics imports.
    """

    name = "weight-decay"
    claim = "L2 in the gradient is scaled by the denominator, decoupled weight decay is not"

    def __init__(
        self,
        lr: float = 0.01,
        weight_decay: float = 5e-4,
        steps: int = 25,
        epochs: int = 200,
        seeds: int = 3,
        data_root: str | None = None,
    ) -> None:
        positive("nothing would decay", lr=lr, weight_decay=weight_decay)
        at_least("steps", steps, 1, "a decay is one of a step")
        at_least("epochs", epochs, 1, "a decay is one of a step")
        at_least("seeds", seeds, 2, "one training has no spread")
        self.lr, self.weight_decay, self.steps = lr, weight_decay, steps
        self.epochs, self.seeds, self.data_root = epochs, seeds, data_root

    def run(self, lab: Lab) -> Outcome:
        """Known gradients over six decades, then a graph with words that get none."""
        known, strength = self._known_gradients(lab)
        graph, norms = self._graph(lab)
        x = "decay / (lr · wd · θ)"
        return Outcome(
            [*known, *graph],
            [
                Figure("What the weight decay is multiplied by", "|g|", x, strength),
                Figure("Words without a data gradient", "epoch", "norm / norm before", norms, log_x=False),
            ],
        )

    def _known_gradients(self, lab: Lab) -> tuple[list[Finding], Curves]:
        """Every step's decay at 13 sizes of gradient against both formulas."""
        scales, plain = np.logspace(-4, 2, 13), self.lr * self.weight_decay
        data = (-1.0) ** np.arange(self.steps)[:, None] * scales
        findings: list[Finding] = []
        curves: Curves = {}
        for optimizer, formula in (("adam", "ηλθ/(√v̂+ε)"), ("adamw", "ηλθ")):
            # Vectors count as biases, which have no decay by default.
            options = {"lr": self.lr, "weight_decay": self.weight_decay, "no_decay": (), **ADAM}
            module = Alternating(scales.tolist(), optimizer, **options)
            history = lab.train(module, steps=self.steps, name=optimizer)
            measured = column(history, "decay_rms")
            before = np.vstack([np.ones_like(scales), column(history, "param_rms")[:-1]])
            predicted = plain * before
            if optimizer == "adam":
                predicted = np.abs(adam_with_l2(before[0], data, self.lr, self.weight_decay)[1])
            title, off = TITLES[optimizer], float(np.abs(measured / predicted - 1).max())
            claim = f"{title}: decay_rms against {formula}, every step and size of g: largest deviation"
            findings.append(Finding(claim, 0.0, off, 1e-6))
            least, most = scales[[0, -1]] + self.weight_decay + EPS
            ratio = float(most / least) if optimizer == "adam" else 1.0
            claim = f"{title}: decay where |g| is 1e-4 over decay where it is 1e2, first step"
            findings.append(Finding(claim, ratio, float(measured[0, 0] / measured[0, -1]), 1e-6))
            for kind, decay in (("measured", measured), ("predicted", predicted)):
                curves[f"{kind}, {title}"] = (scales.tolist(), (decay[-1] / plain / before[-1]).tolist())
            lab.draw(optimizer, "decay, |g| = 1", range(self.steps), predicted[:, 8].tolist(),
                     measured[:, 8].tolist())  # fmt: skip
        return findings, curves

    def _graph(self, lab: Lab) -> tuple[list[Finding], Curves]:
        """What is left of the words without a data gradient, and how well the whole classifies."""
        if self.data_root is None:
            data = NodeDataModule(package="torchmetrics", train_per_class=5, val_nodes=20)
        else:
            data = NodeDataModule("CiteSeer", self.data_root)
        with own_name("data.root", "data_root"):
            data.setup("fit")
        words = unreached(data.train_dataloader().graph)
        runs = {optimizer: self._trainings(lab, data, words, optimizer) for optimizer in TITLES}
        gradient = max(float(_of_words(run.history, "grad_absmax").max()) for run in runs.values())
        claim = f"largest data gradient of the {int(words.sum())} words that no training node reaches"
        findings = [Finding(claim, 0.0, gradient, 0.0)]
        curves: Curves = {}
        for optimizer, run in runs.items():
            t = np.array(run.history.steps) + 1
            predicted = (1 - self.lr * self.weight_decay) ** t
            before = np.sqrt((run.start**2).mean())
            if optimizer == "adam":
                nothing = np.zeros((self.epochs, len(run.start)))
                path, _ = adam_with_l2(run.start, nothing, self.lr, self.weight_decay)
                predicted = np.sqrt((path[t - 1] ** 2).mean(1)) / before
            measured = _of_words(run.history, "param_rms") / before
            title = TITLES[optimizer]
            claim = f"{title}: their norm after {t[-1]} epochs over that before"
            findings.append(Finding(claim, float(predicted[-1]), float(measured[-1]), 1e-6))
            lab.draw(f"graph-{optimizer}-0", "norm of unreached words", run.history.steps,
                     predicted.tolist(), measured.tolist())  # fmt: skip
            curves[f"measured, {title}"] = (t.tolist(), measured.tolist())
            curves[f"predicted, {title}"] = (t.tolist(), predicted.tolist())
        return [*findings, self._gain(runs["adam"].accuracy, runs["adamw"].accuracy)], curves

    def _trainings(self, lab: Lab, data: NodeDataModule, words: Tensor, optimizer: str) -> Trainings:
        graph, histories, starts, accuracy = data.train_dataloader().graph, [], [], []
        options: dict[str, Any] = {"optimizer": optimizer, "lr": self.lr, "weight_decay": self.weight_decay}
        for seed in range(self.seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = Words(data.num_features, data.num_classes, **options, optimizer_options=ADAM)
                # As one epoch for Lightning: ending an epoch takes longer than a step.
                epochs = partial(Repeated, graph, self.epochs)
                module.train_dataloader = epochs  # type: ignore[method-assign]
                starts.append(module.rows(words))
                histories.append(
                    train_grouped(
                        lab if seed == 0 else Lab(),  # the others are only asked for their accuracy
                        module,
                        {WORDS: {"unreached": words}},
                        steps=self.epochs,
                        name=f"graph-{optimizer}-{seed}",
                        every_n_steps=max(1, self.epochs // 40) if seed == 0 else self.epochs,
                    )
                )
            accuracy.append(module.accuracy(graph))
        return Trainings(histories[0], starts[0], np.array(accuracy))

    def _gain(self, l2: FloatArray, decoupled: FloatArray) -> Finding:
        gain = l2 - decoupled  # the same seeds: the same start and the same dropout
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        reason = (
            "which decay generalises better is a matter of the task, not of a formula (on CiteSeer it is L2)"
        )
        claim = (
            f"test accuracy, L2 through Adam {l2.mean():.1%} against AdamW {decoupled.mean():.1%}: the gain "
            f"is beyond 3 standard errors over {len(gain)} seeds"
        )
        return Finding(claim, 3 * float(error), float(gain.mean()), 0.0, "at least", reason=reason)


def _of_words(history: DynamicsHistory, statistic: str) -> FloatArray:
    return np.array([table[f"{WORDS}[unreached]", statistic] for table in history])
