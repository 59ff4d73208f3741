"""Prints the part of requirements.lock that some packages need, with its hashes.

An image then holds what its service imports and nothing else (the lock as a whole is several gigabytes),
and still only files whose hashes are in the lock. Needs nothing but Python: it runs before anything is
installed. The lock says of each package what asked for it ("via"); that is the graph walked here.

    python subset.py requirements.lock confluent-kafka elasticsearch > indexer.lock
"""

import itertools
import re
import sys
from collections.abc import Iterable
from pathlib import Path

_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==", re.MULTILINE)


def blocks(lock: str) -> dict[str, str]:
    """The lines of each package: its pin, hashes and the comment that says what asked for it."""
    starts = [match.start() for match in _PINNED.finditer(lock)] + [len(lock)]
    parts = [lock[start:end] for start, end in itertools.pairwise(starts)]
    return {part[: re.search(r"[=[]", part).start()]: part for part in parts}  # type: ignore[union-attr] # _PINNED


def subset(lock: str, wanted: Iterable[str]) -> str:
    """The blocks of `wanted` and of all they need. Raises KeyError for a package the lock does not have."""
    packages = blocks(lock)
    needs: dict[str, set[str]] = {name: set() for name in packages}
    for name, block in packages.items():
        comment = block[block.index("# via") + len("# via") :]
        for parent in re.findall(r"[a-z0-9][a-z0-9._-]*", comment):
            if parent in needs:
                needs[parent].add(name)
    chosen: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name not in chosen:
            chosen.add(name)
            pending += needs[name]
    return "".join(block for name, block in packages.items() if name in chosen)


if __name__ == "__main__":
    sys.stdout.write(subset(Path(sys.argv[1]).read_text(), sys.argv[2:]))
