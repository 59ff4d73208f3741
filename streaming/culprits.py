"""Which rows of many a store refuses, found by halving."""

from collections.abc import Callable


def culprits(count: int, refuses: Callable[[slice], bool], most: int) -> list[int]:
    """Positions among `count` rows that are refused even alone, in order; the search ends at `most` of them.

    `refuses` says whether any row of a slice is refused. One culprit costs about 2 log2(count) questions.
    """
    found: list[int] = []
    pending = [slice(0, count)] if count else []
    while pending and len(found) < most:
        rows = pending.pop()
        if not refuses(rows):
            continue
        if rows.stop - rows.start == 1:
            found.append(rows.start)
            continue
        middle = (rows.start + rows.stop) // 2
        pending += [slice(middle, rows.stop), slice(rows.start, middle)]
    return found
