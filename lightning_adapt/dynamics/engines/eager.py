"""The eager engine: plain torch, one chunk at a time, nothing ever waits for the device.

Arithmetic is float64 (float32 on devices without it), so that sums of tiny squares neither underflow nor
lose digits. The extra memory is some 15 arrays of one chunk, whatever the size of a parameter: rows come
one by one, and where a rule has to make tensors, in pieces (`rows.build_rows`). What must be read whole is
the exception: Muon's matrix, parameters with row groups, and rules registered without ``reads``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep, Row, Scalar
from lightning_adapt.dynamics.engines import default_chunk
from lightning_adapt.dynamics.engines.packed import ADDED, COUNTS, FIGURES, MAXIMA, SUMS, Packed
from lightning_adapt.dynamics.histograms import EFFECTIVE_LR, HISTOGRAMS, SECOND_MOMENT, UPDATE, WIDTH, Bins

_MANTISSA = {torch.float64: (52, 1023, torch.int64), torch.float32: (23, 127, torch.int32)}


@torch.no_grad()
def measure(rows: Iterable[Row], *, histograms: bool = True, chunk: int | None = None) -> Packed:
    """Measure ``rows`` with plain torch operations on their device.

    Args:
        rows: Consumed one by one, so that what a rule had to compute is freed before the next row.
        histograms: Also count; without counts the quantile columns are NaN.
        chunk: Elements worked on at a time.

    Returns:
        The packed figures, on the device of the first row.
    """
    figures: list[Tensor] = []
    counts: list[Tensor] = []
    for row in rows:
        device = row.parameter.device
        work = _Work(row, torch.float32 if device.type == "mps" else torch.float64, histograms)
        size, total = chunk or default_chunk(device), row.parameter.numel()
        for start in range(0, total, size):
            work.add(slice(start, min(start + size, total)))
        figures.append(work.figures())
        if work.counts is not None:
            counts.append(work.counts)
    if not figures:
        empty = torch.zeros(0, FIGURES, dtype=torch.float64)
        return Packed.of(
            empty, torch.zeros(0, len(HISTOGRAMS), WIDTH, dtype=torch.int32) if histograms else None
        )
    home = figures[0].device
    return Packed.of(
        torch.stack([f.to(home, non_blocking=True) for f in figures]),
        torch.stack([c.to(home, non_blocking=True) for c in counts]) if counts else None,
    )


def _flat(tensor: Tensor, order: list[int]) -> Tensor:
    """One dimension, in memory order, so that a channels-last tensor is not copied."""
    return tensor.detach().permute(order).reshape(-1)


def bin_index(x: Tensor, bins: Bins) -> Tensor:
    """Index of each non-negative element in ``bins``, ``bins.size`` for NaN: a shift of its bit pattern."""
    mantissa, bias, integer = _MANTISSA[x.dtype]
    key = x.view(integer) >> (mantissa - bins.mantissa_bits)
    key = key - ((bins.lowest + bias) << bins.mantissa_bits) + 1
    if bins.lowest <= -bias:  # the bit pattern of a subnormal number says nothing about its octave
        key = key.masked_fill(x < torch.finfo(x.dtype).tiny, 0)
    return key.clamp(0, bins.size - 1).long().masked_fill_(x.isnan(), bins.size)


class _Work:
    """Accumulates the figures of one row over its chunks.

    Written for few kernels: a number that is not finite becomes 0 once (``nan_to_num``), and is counted by
    comparing with what it was.
    """

    def __init__(self, row: Row, dtype: torch.dtype, histograms: bool) -> None:
        device = row.parameter.device
        self.row, self.dtype = row, dtype
        parameter = row.parameter
        # Largest stride first: this permutation makes a dense tensor contiguous, without a copy.
        order = sorted(range(parameter.dim()), key=lambda d: parameter.stride(d), reverse=True)
        step = row.canonical
        tensors = {
            "parameter": parameter,
            "before": row.before,
            "gradient": step.gradient if step is not None and step.gradient is not None else row.gradient,
        }
        if step is not None:
            tensors |= {
                name: getattr(step, name)
                for name in ("first_moment", "numerator", "second_moment", "centering", "effective_lr")
            }
        self.flat = {name: _flat(t, order) for name, t in tensors.items() if t is not None}
        self.totals = torch.zeros(ADDED, dtype=dtype, device=device)
        self.tops = torch.full((len(MAXIMA),), -torch.inf, dtype=dtype, device=device)
        self.counts = (
            torch.zeros(len(HISTOGRAMS), WIDTH, dtype=torch.int32, device=device) if histograms else None
        )
        self.zero = torch.zeros((), dtype=dtype, device=device)
        self.none = torch.zeros((), dtype=torch.int64, device=device)
        self.nothing = self.zero - torch.inf
        self.found: dict[str, Tensor] = {}

    def figures(self) -> Tensor:
        """Shape ``(FIGURES,)``."""
        return torch.cat([self.totals, self.tops])

    def add(self, piece: slice) -> None:
        """Take in one chunk."""
        # full_like runs on the device; tensor(n, device=…) would be a blocking copy.
        n = torch.full_like(self.none, piece.stop - piece.start)
        x = {name: t[piece].to(self.dtype) for name, t in self.flat.items()}
        self.found = found = {"numel": n}
        self._squares("param", x["parameter"])
        if "gradient" in x:
            if isinstance(self.row.gradient_factor, Tensor) or self.row.gradient_factor != 1.0:
                x["gradient"] = x["gradient"] * self.row.gradient_factor
            x["gradient_kept"] = self._squares("grad", x["gradient"], "grad_absmax")
            found |= {"grad_numel": n, "grad_zero": n - torch.count_nonzero(x["gradient"])}
        predicted = self._canonical(x, n)
        update = x["parameter"] - x["before"] if "before" in x else predicted
        if update is not None:
            kept = self._squares("update", update, "update_absmax")
            self._count(UPDATE, update.abs())
            if "gradient" in x:
                found["update_dot_grad"] = torch.dot(kept, x["gradient_kept"])
        if predicted is not None:
            still = predicted.masked_fill(~self._unmoved(x, predicted, piece), 0.0)
            found |= {"lost_numel": n, "lost": torch.count_nonzero(still)}
        counts = torch.stack([found.get(name, self.none) for name in COUNTS])
        sums = torch.stack([found.get(name, self.zero) for name in SUMS])
        self.totals += torch.cat([counts.to(self.dtype), sums])
        tops = torch.stack([found.get(name, self.nothing) for name in MAXIMA])
        self.tops = torch.maximum(self.tops, tops)

    def _canonical(self, x: dict[str, Tensor], n: Tensor) -> Tensor | None:
        """Everything that needs the canonical step; returns the update it says."""
        step = self.row.canonical
        if step is None:
            return None
        if "first_moment" in x:
            self._squares("first", x["first_moment"], "first_moment_absmax")
        rate, root, hat = self._denominator(step, x, n)
        self.found["effective_lr_max"] = rate.nan_to_num(-torch.inf, torch.inf).amax()
        self.found["effective_lr_negated_min"] = rate.nan_to_num(torch.inf, torch.inf).amin().neg()
        self._count(EFFECTIVE_LR, rate)
        if hat is not None and root is not None:
            self._ratios(step, x, hat, root)
        before, predicted = self._predict(step, x, rate)
        if isinstance(step.decay, Tensor) or step.decay or step.l2:
            factor = step.decay + step.l2 * rate if step.l2 else step.decay
            self._squares("decay", _where(self.row.applied, before * factor))
        else:
            self.found["decay_finite"] = torch.count_nonzero(before.isfinite())
        return predicted

    def _denominator(
        self, step: CanonicalStep, x: dict[str, Tensor], n: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The effective learning rate of each element, sqrt(v_hat) and v_hat."""
        if "second_moment" not in x:
            constant = torch.ones_like(x["parameter"]) * step.lr
            return x.get("effective_lr", constant), None, None
        stored, eps = x["second_moment"], step.eps
        if step.second_moment_is_root:
            root = stored if eps is None else (stored - eps).clamp_min(0)
            zero, hat = n - torch.count_nonzero(root), root.square()
        else:
            zero, hat = n - torch.count_nonzero(stored), stored * step.second_moment_correction
            if "centering" in x:
                hat = (hat - x["centering"].square()).clamp_min(0)
            root = hat.sqrt()
        self._count(SECOND_MOMENT, hat)
        kept = hat.nan_to_num(0.0, 0.0, 0.0)
        tiny = torch.finfo(self.flat["second_moment"].dtype).tiny
        self.found |= {
            "second_numel": n,
            "second_finite": torch.count_nonzero(kept == hat),
            "second_hat": kept.sum(),
            "second_zero": zero,
            "second_subnormal": torch.count_nonzero(stored < tiny) - torch.count_nonzero(stored <= 0),
            "second_moment_absmax": stored.nan_to_num(0.0, 0.0, 0.0).amax(),
        }
        denominator = root if eps is None else self._floor(step, x, hat, root, zero, eps)
        if "effective_lr" in x:
            return x["effective_lr"], root, hat
        rate = step.lr / denominator
        if isinstance(step.adaptive, Tensor) or not step.adaptive:
            rate = _where(step.adaptive, rate, torch.ones_like(rate) * step.lr)
        return rate, root, hat

    def _floor(
        self, step: CanonicalStep, x: dict[str, Tensor], hat: Tensor, root: Tensor, zero: Tensor, eps: Scalar
    ) -> Tensor:
        """Count who sits on the epsilon floor, and why; returns the denominator."""
        whole = eps
        if step.eps_placement == "outside":
            hit, denominator = root <= eps, root + eps
        elif step.eps_placement == "inside":
            hit, denominator, whole = hat <= eps, (hat + eps).sqrt(), eps**0.5
        else:
            hit, denominator = root <= eps, torch.clamp(root, min=eps)
        # An element is untouched when v, gradient and first moment are all 0; a sum of sizes tells at once.
        anything = root if step.second_moment_is_root else x["second_moment"]
        for name in ("gradient", "first_moment"):
            if name in x:
                anything = anything + x[name].abs()
        untouched = torch.full_like(zero, len(hat)) - torch.count_nonzero(anything)
        share = whole / denominator
        counted = {
            "floor_numel": torch.full_like(zero, len(hat)),
            "floor_untouched": untouched,
            "floor_underflow": zero - untouched,
            "floor_small": torch.count_nonzero(hit) - zero,  # v = 0 is always a hit
            "eps_share_numel": torch.count_nonzero(share == share),  # not NaN, which is 0 / 0
            "eps_share": share.nan_to_num(0.0).sum(),
        }
        if isinstance(step.adaptive, Tensor) or not step.adaptive:
            used = torch.full_like(self.zero, 1.0) * step.adaptive
            counted = {name: (value * used).to(value.dtype) for name, value in counted.items()}
        self.found |= counted
        return denominator

    def _ratios(self, step: CanonicalStep, x: dict[str, Tensor], hat: Tensor, root: Tensor) -> None:
        """rms_t and the signal-to-noise ratio."""
        if "gradient" in x:
            eps: Scalar = 0.0 if step.eps is None else step.eps
            floor: Scalar = eps if step.eps_placement == "inside" else eps**2
            ratio = x["gradient"].square() / torch.clamp(hat, min=floor)
            # 0 / 0 says nothing about staleness: such elements count as 0, as with any positive eps.
            ratio.masked_fill_(x["gradient"] == 0, 0.0)
            self._total("rms_t", ratio)
        if "first_moment" in x and step.first_moment_correction is not None:
            # Where v_hat = 0 this is inf or NaN, and left out.
            self._total("snr", x["first_moment"].abs() * step.first_moment_correction / root)

    def _predict(self, step: CanonicalStep, x: dict[str, Tensor], rate: Tensor) -> tuple[Tensor, Tensor]:
        """The parameter before the step, and the update that the canonical step says."""
        pull: Scalar = 0.0  # of the parameter itself, through L2
        if "numerator" in x:
            numerator = x["numerator"]
        else:
            numerator, pull = torch.zeros_like(x["parameter"]), step.gradient_factor * step.l2
            if "first_moment" in x:
                numerator = numerator + x["first_moment"] * step.first_moment_factor
            if "gradient" in x:
                sign = -1.0 if step.maximize else 1.0
                numerator = numerator + x["gradient"] * (sign * step.gradient_factor)
        gain = torch.ones_like(rate) * step.lr if step.preconditioned else rate
        if "before" in x:
            before = x["before"]
        else:
            solved = (x["parameter"] + gain * numerator) / (1 - step.decay - gain * pull)
            before = _where(self.row.applied, solved, x["parameter"])
        predicted = -gain * (numerator + pull * before) - step.decay * before
        return before, _where(self.row.applied, predicted)

    def _unmoved(self, x: dict[str, Tensor], predicted: Tensor, piece: slice) -> Tensor:
        """Where the parameter has the same value before and after the step."""
        if "before" in x:
            return x["parameter"] == x["before"]
        stored = self.flat["parameter"][piece]
        return (x["parameter"] + predicted).to(stored.dtype) == stored

    def _count(self, bins: Bins, x: Tensor) -> None:
        if self.counts is None:
            return
        index = bin_index(x, bins)
        if index.device.type == "cpu":
            counted = torch.bincount(index, minlength=WIDTH + 1)
        else:  # bincount would wait for the device to learn the largest index
            counted = torch.zeros(WIDTH + 1, dtype=torch.int32, device=index.device)
            counted.scatter_add_(0, index, torch.ones_like(index, dtype=torch.int32))
        self.counts[HISTOGRAMS.index(bins)] += counted[:WIDTH]

    def _squares(self, name: str, x: Tensor, top: str = "") -> Tensor:
        """Count and sum the squares of the finite elements; returns ``x`` with 0 for the others."""
        kept = x.nan_to_num(0.0, 0.0, 0.0)
        self.found[f"{name}_finite"] = torch.count_nonzero(kept == x)
        self.found[f"{name}_square"] = torch.dot(kept, kept)
        if top:
            self.found[top] = kept.abs().amax()
        return kept

    def _total(self, name: str, x: Tensor) -> None:
        """Count and sum the finite elements."""
        kept = x.nan_to_num(0.0, 0.0, 0.0)
        self.found |= {f"{name}_numel": torch.count_nonzero(kept == x), name: kept.sum()}


def _where(applied: Scalar, x: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """``x`` where ``applied`` is 1, else ``otherwise`` or 0; also for a flag that only the device knows."""
    otherwise = torch.zeros_like(x) if otherwise is None else otherwise
    if isinstance(applied, Tensor):
        return torch.where(applied > 0, x, otherwise)
    return x if applied else otherwise
