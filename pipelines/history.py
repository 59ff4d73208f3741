"""Import of a labelled history: any Parquet or CSV file to `$VIGIL_HOME/data/NAME/history.parquet`.

Every row is written as a message and read by the parser of the stream, so a history holds exactly what
the stream would have accepted; what it would not is dropped and counted under the parser's code.
Labels: `is_fraud` is true for a payment somebody reported as fraud, and `label_time` says when the report
came; false, without a time, for a payment nobody reported; null where nothing is known.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from feature_repo.codes import Code
from feature_repo.errors import BadConfiguration, DataInvalid
from feature_repo.parser import ParseOptions, parse
from feature_repo.settings import Settings
from feature_repo.transaction import HISTORY_SCHEMA
from pipelines import columns as columns_of
from pipelines.columns import Plan
from pipelines.messages import encode
from pipelines.parquet_file import ROW_GROUP, written
from pipelines.simulator.folder import MANIFEST, TRUTH

BATCH_ROWS = 65_536
DAY_US = 86_400_000_000
EXAMPLES = 5  # dropped rows told per code
# Beside the parser's codes: what only a file can get wrong.
ARRIVAL_TIME, LABEL, LABEL_TIME, DUPLICATE, CSV_ROW = (
    "ARRIVAL_TIME_FORMAT",
    "LABEL_FORMAT",
    "LABEL_TIME_FORMAT",
    "DUPLICATE",
    "CSV_ROW",
)
_US = pa.timestamp("us", tz="UTC")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
_STALE = (
    "export.json",
    "features.parquet",
    "states.parquet",
    "merchants.parquet",
    "validation.json",
    "validation.html",
    MANIFEST,
    TRUTH,
)

Progress = Callable[[int, int | None], None]  # rows read, rows in all where known


@dataclass
class Imported:
    """What an import did; written as import.json. `dropped` counts rows by code, `examples` says where."""

    name: str
    file: str
    rows_read: int = 0
    rows_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    filled: dict[str, str] = field(default_factory=dict)  # field -> what it was made of, where the file lacks it
    users: int = 0
    frauds_reported: int = 0
    labelled: int = 0
    median_label_delay_days: float | None = None
    first_event: str = ""
    last_event: str = ""
    simulated: bool = False
    history_sha256: str = ""
    imported_at: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"dropped": dict(sorted(self.dropped.items()))}

    def drop(self, code: str, detail: str, row: int) -> None:
        """Row counts from 1, without the header and rows no CSV reader could split."""
        self.dropped[code] += 1
        if self.dropped[code] <= EXAMPLES:
            self.examples.append({"code": code, "row": row, "detail": detail})


def data_folder(settings: Settings, name: str) -> Path:
    """The folder of a data set, existing or not. Raises BadConfiguration for a name that is no name."""
    if not _NAME.fullmatch(name):
        raise BadConfiguration(f"{name!r} is no name for a data set: letters, digits, _ - . and at most 64")
    return settings.home / "data" / name


def import_history(
    settings: Settings,
    file: Path,
    name: str,
    *,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
    timezone: str = "UTC",
    label_delay_days: float = 7.0,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Check, sort by arrival and write a history; an earlier data set of that name is replaced.

    `columns` maps fields to the file's columns (equal names need none), `constants` gives a field one value.
    A reported fraud without a `label_time` is taken to be known `label_delay_days` after it arrived.
    Raises BadConfiguration for a file or mapping that cannot be read, DataInvalid if no row is a payment.
    """
    folder = data_folder(settings, name)
    now = now or datetime.now(UTC)
    done = Imported(name, str(file), imported_at=now.isoformat(timespec="seconds"))
    present, rows_in_all, batches = _open(file, done)
    plan = Plan.of(present, columns or {}, constants or {}, timezone)
    done.columns, done.constants = dict(plan.columns), dict(plan.constants)
    options = ParseOptions(settings.currency, settings.pan_in_ids, settings.future_tolerance_s * 1_000_000)
    kept: list[pa.RecordBatch] = []
    rows: list[np.ndarray] = []  # of the file, from 1
    for batch in batches:
        payments, numbers = _checked(batch, plan, options, int(now.timestamp() * 1e6), done)
        kept.append(payments)
        rows.append(numbers)
        if progress:
            progress(done.rows_read, rows_in_all)
    history = _in_order(pa.Table.from_batches(kept, HISTORY_SCHEMA), np.concatenate([*rows, []]), done)
    if history.num_rows == 0:
        raise DataInvalid(name, [f"none of {done.rows_read} rows is a payment", *_reasons(done)])
    history = _with_label_times(history, plan, label_delay_days, done)
    _describe(history, done)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, history, file, done)
    return done


def _open(file: Path, done: Imported) -> tuple[list[str], int | None, Iterator[pa.RecordBatch]]:
    """Column names, rows if known, and the rows in batches. CSV columns are read as text."""
    if not file.is_file():
        raise BadConfiguration(f"{file} is no file")
    try:
        if file.name.endswith((".parquet", ".pq")):
            parquet = pq.ParquetFile(file)
            batches = parquet.iter_batches(batch_size=BATCH_ROWS)
            return parquet.schema_arrow.names, parquet.metadata.num_rows, _readable(file, batches)
        return _open_csv(file, done)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{file} cannot be read as Parquet or CSV: {error}") from error


def _open_csv(file: Path, done: Imported) -> tuple[list[str], None, Iterator[pa.RecordBatch]]:
    def broken(row: Any) -> str:
        detail = f"the row has {row.actual_columns} values, the header {row.expected_columns}"
        done.drop(CSV_ROW, detail, row.number - 1 if row.number else 0)
        return "skip"

    def rows() -> Iterator[pa.RecordBatch]:
        yield from _readable(file, reader)
        done.rows_read += done.dropped[CSV_ROW]

    names = csv.open_csv(file, parse_options=csv.ParseOptions(invalid_row_handler=lambda _: "skip")).schema.names
    reader = csv.open_csv(
        file,
        read_options=csv.ReadOptions(use_threads=False, block_size=1 << 23),
        parse_options=csv.ParseOptions(invalid_row_handler=broken),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )
    return names, None, rows()


def _readable(file: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches in pieces the parser takes, and a damaged file as one clear error."""
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadConfiguration(f"{file} is damaged: {error}") from error


def _checked(
    batch: pa.RecordBatch, plan: Plan, options: ParseOptions, now_us: int, done: Imported
) -> tuple[pa.RecordBatch, np.ndarray]:
    """HISTORY_SCHEMA of the rows that are payments, and their numbers; the others are dropped by name."""
    first = done.rows_read + 1
    done.rows_read += batch.num_rows
    arrival, bad_arrival = columns_of.times(batch, "arrival_time", plan)
    label_time, bad_label_time = columns_of.times(batch, "label_time", plan)
    is_fraud, bad_label = columns_of.is_fraud(batch, plan)
    clock = arrival.fill_null(pa.scalar(now_us).cast(_US)).cast(pa.int64()).to_numpy()
    parsed = parse(encode(columns_of.payment_columns(batch, plan)), clock, options)
    rejects = parsed.rejects
    for row, code, detail in zip(rejects.rows.tolist(), rejects.codes, rejects.details, strict=True):
        done.drop(code, detail, first + row)
    good = np.ones(len(parsed.rows), dtype=bool)
    for code, name, bad in (
        (ARRIVAL_TIME, "arrival_time", bad_arrival),
        (LABEL_TIME, "label_time", bad_label_time),
        (LABEL, "is_fraud", bad_label),
    ):
        for row in parsed.rows[good & bad[parsed.rows]].tolist():
            done.drop(code, f"{name} cannot be read", first + row)
        good &= ~bad[parsed.rows]
    payments = parsed.payments.filter(pa.array(good))
    rows = pa.array(parsed.rows[good])
    arrived = pc.coalesce(arrival.take(rows), payments["event_time"])
    kept = [*payments.columns, arrived, is_fraud.take(rows), label_time.take(rows)]
    return pa.RecordBatch.from_arrays(kept, schema=HISTORY_SCHEMA), first + parsed.rows[good]


def _in_order(table: pa.Table, rows: np.ndarray, done: Imported) -> pa.Table:
    """By arrival, ties in the file's order; of equal transaction ids only the first."""
    table = table.combine_chunks()
    order = np.argsort(table["arrival_time"].cast(pa.int64()).to_numpy(), kind="stable")
    table = table.take(pa.array(order))
    ids = table["transaction_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first, of = np.unique(ids, return_index=True, return_inverse=True)
    if len(first) == len(ids):
        return table
    again = np.flatnonzero(first[of] != np.arange(len(ids)))
    same = _same_payment(table.take(pa.array(again)), table.take(pa.array(first[of[again]])))
    for row, is_same in zip(rows[order[again]].tolist(), same.tolist(), strict=True):
        code = DUPLICATE if is_same else Code.ID_CONFLICT.value
        done.drop(code, "the transaction id was used before", int(row))
    return table.take(pa.array(np.sort(first)))


def _same_payment(left: pa.Table, right: pa.Table) -> np.ndarray:
    same = np.ones(left.num_rows, dtype=bool)
    for name in ("user_id", "amount", "event_time", "merchant", "location", "payment_method"):
        same &= np.asarray(pc.equal(left[name], right[name]).to_numpy(), dtype=bool)
    return same


def _with_label_times(table: pa.Table, plan: Plan, delay_days: float, done: Imported) -> pa.Table:
    """Frauds without a time of their report get one; what was filled is said."""
    if "arrival_time" not in plan.columns:
        done.filled["arrival_time"] = "event_time"
    missing = pc.and_(table["is_fraud"].fill_null(False), table["label_time"].is_null())
    count = pc.sum(missing).as_py() or 0
    if not count:
        return table
    done.filled["label_time"] = f"arrival_time + {delay_days:g} days for {count} reported frauds"
    later = pa.array(table["arrival_time"].cast(pa.int64()).to_numpy() + int(delay_days * DAY_US)).cast(_US)
    filled = pc.if_else(missing, pa.chunked_array([later]), table["label_time"])
    return table.set_column(table.schema.get_field_index("label_time"), HISTORY_SCHEMA.field("label_time"), filled)


def _describe(table: pa.Table, done: Imported) -> None:
    fraud = table.filter(table["is_fraud"].fill_null(False))
    done.rows_kept = table.num_rows
    done.users = pc.count_distinct(table["user_id"]).as_py()
    done.labelled = table.num_rows - table["is_fraud"].null_count
    done.frauds_reported = fraud.num_rows
    delay = pc.subtract(fraud["label_time"].cast(pa.int64()), fraud["event_time"].cast(pa.int64())).drop_null()
    if len(delay):
        done.median_label_delay_days = round(float(np.median(delay.to_numpy())) / DAY_US, 3)
    ends = pc.min_max(table["event_time"]).as_py()
    done.first_event, done.last_event = ends["min"].isoformat(), ends["max"].isoformat()


def _write(folder: Path, table: pa.Table, file: Path, done: Imported) -> None:
    """The history first and import.json last: a folder with import.json is whole. Derived files go."""
    for stale in ("import.json", *_STALE):
        if not file.parent.samefile(folder) or stale not in (MANIFEST, TRUTH):
            (folder / stale).unlink(missing_ok=True)
    with written(folder / "history.parquet", table.schema) as rows:
        for batch in table.to_batches(max_chunksize=ROW_GROUP):
            rows.add(batch)
    beside = file.parent / MANIFEST
    done.simulated = file.name == "history.parquet" and beside.exists() and (file.parent / TRUTH).exists()
    if done.simulated and not file.parent.samefile(folder):
        shutil.copyfile(beside, folder / MANIFEST)
        shutil.copyfile(file.parent / TRUTH, folder / TRUTH)
    with (folder / "history.parquet").open("rb") as content:
        done.history_sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    (folder / "import.json").write_text(json.dumps(done.as_json(), indent=2) + "\n")


def _reasons(done: Imported) -> list[str]:
    return [f"{count} rows {code}" for code, count in done.dropped.most_common()]
