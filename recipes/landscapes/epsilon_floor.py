"""Epsilon is a floor that takes over when the squared gradient underflows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_adapt.recipes.landscapes._checks import at_least, decay, positive
from lightning_adapt.recipes.landscapes._lab import Lab, Landscape
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study

#: Half of float16's smallest number: what is not larger is rounded to 0 (a tie goes to the even one, 0).
HALF_SMALLEST = 2.0**-25
_VANISH = "in fp16 where v and ε are both 0; bf16 and fp64 have the range for both"
_DAMPED = "at most lr·|g|/ε a step; the sweep must be short beside ε/(lr·|g|)"
BOUND = "largest |g| whose {} is 0 in fp16"


class TorchOptimizer(Landscape):
    """Takes torch's own class, because our factories refuse an epsilon that the state cannot hold."""

    def groups(self) -> list[dict[str, object]]:
        """Parameter groups, one with all parameters."""
        return [{"params": list(self.parameters())}]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The class called ``optimizer`` in ``torch.optim``."""
        made: torch.optim.Optimizer = getattr(torch.optim, self.optimizer)(self.groups(), **self.options)
        return made


class EveryNumber(TorchOptimizer):
    """``loss = sum(g · x)``, where g is every number of float16 from its smallest one to 1, once each."""

    g: Tensor

    def __init__(self, optimizer: str, **options: object) -> None:
        super().__init__(optimizer, **options)
        ones = int(torch.ones(1, dtype=torch.float16).view(torch.int16))
        self.register_buffer("g", torch.arange(1, ones + 1, dtype=torch.int16).view(torch.float16))
        self.x = nn.Parameter(torch.zeros_like(self.g))

    def loss(self, step: int) -> Tensor:
        """``sum(g · x)``."""
        return (self.g * self.x).sum()


class Sweep(TorchOptimizer):
    """``loss = sum(scale · x² / 2)`` from x = 1, one for each dtype, epsilon and scale of gradient."""

    def __init__(self, eps: Sequence[float], scales: Sequence[float], **options: object) -> None:
        super().__init__("Adam", **options)
        self.eps = list(eps)
        self.cells = [(d, e, s) for d in ("float64", "bfloat16", "float16") for e in eps for s in scales]
        self.x = nn.ParameterList(torch.ones(1, dtype=getattr(torch, d)) for d, _, _ in self.cells)

    def groups(self) -> list[dict[str, object]]:
        """One group for each epsilon."""
        cells = list(zip(self.cells, self.x, strict=True))
        return [{"params": [x for cell, x in cells if cell[1] == e], "eps": e} for e in self.eps]

    def loss(self, step: int) -> Tensor:
        """Each term in the dtype of its parameter, so that its gradient is rounded as there."""
        terms = [scale * x * x / 2 for (_, _, scale), x in zip(self.cells, self.x, strict=True)]
        return torch.stack([term.double().sum() for term in terms]).sum()


class EpsilonFloor(Study):
    """Adam divides by ``sqrt(v_hat) + eps``; where v underflows to 0, ``eps`` alone sets the step.

    fp16 rounds to 0 what is not above half of its smallest number, ``2**-25``. So ``g**2`` is 0 up to
    ``|g| = 2**-12.5``, and Adam's ``(1 - beta2)·g**2`` up to ``2**-12.5 / sqrt(1 - beta2)``. An epsilon up to
    ``2**-25`` is 0 as well: ``m / 0`` is infinite, ``0 / 0`` NaN. An epsilon as large as ``|g|`` halves the
    step, ``lr·|g| / (|g| + eps)``.

    Source: Kingma & Ba, Adam (2015), section 2; Micikevicius et al., Mixed Precision Training (2018).
    Look at: ``dynamics/eps_floor_underflow_frac`` and ``dynamics/effective_lr_max``.

    Args:
        lr: Learning rate.
        beta2: Of Adam.
        eps: The epsilon that fp16 is tried with.
        safe_eps: One that fp16 can hold.
        steps: Steps of the sweep; x = 1 is ``1 / lr`` steps from the minimum.
    """

    name = "epsilon-floor"
    claim = "ε is a floor that takes over when g² underflows: too small breaks, too large damps"

    def __init__(
        self,
        lr: float = 0.02,
        beta2: float = 0.999,
        eps: float = 1e-8,
        safe_eps: float = 1e-4,
        steps: int = 60,
    ) -> None:
        positive("nothing would move", lr=lr)
        decay("beta2", beta2)
        positive("it is the floor", eps=eps, safe_eps=safe_eps)
        at_least("steps", steps, 1, "the sweep needs a step")
        self.lr, self.beta2, self.eps, self.safe_eps, self.steps = lr, beta2, eps, safe_eps, steps

    def run(self, lab: Lab) -> Outcome:
        """One step for every fp16 number, then a sweep of epsilon over dtypes and gradient scales."""
        findings = [*self._bounds(lab), *self._first_step(lab)]
        more, figures = self._sweep(lab)
        return Outcome(findings + more, figures)

    def _bounds(self, lab: Lab) -> list[Finding]:
        squared = EveryNumber("Adagrad", lr=self.lr, eps=self.safe_eps)  # its state is the plain sum of g²
        averaged = self._adam(self.safe_eps)
        found = []
        for module, name in ((squared, "adagrad"), (averaged, "adam")):
            table = lab.train(module, steps=1, name=name)[0]
            lost = round(table["x", "eps_floor_underflow_frac"] * table["x", "numel"])
            found.append(float(module.g[lost - 1]) if lost else 0.0)  # g is sorted
        exact, spacing = math.sqrt(HALF_SMALLEST), 2.0**-10
        reason = "2^-24 is the smallest number of fp16, but what is above half of it is rounded up to it"
        return [
            Finding(BOUND.format("g²") + ", √2^-25", exact, found[0], spacing),
            Finding(BOUND.format("g²") + ", said to be √2^-24", 2.0**-12, found[0], spacing, reason=reason),
            Finding(BOUND.format("(1-β2)g²"), exact / math.sqrt(1 - self.beta2), found[1], spacing),
        ]

    def _adam(self, eps: float, foreach: bool = False) -> EveryNumber:
        return EveryNumber("Adam", lr=self.lr, betas=(0.9, self.beta2), eps=eps, foreach=foreach)

    def _first_step(self, lab: Lab) -> list[Finding]:
        findings, wrong, cause = [], 0.0, 0.0
        for eps, foreach in ((self.eps, False), (self.eps, True), (self.safe_eps, False)):
            module, way = self._adam(eps, foreach), "foreach" if foreach else "single"
            table = lab.train(module, steps=1, name=f"first-step-{eps:g}-{way}")[0]
            zero = (1 - self.beta2) * module.g.double() ** 2 <= HALF_SMALLEST
            cause, expected = table["x", "eps_floor_underflow_frac"], zero & (eps <= HALF_SMALLEST)
            # Which elements: a table has one row a parameter, so the parameter itself is asked.
            broken = ~module.x.detach().isfinite()
            wrong += float((broken != expected).sum())
            predicted, measured = (float(mask.double().mean()) for mask in (expected, broken))
            claim = f"share inf or NaN after one step, ε={eps:g}, {way}"
            findings.append(Finding(claim, predicted, measured, 1e-12))
        share = float(zero.double().mean())
        findings.append(Finding("share that the table calls underflow", share, cause, 1e-12))
        findings.append(Finding("elements that are not in both: v = ε = 0, and inf or NaN", 0, wrong, 0))
        return findings

    def _sweep(self, lab: Lab) -> tuple[list[Finding], list[Figure]]:
        epsilons, scales = [10.0**k for k in range(-10, 2)], [1e-5, 1e-3, 1e-1]
        module, again = (Sweep(epsilons, scales, lr=self.lr, betas=(0.9, self.beta2)) for _ in range(2))
        first = lab.train(module, steps=1, name="sweep-first")[0]
        last = lab.train(again, steps=self.steps, name="sweep", every_n_steps=self.steps)[-1]
        rate, predicted = first["effective_lr_max"], np.array([self._rate(*c) for c in module.cells])
        same = rate == predicted  # both may be infinite
        off = np.abs(np.where(same, 1.0, rate / np.where(same, 1.0, predicted)) - 1).max()
        dtype, eps, scale = (np.array(values) for values in zip(*module.cells, strict=True))
        damped = self.lr * scale / (scale + eps)
        late = np.abs(first["update_rms"] / damped - 1)[dtype == "float64"].max()
        finite = [e for e in epsilons if np.isfinite(rate[(dtype == "float16") & (eps == e)]).all()]
        held = min(e for e in epsilons if e > HALF_SMALLEST)
        findings = [
            Finding(
                "effective lr against lr/(√v̂+ε), v and ε rounded: largest deviation", 0, float(off), 1e-6
            ),
            Finding("first step against lr|g|/(|g|+ε) in fp64: largest deviation", 0, float(late), 1e-6),
            Finding("smallest ε of the sweep with finite rates in fp16", held, min(finite), 0),
        ]
        findings += self._both_ends(module, last["param_rms"])
        return findings, self._figures(lab, module, rate, predicted, last["param_rms"])

    def _both_ends(self, module: Sweep, left: npt.NDArray[np.float64]) -> list[Finding]:
        """After the training: which parameters are broken, and how little the damped ones have moved."""
        dtype, eps, scale = (np.array(values) for values in zip(*module.cells, strict=True))
        findings = []
        largest = eps.max()
        for kind in ("float64", "bfloat16", "float16"):
            here = dtype == kind
            vanish = (eps <= HALF_SMALLEST) & ((1 - self.beta2) * scale**2 <= HALF_SMALLEST)
            expected = int((vanish & here).sum()) if kind == "float16" else 0
            broken = int((~np.isfinite(left) & here).sum())
            claim = f"{kind}: parameters of the sweep that a too small ε has made inf or NaN"
            findings.append(Finding(claim, expected, broken, 0, reason=_VANISH))
            # A moment is never above the largest gradient, that of x = 1, so this is the longest way.
            way = self.steps * self.lr * scale.max() / largest
            claim = f"{kind}: distance left with ε = {largest:g}, damped, least of all |g|"
            least = float(left[here & (eps == largest)].min())
            findings.append(Finding(claim, 1 - way, least, 2.0**-8, "at least", reason=_DAMPED))
        return findings

    def _figures(
        self,
        lab: Lab,
        module: Sweep,
        rate: npt.NDArray[np.float64],
        predicted: npt.NDArray[np.float64],
        left: npt.NDArray[np.float64],
    ) -> list[Figure]:
        """Rates and distances by epsilon, one figure each for every scale of gradient."""
        dtype, _, scale = (np.array(values) for values in zip(*module.cells, strict=True))
        rates, distances = [], []
        for g in sorted(set(scale)):
            curves: dict[str, tuple[list[float], list[float]]] = {}
            lefts: dict[str, tuple[list[float], list[float]]] = {}
            for kind in ("float64", "bfloat16", "float16"):
                here = (dtype == kind) & (scale == g)
                for name, values in (("measured", rate), ("predicted", predicted)):
                    curves[f"{name}, {kind}"] = _finite(module.eps, values[here])
                lefts[kind] = _finite(module.eps, left[here])
                lab.draw(f"sweep-{kind}-{g:g}", "effective_lr, step n is ε = 1e-10 · 10^n",
                         range(len(module.eps)), predicted[here].tolist(), rate[here].tolist())  # fmt: skip
            title = f"Too small breaks, too large damps, |g| = {g:g}"
            rates.append(Figure(title, "ε", "effective learning rate", curves))
            title = f"Distance left of 1 after {self.steps} steps of {self.lr:g}, |g| = {g:g}"
            distances.append(Figure(title, "ε", "distance to the minimum", lefts))
        return [*rates, *distances]

    def _rate(self, dtype: str, eps: float, scale: float) -> float:
        """``lr / (sqrt(v_hat) + eps)``, each number rounded once to what ``dtype`` holds."""
        g, floor = (float(torch.tensor(number, dtype=getattr(torch, dtype))) for number in (scale, eps))
        v = float(torch.tensor((1 - self.beta2) * g**2, dtype=getattr(torch, dtype)))
        denominator = math.sqrt(v / (1 - self.beta2)) + floor
        return self.lr / denominator if denominator else math.inf


def _finite(x: Sequence[float], y: npt.NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """The points that can be drawn: the curve begins where the rate is finite."""
    kept = [(a, float(b)) for a, b in zip(x, y, strict=True) if np.isfinite(b)]
    return [a for a, _ in kept], [b for _, b in kept]
