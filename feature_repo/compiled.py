"""How compiled code is compiled, and what numba's disk cache does not notice by itself.

A compiled function is cached under the content of the one file that defines it and under what its closure
holds; a constant or function imported from another file could change and the old code would be used. So only
an `entry` is cached, what it calls (`part`, `inlined`) is compiled into it, and an entry that uses other files
is made by a factory whose argument, the stamp of those files, it names: that makes the stamp part of its
closure.

None of them counts references: they allocate nothing, their callers hold the arrays, and the atomic counters
took 60 % of a scan (measured with perf).
"""

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

from numba import njit

part: Any = njit(nogil=True, _nrt=False, error_model="numpy", forceinline=True)
# For sums and maxima of values that are never NaN, whose order may be changed.
orderless: Any = njit(forceinline=True, nogil=True, _nrt=False, error_model="numpy", fastmath={"nnan", "nsz"})
inlined: Any = njit(inline="always", _nrt=False)  # for what is called once with many arrays
entry: Any = njit(cache=True, nogil=True, _nrt=False, error_model="numpy")


def source_stamp(*modules: ModuleType) -> str:
    """Hash of the modules' source files and of this one."""
    digest = hashlib.sha256(Path(__file__).read_bytes())  # how they are compiled counts as well
    for module in modules:
        if module.__file__ is None:
            raise ValueError(f"{module.__name__} has no source file")
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()
