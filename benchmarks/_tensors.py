"""The tensors that benchmarks work on: real optimizers that made real steps, and a reading of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from _measure import memory_free
from torch import Tensor, nn

from lightning_adapt.dynamics.engines import ENGINES, Engine, find_engine, installed
from lightning_adapt.dynamics.engines.descriptors import describe
from lightning_adapt.dynamics.kept_rows import KeptRows
from lightning_adapt.dynamics.reading import Reading, take
from lightning_adapt.dynamics.rows import Circumstances, Member, build_rows, members

Shapes = Mapping[str, tuple[int, ...]]


def gpt2_shapes(
    *, layers: int = 12, width: int = 768, vocabulary: int = 50_257, context: int = 1024
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of GPT-2's parameters; the default is the 124 M of GPT-2 small, in 148 tensors.

    Example:
        >>> sum(math.prod(shape) for shape in gpt2_shapes().values())
        124439808
    """

    def affine(name: str, inner: int, outer: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (inner, outer), f"{name}.bias": (outer,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (vocabulary, width), "wpe.weight": (context, width)}
    for layer in range(layers):
        block = f"h.{layer}"
        shapes |= norm(f"{block}.ln_1")
        shapes |= affine(f"{block}.attn.c_attn", width, 3 * width)
        shapes |= affine(f"{block}.attn.c_proj", width, width)
        shapes |= norm(f"{block}.ln_2")
        shapes |= affine(f"{block}.mlp.c_fc", width, 4 * width)
        shapes |= affine(f"{block}.mlp.c_proj", 4 * width, width)
    return shapes | norm("ln_f")


def quick_gpt2_shapes() -> dict[str, tuple[int, ...]]:
    """The same 148 tensors, small."""
    return gpt2_shapes(width=16, vocabulary=100, context=32)


def equal_shapes(elements: int, tensors: int) -> dict[str, tuple[int, ...]]:
    """``tensors`` of one size, ``elements`` in all."""
    return {f"tensor.{index}": (elements // tensors,) for index in range(tensors)}


class Parameters(nn.Module):
    """Parameters by name, dots and all, as a model would have them."""

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.named = dict(named)

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        """Yield names and parameters."""
        yield from self.named.items()


@dataclass
class Bench:
    """Tensors after a real step of a fused AdamW, and what can be done with them."""

    shapes: Shapes
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    named: dict[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator(self.device).manual_seed(0)
        self.named = {}
        for name, shape in self.shapes.items():
            weight = torch.empty(shape, device=self.device, dtype=self.dtype)
            self.named[name] = nn.Parameter(weight.normal_(0, 0.02, generator=generator))
            # Loss gradients of a model this size are about so large; nothing underflows in half precision.
            self.named[name].grad = torch.empty_like(weight).normal_(0, 1e-2, generator=generator)
        self.optimizer = torch.optim.AdamW(self.named.values(), lr=1e-6, weight_decay=0.1, fused=True)
        halves = self.dtype.itemsize < 4
        before = {id(p): p.detach().clone() for p in self.named.values()} if halves else None
        self._now = Circumstances(before=before)
        self.step()
        self._members: list[Member] = members(
            self.optimizer, {id(parameter): name for name, parameter in self.named.items()}
        )
        self._rows = KeptRows(self.optimizer)

    @property
    def numel(self) -> int:
        """Elements of all parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def step(self) -> None:
        """One fused AdamW step."""
        self.optimizer.step()

    def read(self, engine: Engine) -> Reading:
        """What `DynamicsProbe` does after a step: rows, engine, packing.

        As with a large model, there is a copy from before the step only in half precision, where what is
        stored does not tell the update.
        """
        rows = self._rows.rows(self._members, self._now)
        source = "measured" if self._now.before else "predicted"
        about = {"step": 1, "optimizer": "AdamW", "update_source": source}
        return take(engine, rows, {"lr/group_0": 1e-6}, histograms=True, about=about)

    def bytes_to_read(self) -> int:
        """Bytes of the tensors that a reading needs, each read once."""
        found: list[Tensor | None] = []
        for row in build_rows(self.optimizer, self._members, self._now):
            found += describe(row).tensors
        return sum(tensor.nbytes for tensor in found if tensor is not None)

    def state_bytes(self) -> int:
        """Bytes of both moments."""
        states = self.optimizer.state.values()
        return sum(state[name].nbytes for state in states for name in ("exp_avg", "exp_avg_sq"))


def fits(elements: int, dtype: torch.dtype, device: str) -> bool:
    """Whether parameters, gradients and both moments leave a fifth of the free memory free."""
    return elements * dtype.itemsize * 4 < 0.8 * memory_free(device)


def engines(device: str, elements: int) -> dict[str, Engine]:
    """The engines worth measuring on ``device``; the slow reference only on few elements."""
    names = ["eager", {"cpu": "numba", "cuda": "triton"}[device]]
    if device == "cpu" and elements <= 100_000:
        names.append("reference")
    return {name: find_engine(name) for name in names if name in ENGINES and installed(name)}


class Copy:
    """A copy that moves as many bytes as a reading must read: half of them read, half of them written.

    Above ``most`` bytes it moves only those, again and again as often as needed.
    """

    def __init__(self, traffic: int, device: str, most: int = 1 << 30) -> None:
        self.share = max(traffic / most, 1.0)
        size = max(int(traffic / self.share) // 8, 1)
        self._source = torch.ones(size, device=device)
        self._target = torch.zeros(size, device=device)

    def __call__(self) -> None:
        """Copy; multiply its time by ``share``."""
        self._target.copy_(self._source)
