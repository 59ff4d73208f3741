"""What the kernel is made of: tiles, filters and sets over a state record, and cache lines.

Everything here is compiled into the kernel's one loop.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from feature_repo.compiled import part
from feature_repo.features import RING_SIZE
from feature_repo.state import HOT_BYTES, STATE_BYTES

Set = npt.NDArray[np.int64]  # see is_new
SET_PLACES = 2 * RING_SIZE  # never more than half full
CACHE_LINE = 64


@part
def remember(bits: npt.NDArray[np.uint64], value: int) -> bool:
    """Add a hash to a Bloom filter; whether it was there. 4 probes by double hashing (Kirsch, Mitzenmacher 2006)."""
    last = np.uint64(bits.shape[0] * 64 - 1)  # sizes are powers of two
    step = (value >> np.uint64(33)) | np.uint64(1)
    known = np.uint64(1)
    for probe in range(4):
        at = (value + np.uint64(probe) * step) & last
        known &= bits[np.int64(at >> np.uint64(6))] >> (at & np.uint64(63))
    if known:  # the usual case: nothing is written
        return True
    for probe in range(4):
        at = (value + np.uint64(probe) * step) & last
        bits[np.int64(at >> np.uint64(6))] |= np.uint64(1) << (at & np.uint64(63))
    return False


@part
def is_new(table: Set, value: Any, round_: int) -> int:
    """1 the first time a 32-bit hash is shown in a round, else 0. A tiny open-addressing set, never emptied."""
    entry = (round_ << 32) | np.int64(value)
    at = value & (SET_PLACES - 1)
    while table[at] >> 32 == round_:
        if table[at] == entry:
            return 0
        at = (at + 1) & (SET_PLACES - 1)
    table[at] = entry
    return 1


@part
def clear_skipped(
    counts: npt.NDArray[np.uint32], sums: npt.NDArray[np.float32], head: int, now: int, size: int
) -> None:
    """Empty the tiles between the newest one and `now`, which becomes the newest."""
    if now - head >= size:
        counts[:] = 0
        sums[:] = 0
        return
    at = head % size
    for _ in range(now - head):
        at = at + 1 if at + 1 < size else 0
        counts[at] = np.uint32(0)
        sums[at] = np.float32(0)


@part
def total(counts: npt.NDArray[np.uint32], sums: npt.NDArray[np.float32]) -> tuple[Any, float]:
    """Payments and amounts in all tiles; four sums at a time, as each waits for its last addition."""
    count, size = np.int64(0), counts.shape[0]
    for tile in range(size):
        count += np.int64(counts[tile])
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for at in range(0, size - 3, 4):
        a += sums[at]
        b += sums[at + 1]
        c += sums[at + 2]
        d += sums[at + 3]
    for at in range(size - size % 4, size):
        a += sums[at]
    return count, (a + b) + (c + d)


@part
def newest(counts: npt.NDArray[np.uint32], sums: npt.NDArray[np.float32], head: int, tiles: int) -> tuple[Any, float]:
    """Payments and amounts in so many tiles up to the newest one."""
    count, amounts = np.int64(0), 0.0
    at = head % counts.shape[0]
    for _ in range(tiles):
        count += np.int64(counts[at])
        amounts += sums[at]
        at = at - 1 if at else counts.shape[0] - 1
    return count, amounts


@intrinsic
def fetch(_: Any, states: Any, row: Any) -> Any:
    """Ask for a record's cache lines ahead of time: fetched one by one they would be half the cost of folding."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(), *[ir.IntType(32)] * 3])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [ir.PointerType()], kind)
        read, keep, data = (ir.Constant(ir.IntType(32), value) for value in (0, 3, 1))
        start = builder.mul(arguments[1], ir.Constant(ir.IntType(64), STATE_BYTES))
        for line in range(0, HOT_BYTES, CACHE_LINE):
            at = builder.add(start, ir.Constant(ir.IntType(64), line))
            address = builder.gep(array.data, [at], source_etype=ir.IntType(8))
            builder.call(prefetch, [address, read, keep, data])
        return context.get_dummy_value()

    return types.none(states, row), generate
