"""Any numeric table (numpy, pandas, polars, Arrow) as the matrix a detector reads."""

from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.errors import BadConfiguration


def numbers(table: Any) -> npt.NDArray[np.float32]:
    """[n, width] float32, every value finite; what is that already is not copied.

    Raises BadConfiguration naming the first column that holds something else.
    """
    if isinstance(table, np.ndarray) and table.dtype == np.float32 and table.ndim == 2:
        matrix = np.ascontiguousarray(table)
    else:
        matrix = _converted(table)
    finite = np.isfinite(matrix)
    if not finite.all():
        column = int(np.flatnonzero(~finite.all(axis=0))[0])
        count = int((~finite[:, column]).sum())
        raise BadConfiguration(
            f"{_name(table, column)} holds {count} values that are missing, infinite or beyond float32",
            remedy="fill them, or leave out their rows or the column",
        )
    return matrix


def _converted(table: Any) -> npt.NDArray[np.float32]:
    try:
        matrix = np.ascontiguousarray(table, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadConfiguration(f"the table holds something that is no number: {error}") from error
    if matrix.ndim != 2:
        raise BadConfiguration(f"a table has rows and columns, this has shape {matrix.shape}")
    return matrix


def _name(table: Any, column: int) -> str:
    """How the table itself calls a column, else its position."""
    names = getattr(table, "column_names", None) or getattr(table, "columns", None)
    return f"column {names[column]!r}" if names is not None and len(names) else f"column {column}"
