"""What the compiled functions share: how they are compiled, names for positions, reading memory."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import codegen
from numba.extending import intrinsic as _intrinsic
from numba.np.numpy_support import carray

from lightning_adapt.dynamics.engines.descriptors import SCALARS, SLOTS
from lightning_adapt.dynamics.engines.packed import COUNTS, MAXIMA, SUMS

#: Elements that are summed in float32: so few that adding the same number again and again, which rounds the
#: same way each time, stays within 1e-6 in registers of eight lanes.
PART = 256
#: Elements of a block, which is looked at as a whole: did float32 hold everything?
BLOCK = 1024
#: Blocks, and elements, that are looked at together, so that the next ones are already on their way: memory
#: would stand still at the end of every block. What a strip needs again is then still in a cache.
BLOCKS = 16
STRIP = BLOCKS * BLOCK

_INT, _FLOAT = ir.IntType(32), ir.FloatType()

_F = TypeVar("_F", bound=Callable[..., Any])

ABSENT, FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = range(5)
"""Kinds of tensors."""

# The compiler takes attributes of a named tuple for the constants they are.
FIGURE: Any = namedtuple("FIGURE", (*COUNTS, *SUMS, *MAXIMA))(*range(len(COUNTS) + len(SUMS) + len(MAXIMA)))
SCALAR: Any = namedtuple("SCALAR", SCALARS)(*range(len(SCALARS)))
SLOT: Any = namedtuple("SLOT", SLOTS)(*range(len(SLOTS)))

# Functions that are only called from compiled ones need no way in from Python, which is quicker to compile.
_INNER: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def exactly(function: _F) -> _F:
    """Compile as written: every operation rounds once, as in numpy."""
    # Said, because a function that says nothing of it is compiled as whoever calls it first.
    return cast(_F, njit(**_INNER, fastmath=False)(function))


def in_any_order(function: _F) -> _F:
    """Compile so that sums may be taken in any order and fit vector registers; inf and NaN stay."""
    return cast(_F, njit(**_INNER, fastmath={"reassoc", "nsz", "contract"})(function))


def nearly(function: _F) -> _F:
    """As `in_any_order`; a root or a quotient may also be off by a few units of its last place."""
    return cast(_F, njit(**_INNER, fastmath={"reassoc", "nsz", "contract", "arcp", "afn"})(function))


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's decorator; what it makes takes one argument less than ``function``, which no type says."""
    return _intrinsic(function)


def _extreme(name: str) -> Any:
    """Maximum or minimum of numbers, none of them NaN, as an instruction that vectorises."""

    @intrinsic
    def pick(_: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = arguments[0].type
            function = builder.module.declare_intrinsic(name, [kind], ir.FunctionType(kind, [kind, kind]))
            return builder.call(function, arguments, fastmath=("nnan", "nsz"))

        return a(a, a), generate

    return pick


larger, smaller = _extreme("llvm.maxnum"), _extreme("llvm.minnum")


@intrinsic
def _pointer(_: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(address), generate


@intrinsic
def following(_: Any, address: Any) -> Any:
    """What an int64 in memory is, adding 1 to it in one go: no other thread gets the same.

    Whoever gets a larger one sees all that was written by those who got the smaller ones, before they did.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(address), generate


@intrinsic
def _from_bfloat16(_: Any, half: Any) -> Any:
    """The float32 of which a bfloat16 (its bits, uint16) is the upper half."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.zext(arguments[0], _INT)
        return builder.bitcast(builder.shl(bits, _INT(16)), _FLOAT)

    return types.float32(types.uint16), generate


@intrinsic
def _extended(_: Any, half: Any) -> Any:
    """The float32 that a float16 (its bits, uint16) is, by the processor's own instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), _FLOAT)

    return types.float32(types.uint16), generate


@intrinsic
def _scaled(_: Any, half: Any) -> Any:
    """The same where the processor has none.

    Exponent and digits are moved to their places and scaled, which also makes subnormal numbers right; what
    is then 2^16 or more was inf or NaN. In 32 bits all along, so that it vectorises.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.zext(arguments[0], _INT)
        moved = builder.bitcast(builder.shl(builder.and_(bits, _INT(0x7FFF)), _INT(13)), _FLOAT)
        scaled = builder.bitcast(builder.fmul(moved, _FLOAT(2.0**112)), _INT)
        beyond = builder.icmp_unsigned(">=", scaled, _INT(0x47800000))
        whole = builder.select(beyond, builder.or_(scaled, _INT(0x7F800000)), scaled)
        sign = builder.shl(builder.and_(bits, _INT(0x8000)), _INT(16))
        return builder.bitcast(builder.or_(whole, sign), _FLOAT)

    return types.float32(types.uint16), generate


_compiler: Any = codegen  # which has no types
_told: str | None = getattr(config, "CPU_FEATURES", None)  # empty means none, as for a generic processor
_FEATURES = _compiler.get_host_cpu_features() if _told is None else _told
_from_float16 = _extended if "+f16c" in _FEATURES else _scaled


@exactly
def smallest_normal(kind: int) -> float:
    """Smallest normal number of a dtype."""
    if kind == FLOAT64:
        return 2.0**-1022
    return 2.0**-14 if kind == FLOAT16 else 2.0**-126


@exactly
def floats(address: int, n: int) -> Any:
    """``n`` float32 in memory.

    By address, because counting the references to an array is an atomic operation, during which nothing is
    read ahead from memory.
    """
    return carray(_pointer(address), (n,), np.float32)


@exactly
def doubles_at(address: int, n: int) -> Any:
    """``n`` float64 in memory."""
    return carray(_pointer(address), (n,), np.float64)


@exactly
def integers(address: int, n: int, each: int) -> Any:
    """``n`` rows of int64 in memory."""
    return carray(_pointer(address), (n, each), np.int64)


@exactly
def counts_at(address: int, place: int, n: int, width: int) -> Any:
    """``n`` histograms of int32, the ``place``-th such group in memory."""
    return carray(_pointer(address + 4 * place * n * width), (n, width), np.int32)


@exactly
def single(address: int, kind: int, start: int, n: int, room: int) -> Any:
    """Where ``n`` elements from ``start`` lie as float32: in memory where they are, else in ``room``.

    Args:
        address: Of the first element of the tensor.
        kind: `ABSENT` (``room`` as it is), `FLOAT32`, `BFLOAT16` or `FLOAT16`.
        start: First element.
        n: How many.
        room: Address of room for that many float32.
    """
    if kind in (BFLOAT16, FLOAT16):
        half, wide = carray(_pointer(address + 2 * start), (n,), np.uint16), floats(room, n)
        if kind == BFLOAT16:
            for i in range(n):
                wide[i] = _from_bfloat16(half[i])
        else:
            for i in range(n):
                wide[i] = _from_float16(half[i])
    return address_of(address, kind, start, room)


@exactly
def address_of(address: int, kind: int, start: int, room: int) -> Any:
    """What `single` says, without doing it."""
    return np.int64(address + 4 * start) if kind == FLOAT32 else np.int64(room)  # one type, for the compiler


@exactly
def doubles(address: int, kind: int, start: int, n: int, room: Any, narrow: int) -> None:
    """``n`` elements from ``start`` into ``room``, float64; ``narrow`` is as ``room`` in `single`."""
    if kind == FLOAT64:
        wide = doubles_at(address + 8 * start, n)
        for i in range(n):
            room[i] = wide[i]
    else:
        narrowed = floats(single(address, kind, start, n, narrow), n)
        for i in range(n):
            room[i] = np.float64(narrowed[i])


@exactly
def gather(address: int, kind: int, start: int, n: int, stride: int, room: Any) -> None:
    """``n`` elements from ``start``, each ``stride`` after the last, into ``room``, float64."""
    if kind == FLOAT32:
        spread = floats(address + 4 * start, (n - 1) * stride + 1)
        for i in range(n):
            room[i] = np.float64(spread[i * stride])
    else:
        for i in range(n):
            room[i] = _element(address, kind, start + i * stride)


@exactly
def _element(address: int, kind: int, i: int) -> float:
    if kind == FLOAT64:
        return float(doubles_at(address + 8 * i, 1)[0])
    half = carray(_pointer(address + 2 * i), (1,), np.uint16)[0]
    return np.float64(_from_bfloat16(half) if kind == BFLOAT16 else _from_float16(half))
