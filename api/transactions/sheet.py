"""Decisions as CSV, for people who open it in a spreadsheet."""

import csv
import io
import json
from typing import Any

from api.transactions.render import COLUMNS

NAMES = [name for name, _, _ in COLUMNS]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is run, not shown (OWASP, CSV injection)
HEAD = (",".join(NAMES) + "\r\n").encode()


def rows(lines: bytes) -> bytes:
    """JSON objects, a line each, as rows of NAMES."""
    out = io.StringIO()
    writer = csv.writer(out)
    for line in lines.splitlines():
        values: dict[str, Any] = json.loads(line, parse_float=str)  # numbers as they are written, not computed anew
        writer.writerow([cell(name, values[name]) for name in NAMES])
    return out.getvalue().encode()


def cell(name: str, value: Any) -> Any:
    """Null is empty, reasons stand side by side, and no text is a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(value)
    if isinstance(value, str) and name not in ("amount", "anomaly_score") and value.startswith(FORMULA):
        return "'" + value
    return value
