"""The feature catalogue as a page for people: docs/features.md, made of the declarations and nothing else."""

from collections.abc import Iterator

from feature_repo.features import (
    CATALOGUE,
    MIN_HISTORY_FOR_REASONS,
    NAMES,
    REASONS,
    RING_SIZE,
    SHRINK_K,
    USER_RELATIVE,
    WINDOWS,
    Reason,
    feature_set_id,
)

COMMAND = "vigil features --markdown > docs/features.md"

INTRODUCTION = f"""# Features

<!-- Made by `{COMMAND}`; change feature_repo/features.py instead. -->

The {len(CATALOGUE)} numbers that are known of every payment when it is scored, feature set `{feature_set_id(NAMES)}`.
One kernel computes them for the stream, for `/detect` and for training; a model chooses its columns by name. A
feature uses what arrived before the payment and nothing else: windows end at `now`, the later of the payment's event
time and the newest the user's state has seen. `vigil features --user USER` shows what is known of a user now, and
`vigil features --transaction ID` the features that a decision was made from.

*Shrunk* means times n / (n + {SHRINK_K:g}), n being the payments that a number rests on: little history is little
evidence. Logarithms are natural. `#` is the column in the kernel's output and in `decisions.features`.

## Windows

| window | what it holds |
|---|---|
"""

BEYOND = f"""
Only `ring` loses payments: of a user with more than {RING_SIZE} in the window it holds exactly the last {RING_SIZE}.
All other windows are exact however many payments there are. Whom, where, how and with what a user has paid is kept
in Bloom filters ("nearly exact"): they never take a known one for new, and take a new merchant for a known one with a
chance of 1 % once there are 100.

## Features by reason

A reason's share in a decision is the sum of its features' shares.
"""


def markdown() -> str:
    """The whole page."""
    windows = "".join(f"| `{kind}` | {meaning} |\n" for kind, meaning in WINDOWS.items())
    return INTRODUCTION + windows + BEYOND + "".join(line for reason in REASONS for line in _section(reason))


def _section(reason: Reason) -> Iterator[str]:
    yield f"\n### {reason}\n\n"
    if reason in USER_RELATIVE:
        yield f"Never said of a user with fewer than {MIN_HISTORY_FOR_REASONS} payments.\n\n"
    yield f"| # | feature | type | window | over {RING_SIZE} payments | meaning |\n|---|---|---|---|---|---|\n"
    for position, f in enumerate(CATALOGUE):
        if f.reason is reason:
            yield f"| {position} | `{f.name}` | {f.dtype} | {f.window} | {f.beyond_ring} | {f.meaning} |\n"
