"""Randomness that is addressed, not consumed: the same seed, purpose and numbers give the same draw.

Days are generated one at a time and a live stream continues a history, so each day has its own
generator, and what belongs to a user for good (his holiday, his phone's age) is hashed, not drawn.
"""

from enum import IntEnum
from typing import Any

import numpy as np

_MASK_40 = (1 << 40) - 1
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


class Purpose(IntEnum):
    """What a generator is for; part of its seed, so adding a draw in one place moves no other place."""

    MERCHANTS = 1
    PEOPLE = 2
    GENUINE = 3
    FRAUD = 4
    ARRIVAL = 5
    LABELS = 6


def generator(seed: int, purpose: Purpose, day: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(purpose), day])))


def hashed(seed: int, *parts: np.ndarray | int) -> np.ndarray:
    """uint64[n], splitmix64 over the seed and the parts; wraps on purpose."""
    with np.errstate(over="ignore"):
        state: Any = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        for part in parts:
            state = state + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


def uniform(seed: int, *parts: np.ndarray | int) -> np.ndarray:
    """float64[n] in [0, 1), the same for the same parts."""
    return (hashed(seed, *parts) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def scrambled(numbers: np.ndarray, seed: int) -> np.ndarray:
    """uint64[n] under 2**40: a bijection, so ids are unique and their order says nothing."""
    mask, odd = np.uint64(_MASK_40), np.uint64((0x9E3779B97F * (2 * seed + 1)) & _MASK_40 | 1)
    with np.errstate(over="ignore"):
        mixed = (numbers.astype(np.uint64) ^ hashed(seed, 1)) & mask
        for shift in (21, 17, 23):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * odd & mask
        return mixed ^ (mixed >> np.uint64(20))


def tagged_hex(tag: str, numbers: np.ndarray) -> np.ndarray:
    """uint8[n, len(tag) + 10]: ASCII of `tag` and ten hex digits, too few for a card number."""
    shifts = np.arange(36, -4, -4, dtype=np.uint64)
    digits = (numbers.astype(np.uint64)[:, None] >> shifts[None, :]) & np.uint64(15)
    text = np.empty((len(numbers), len(tag) + 10), dtype=np.uint8)
    text[:, : len(tag)] = np.frombuffer(tag.encode(), dtype=np.uint8)
    text[:, len(tag) :] = _HEX[digits.astype(np.intp)]
    return text
