"""bf16 keeps the range of fp32, but not its resolution: small changes of v and of weights are lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from lightning_adapt.recipes.landscapes._bf16_models import MANTISSA, Fading, Letters, Normal
from lightning_adapt.recipes.landscapes._checks import at_least, decay, own_name, positive
from lightning_adapt.recipes.landscapes._grouped import train_grouped
from lightning_adapt.recipes.landscapes._lab import Curves, Lab, column
from lightning_adapt.recipes.landscapes._study import Figure, Finding, Outcome, Study
from lightning_adapt.recipes.nlp.text_data import embedded_text, encode, read_text

RATES = (1e-5, 1e-4, 1e-3, 1e-2)
DECAYS = "v decays again where 1-β2 is not below 2^-9, half an ulp of the largest v in an octave"
RUNS = {
    "fp32": (torch.float32, "eps"),
    "bf16": (torch.bfloat16, "eps"),
    "fp16": (torch.float16, "eps"),
    "fp16, safe ε": (torch.float16, "safe_eps"),
}


class Bf16States(Study):
    """A change smaller than half the distance to the next number (half an ulp) is rounded away.

    bf16 has 7 bits behind the point: between ``2**e`` and ``2**(e + 1)`` half an ulp is ``2**(e - 8)``.
    ``v · beta2`` is rounded back to v where ``1 - beta2 < 2**-9``: v never decays. It only grows, while
    ``(1 - beta2)·g²`` is above half an ulp, and stops at ``2**ceil(log2((1 - beta2)·g²) + 8)``. A step of
    ``lr`` does not move a weight from ``2**ceil(log2(lr) + 8)`` on. fp16 has three bits more, but no range:
    small v are 0, and the step is ``m_hat / eps``.

    Source: IEEE 754 rounding; Zamirai et al., Revisiting BFloat16 Training (2020); Micikevicius et al., Mixed
    Precision Training (2018).
    Look at: ``dynamics/update_lost_frac`` and ``second_moment_absmax``.

    Args:
        beta2: Of Adam.
        lr: Learning rate of the language model.
        eps: Of the language model; rounds to 0 in fp16, but is added in fp32.
        safe_eps: The one that fp16 states train with.
        weights: Of which the lost ones are counted.
        steps: Of the language model.
        seeds: Trainings of the language model.
        path: A text file; without one, the text that comes with Python.
    """

    name = "bf16-states"
    claim = "bf16 keeps range but not resolution: v does not decay and small updates are lost"

    def __init__(
        self,
        beta2: float = 0.999,
        lr: float = 5e-3,
        eps: float = 1e-8,
        safe_eps: float = 1e-4,
        weights: int = 65536,
        steps: int = 200,
        seeds: int = 2,
        path: str | None = None,
    ) -> None:
        decay("beta2", beta2)
        positive("nothing would move", lr=lr)
        positive("where v is 0, the step is made by it alone", eps=eps, safe_eps=safe_eps)
        at_least("weights", weights, 100, "a share of fewer has no interval worth the name")
        at_least("steps", steps, 20, "the loss at the end is the mean of a quarter of them")
        at_least("seeds", seeds, 1, "no training has no loss")
        self.beta2, self.lr, self.weights = beta2, lr, weights
        self.floors = {"eps": eps, "safe_eps": safe_eps}
        self.steps, self.seeds, self.path = steps, seeds, path

    def run(self, lab: Lab) -> Outcome:
        """Known gradients, normal weights, then the language model."""
        frozen, way = self._frozen(lab)
        lost, shares = self._lost(lab)
        trained, losses = self._language_model(lab)
        title = "A constant gradient that ends: v in bf16 and fp32"
        return Outcome(
            [*frozen, *lost, *trained],
            [
                Figure(title, "step", "v / g²", way, log_x=False, log_y=False),
                Figure("Updates that rounding loses", "lr", "share of N(0, 1) weights", shares, log_y=False),
                Figure("A language model by dtype of its states", "step", "loss", losses, log_x=False),
            ],
        )

    def _frozen(self, lab: Lab) -> tuple[list[Finding], Curves]:
        """The state v under 9 constant gradients for ``at`` steps, and then without."""
        at, after = 900, 300
        findings: list[Finding] = []
        curves: Curves = {}
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            g = torch.logspace(-3, 1, 9).to(dtype)
            module = Fading(g, at, lr=1e-3, betas=(0.9, self.beta2), eps=1e-8)
            rows = {"x": torch.arange(len(g))}
            history = train_grouped(
                lab, module, rows, steps=at + after, name=f"fading-{name}", every_n_steps=60
            )
            t, v = np.array(history.steps) + 1, column(history, "second_moment_absmax")
            square = g.double().numpy() ** 2
            top, last = v[t == at][0], v[-1]
            if name == "bf16":
                limit = 2 ** np.ceil(np.log2((1 - self.beta2) * square) + MANTISSA[dtype] + 1)
                off = float(np.abs(top / limit - 1).max())
                claim = "bf16, constant g: v against 2^⌈log₂((1-β2)g²)+8⌉, largest relative deviation"
                findings.append(Finding(claim, 0.0, off, 1e-12, reason=DECAYS))
                predicted = np.where(t < at, np.nan, limit[4] / square[4])
            else:
                predicted = (1 - self.beta2 ** np.minimum(t, at)) * self.beta2 ** np.maximum(t - at, 0)
            decay = float((1 - last / top).max())
            expected = 0.0 if name == "bf16" else 1 - self.beta2**after
            claim = f"{name}: share of v that decays in {after} steps without gradient"
            findings.append(Finding(claim, expected, decay, 1e-4, reason=DECAYS))
            curves[f"measured, {name}"] = (t.tolist(), (v[:, 4] / square[4]).tolist())
            known = np.isfinite(predicted)
            curves[f"predicted, {name}"] = (t[known].tolist(), predicted[known].tolist())
            lab.draw(f"fading-{name}", "v over g²", t[known].tolist(), predicted[known].tolist(),
                     (v[known, 4] / square[4]).tolist())  # fmt: skip
        return findings, curves

    def _lost(self, lab: Lab) -> tuple[list[Finding], Curves]:
        """Which share of normal weights the first step, of size lr, leaves where they are."""
        module = Normal(self.weights, RATES, 0, betas=(0.9, self.beta2))
        measured = lab.train(module, steps=1, name="lost")[0]["update_lost_frac"].reshape(-1, len(RATES))
        findings: list[Finding] = []
        curves: Curves = {}
        for row, (dtype, bits) in zip(measured, MANTISSA.items(), strict=True):
            name = str(dtype).removeprefix("torch.")
            # All from 2**e on: half an ulp is above lr there.
            first = [2.0 ** math.ceil(math.log2(lr) + bits + 1) for lr in RATES]
            predicted = [math.erfc(weight / math.sqrt(2)) for weight in first]
            for lr, expected, found in zip(RATES, predicted, row, strict=True):
                noise = 3 * math.sqrt(expected * (1 - expected) / self.weights)
                if lr == 1e-4 or dtype is torch.bfloat16:
                    reason = "3 standard errors, and 2^-8 for weights that rounding made a power of two"
                    claim = f"{name}: share of N(0,1) weights that a step of {lr:g} does not move"
                    tolerance = noise + 2.0**-8
                    findings.append(
                        Finding(claim, expected, float(found), tolerance, absolute=True, reason=reason)
                    )
            curves[f"measured, {name}"] = (RATES, row.tolist())
            curves[f"predicted, {name}"] = (RATES, predicted)
            lab.draw(f"lost-{name}", "share lost, step n is lr = 1e-5 · 10^n", range(len(RATES)), predicted,
                     row.tolist())  # fmt: skip
        return findings, curves

    def _language_model(self, lab: Lab) -> tuple[list[Finding], Curves]:
        with own_name("data.path", "path"):
            text = embedded_text() if self.path is None else read_text(self.path)
        characters = "".join(sorted(set(text)))
        ids, size = encode(text, characters), len(characters) + 1
        share = torch.bincount(ids)[1:].double() / len(ids)
        entropy, guess = float(-(share * share.log()).sum()), math.log(len(characters))
        found: dict[str, Any] = {}
        curves: Curves = {}
        for run, (dtype, eps) in RUNS.items():
            losses, unchanged, rates = [], [], []
            for seed in range(self.seeds):
                options: dict[str, Any] = {"dtype": dtype, "lr": self.lr, "eps": self.floors[eps]}
                module = Letters(ids, size, seed, self.steps - 1, betas=(0.9, self.beta2), **options)
                history = lab.train(module, steps=self.steps, name=f"letters-{run}-{seed}".replace(", ", "-"),
                                    every_n_steps=max(1, self.steps // 10))  # fmt: skip
                losses.append(np.nan_to_num(module.losses, nan=math.inf))
                unchanged.append(module.unchanged)
                rates.append(float(np.nanmax(column(history, "effective_lr_max"))))
            quarter = self.steps // 4
            ends = [float(loss[-quarter:].mean()) for loss in losses]
            found[run] = (ends, np.mean(unchanged, axis=0).tolist(), rates)
            smooth = np.lib.stride_tricks.sliding_window_view(losses[0], 10).mean(1)
            curves[run] = ([n + 10.0 for n in range(len(smooth))], smooth.tolist())
        curves["predicted, guessing"] = ([10.0, self.steps], [guess, guess])
        curves["predicted, frequencies of letters"] = ([10.0, self.steps], [entropy, entropy])
        return self._trained(found, guess, entropy), curves

    def _trained(self, found: dict[str, Any], guess: float, entropy: float) -> list[Finding]:
        findings = []
        for run in ("fp32", "bf16"):
            told, seen = found[run][1]
            claim = f"language model, {run} states: share of v that step {self.steps} leaves unchanged"
            findings.append(Finding(claim, told, seen, 1e-3, absolute=True))
        name = f"fp16 states, ε = {self.floors['eps']:g}"
        rate, most = self.lr / self.floors["eps"], max(found["fp16"][2])
        findings.append(Finding(f"{name}: largest effective lr, where v is 0: η/ε", rate, most, 1e-6))
        claim, best = (
            f"{name}: diverges, loss above guessing (smallest of {self.seeds})",
            min(found["fp16"][0]),
        )
        findings.append(
            Finding(claim, guess, best, 0.0, "at least", reason="ε bounds the steps where v is 0")
        )
        for run in ("fp32", "bf16", "fp16, safe ε"):
            name = f"{run.split(',')[0]} states, ε = {self.floors[RUNS[run][1]]:g}"
            claim = f"{name}: trains, loss below letter frequencies (largest of {self.seeds})"
            worst, reason = max(found[run][0]), "too small an ε leaves steps of η/ε where v is 0"
            findings.append(Finding(claim, entropy, worst, 0.0, "at most", reason=reason))
        return findings
