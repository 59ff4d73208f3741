"""Eight bytes of an array at a time, for compiled code on little-endian machines.

Tests on all eight bytes follow Hacker's Delight (Warren, 6-1): (x - ONES) & ~x & HIGH has the high bit set in the
lowest byte that is zero, and in none where no byte is. Bytes above the lowest may be wrong.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic

from feature_repo.compiled import part

U8 = npt.NDArray[Any]  # of uint8; Any, as numba reckons with its elements as int64
ONES = np.uint64(0x0101010101010101)
HIGH = np.uint64(0x8080808080808080)


@intrinsic
def load8(typing_context: Any, data: Any, index: Any) -> Any:
    """load8(data, index): eight bytes as uint64, the first one lowest. The caller sees to the array's end."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        address = builder.gep(array.data, [args[1]], source_etype=ir.IntType(8))
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return numba.uint64(data, numba.int64), code


@intrinsic
def store8(typing_context: Any, data: Any, index: Any, word: Any) -> Any:
    """store8(data, index, word): the other way round."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        address = builder.gep(array.data, [args[1]], source_etype=ir.IntType(8))
        builder.store(args[2], builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return numba.void(data, numba.int64, numba.uint64), code


@intrinsic
def low_byte(typing_context: Any, mask: Any) -> Any:
    """low_byte(mask): number of the lowest byte that is not zero, 8 if none is."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zeros = builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))
        return builder.lshr(zeros, ir.Constant(ir.IntType(64), 3))

    return numba.int64(numba.uint64), code


@part
def word_at(data: U8, i: int) -> Any:
    """Eight bytes from `i` on; zeros behind the array's end."""
    if i + 8 <= data.shape[0]:
        return load8(data, i)
    word = np.uint64(0)
    for k in range(data.shape[0] - i):
        word |= np.uint64(data[i + k]) << np.uint64(8 * k)
    return word


@part
def is_utf8(data: U8, i: int, stop: int) -> bool:
    """Well-formed (Unicode, table 3-7): no overlong form, no surrogate, nothing above U+10FFFF."""
    while i < stop:
        while i + 8 <= stop and load8(data, i) & HIGH == 0:
            i += 8
        if i == stop:
            break
        lead = data[i]
        if lead < 0x80:
            i += 1
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= lead <= 0xDF:
            more = 1
        elif 0xE0 <= lead <= 0xEF:
            more = 2
            low = 0xA0 if lead == 0xE0 else 0x80
            high = 0x9F if lead == 0xED else 0xBF
        elif 0xF0 <= lead <= 0xF4:
            more = 3
            low = 0x90 if lead == 0xF0 else 0x80
            high = 0x8F if lead == 0xF4 else 0xBF
        else:
            return False
        if i + more >= stop or data[i + 1] < low or data[i + 1] > high:
            return False
        for k in range(2, more + 1):
            if data[i + k] & 0xC0 != 0x80:
                return False
        i += more + 1
    return True
