"""The gate before training: is a data set what the contract says, and is there enough of it?

`validate` runs the expectations and writes validation.json and a page without anything from elsewhere;
`require_valid` is what a command calls that must not go on with a broken history.
"""

import html
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.errors import BadConfiguration, DataInvalid
from feature_repo.hashing import hash_texts
from feature_repo.settings import Settings
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines import profile as profile_of
from pipelines.history import data_folder
from pipelines.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.expectations import Check

ROWS_AT_MOST = 500_000  # looked at one by one; the totals are of all
BATCH_ROWS = 131_072
_BEFORE_ALL = -(2**62)  # microseconds since 1970; half of int64, so that differences fit


@dataclass(frozen=True)
class Finding:
    """One check's outcome. `observed` is a count or a total, never a value of the data."""

    name: str
    says: str
    passed: bool
    observed: str


@dataclass(frozen=True)
class Report:
    """`failures` are sentences that begin with the check's name; `path` is the page."""

    name: str
    passed: bool
    failures: list[str]
    path: Path
    findings: list[Finding]
    rows: int
    rows_looked_at: int
    checked_at: str
    against: str | None  # what its distributions were compared with

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path)}


def validate(
    settings: Settings, name: str, *, against: str | None = None, compare: bool = True, now: datetime | None = None
) -> Report:
    """Run every check of a data set and write validation.json and validation.html beside it.

    Distributions are compared with the data set `against`, else with what was imported under this name before;
    not at all where `compare` is false. Raises BadConfiguration where there is no such data set or its columns
    are not a history's.
    """
    from pipelines import expectations  # Great Expectations takes seconds to import

    now = now or datetime.now(UTC)
    folder = data_folder(settings, name)
    path = _history(folder, name)
    imported = _imported(folder)
    earlier = _earlier(settings, imported, against) if compare else None
    figures, profile = totals(path, settings.currency, imported)
    shifts = profile_of.shifts(profile, earlier["profile"]) if earlier else {}
    rows = _rows(path)
    checks = [
        *expectations.of_rows(now, simulated=bool(imported.get("simulated"))),
        *expectations.of_totals(imported=bool(imported), labelled=figures["labelled"] > 0),
        *expectations.of_shifts(shifts),
    ]
    figures |= shifts
    findings = [*_run(rows, checks, "rows"), *_run(_one_row(figures), checks, "totals")]
    failures = [f"{finding.name}: {finding.says}, but {finding.observed}" for finding in findings if not finding.passed]
    report = Report(
        name=name,
        passed=not failures,
        failures=failures,
        path=folder / "validation.html",
        findings=findings,
        rows=int(figures["rows"]),
        rows_looked_at=len(rows),
        checked_at=now.isoformat(timespec="seconds"),
        against=earlier["called"] if earlier else None,
    )
    document = report.as_json() | {"history": _fingerprint(path), "totals": figures}
    report.path.write_text(_page(report), encoding="utf-8")
    (folder / "validation.json").write_text(json.dumps(document, indent=2) + "\n")
    return report


def _earlier(settings: Settings, imported: dict[str, Any], against: str | None) -> dict[str, Any] | None:
    """Profile to compare with, and what to call it. Raises BadConfiguration where `against` was not imported."""
    if against is None:
        before = imported.get("previous")
        return before and {"called": f"the import of {before['imported_at']}", "profile": before["profile"]}
    other = _imported(data_folder(settings, against))
    if not other.get("profile"):
        raise BadConfiguration(f"there is no imported data set {against}", remedy=f"vigil import FILE --name {against}")
    return {"called": f"data set {against}", "profile": other["profile"]}


def require_valid(settings: Settings, name: str) -> None:
    """Pass if the history's last report passed and the history is still the same; else validate now.

    Raises DataInvalid naming each failing check.
    """
    folder = data_folder(settings, name)
    path = _history(folder, name)
    report = folder / "validation.json"
    if report.exists():
        last = json.loads(report.read_text())
        if last["passed"] and last["history"] == _fingerprint(path):
            return
    found = validate(settings, name)
    if not found.passed:
        raise DataInvalid(name, found.failures)


def totals(path: Path, currency: str, imported: dict[str, Any]) -> tuple[dict[str, float], Profile]:
    """Exact figures of a whole history, one pass, by name; and what it looks like."""
    file = pq.ParquetFile(path)
    profile = Profile()
    out_of_order = untimed = foreign = 0
    newest = _BEFORE_ALL
    ids: list[np.ndarray] = []
    seen: dict[str, set[Any]] = {"user_id": set(), "merchant": set(), "payment_method": set()}
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        profile.add(batch)
        arrival = batch["arrival_time"].cast(pa.int64()).drop_null().to_numpy()
        arrival = np.concatenate([[newest], arrival])
        out_of_order += int((np.diff(arrival) < 0).sum())
        newest = int(arrival[-1])
        ids.append(hash_texts(batch["transaction_id"], "transaction_id"))
        for column, values in seen.items():
            values.update(pc.unique(batch[column]).to_pylist())
        fraud = batch["is_fraud"].fill_null(False)
        untimed += pc.sum(pc.and_(fraud, batch["label_time"].is_null())).as_py() or 0
        foreign += pc.sum(pc.not_equal(batch["currency"].fill_null(currency), currency)).as_py() or 0
    read, rows = imported.get("rows_read", 0), profile.rows
    figures = {
        "rows": rows,
        "repeated_ids": rows - len(np.unique(np.concatenate(ids))) if ids else 0,
        "out_of_order": out_of_order,
        "users": len(seen["user_id"]),
        "merchants": len(seen["merchant"]),
        "methods": len(seen["payment_method"]),
        "users_per_payment": len(seen["user_id"]) / max(rows, 1),
        "merchants_per_payment": len(seen["merchant"]) / max(rows, 1),
        "other_currency_share": foreign / max(rows, 1),
        "labelled": profile.labelled,
        "frauds_without_time": untimed,
        "fraud_share": profile.frauds / max(profile.labelled, 1),
        "dropped_share": sum(imported.get("dropped", {}).values()) / read if read else 0.0,
    }
    return figures, profile


def _history(folder: Path, name: str) -> Path:
    path = folder / "history.parquet"
    if not path.exists():
        raise BadConfiguration(f"there is no data set {name}", remedy=f"vigil import FILE --name {name}")
    try:
        columns = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadConfiguration(f"{path} cannot be read: {error}") from error
    for field in HISTORY_SCHEMA:
        if field.name not in columns.names or columns.field(field.name).type != field.type:
            raise BadConfiguration(f"{path} is no history: column {field.name} must be {field.type}")
    return path


def _imported(folder: Path) -> dict[str, Any]:
    path = folder / "import.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return document


def _fingerprint(path: Path) -> list[int]:
    """Size and time of change: enough to see that a history was replaced, without reading it."""
    return [path.stat().st_size, path.stat().st_mtime_ns]


def _rows(path: Path) -> "pd.DataFrame":
    """HISTORY_SCHEMA's columns and arrival_lag_s; every k-th payment of a large history."""
    file = pq.ParquetFile(path)
    step = -(-file.metadata.num_rows // ROWS_AT_MOST) or 1
    kept: list[pa.RecordBatch] = []
    offset = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        kept.append(batch.take(pa.array(np.arange(-offset % step, batch.num_rows, step))))
        offset += batch.num_rows
    table = pa.Table.from_batches(kept, file.schema_arrow)
    lag = pc.subtract(table["arrival_time"].cast(pa.int64()), table["event_time"].cast(pa.int64()))
    return table.append_column("arrival_lag_s", pc.divide(lag.cast(pa.float64()), 1e6)).to_pandas()


def _one_row(figures: dict[str, float]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame([figures])


def _run(frame: "pd.DataFrame", checks: "Iterable[Check]", table: str) -> list[Finding]:
    """Great Expectations on one frame; nothing leaves this process."""
    import great_expectations as gx

    chosen = [check for check in checks if check.table == table]
    context: Any = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False}
    definition = (
        context.data_sources.add_pandas(table).add_dataframe_asset(table).add_batch_definition_whole_dataframe(table)
    )
    for position, check in enumerate(chosen):
        check.expectation.meta = {"position": position}
    suite = gx.ExpectationSuite(name=table, expectations=[check.expectation for check in chosen])
    results: list[Any] = definition.get_batch({"dataframe": frame}).validate(suite, result_format="BASIC").results
    by_position = {result.expectation_config.meta["position"]: result for result in results}
    return [
        Finding(check.name, check.says, bool(by_position[position].success), _observed(by_position[position]))
        for position, check in enumerate(chosen)
    ]


def _observed(result: Any) -> str:
    """Counts only: what a payment holds does not belong in a report."""
    if result.exception_info.get("raised_exception"):
        return f"the check itself failed: {result.exception_info.get('exception_message')}"
    found = result.result
    if "unexpected_count" in found:
        return f"{found['unexpected_count']:,} of {found['element_count']:,} are not so"
    return f"it is {found['observed_value']:,.6g}"


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1c1c1c}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #ddd}
.no{color:#b00020;font-weight:600}.yes{color:#1b6e3c}code{font-size:.92em}"""


def _page(report: Report) -> str:
    failed = len(report.failures)
    verdict = "fit for training" if report.passed else f"not fit for training: {failed} failing"
    against = f" Distributions compared with {report.against}." if report.against else ""
    rows = "\n".join(
        f"<tr><td class={'yes' if finding.passed else 'no'}>{'passed' if finding.passed else 'failed'}</td>"
        f"<td><code>{html.escape(finding.name)}</code></td><td>{html.escape(finding.says)}</td>"
        f"<td>{html.escape(finding.observed)}</td></tr>"
        for finding in sorted(report.findings, key=lambda finding: finding.passed)
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Validation of {html.escape(report.name)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(report.name)}</h1>"
        f"<p class={'yes' if report.passed else 'no'}>{verdict}</p>"
        f"<p>{report.rows:,} payments, {report.rows_looked_at:,} looked at one by one, "
        f"{html.escape(report.checked_at)}.{html.escape(against)}</p><table><tr><th>outcome<th>check<th>expected<th>observed</tr>\n{rows}\n</table></html>\n"
    )
