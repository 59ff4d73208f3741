"""Import of a labelled history: any Parquet or CSV file to `$VIGIL_HOME/data/NAME/history.parquet`.

Every row is written as a message and read by the parser of the stream, so a history holds exactly what
the stream would have accepted; what it would not is dropped and counted under the parser's code. Rows are
never held at once: they go to sorted runs on disk and from there, in order of arrival, to the history.
Labels: `is_fraud` is true for a payment somebody reported as fraud, and `label_time` says when the report
came; false, without a time, for a payment nobody reported; null where nothing is known.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.codes import Code
from feature_repo.errors import BadConfiguration, DataInvalid
from feature_repo.hashing import events_of
from feature_repo.parser import ParseOptions, parse
from feature_repo.settings import Settings
from feature_repo.slots import Slots
from feature_repo.snapshot import no_snapshot
from feature_repo.transaction import HISTORY_SCHEMA, SCHEMA
from pipelines import columns as columns_of
from pipelines.arrival_order import RUN_ROWS, ArrivalOrder, Repeated
from pipelines.columns import LABELS, Plan
from pipelines.label_file import LabelFile
from pipelines.messages import encode
from pipelines.parquet_file import written
from pipelines.profile import Profile
from pipelines.simulator.folder import MANIFEST, PAGE, TRUTH
from pipelines.table_file import TableFile

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
_HISTORY = "history.parquet"
_STALE = (
    "import.json",
    "export.json",
    "features.parquet",
    "states.parquet",
    "merchants.parquet",
    "labels.parquet",
    "validation.json",
    "validation.html",
    PAGE,
    MANIFEST,
    TRUTH,
)
# While rows are being sorted they carry where they stood in the file and what tells a repeat from a conflict.
_SORTED = (
    HISTORY_SCHEMA.append(pa.field("row", pa.int64()))
    .append(pa.field("id", pa.uint64()))
    .append(pa.field("payload", pa.uint64()))
)

Progress = Callable[[str, int, int | None], None]  # what is done, rows done, rows in all (of a CSV about)


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
    labels: dict[str, Any] = field(default_factory=dict)  # of a file of their own: how many met a payment
    users: int = 0
    frauds_reported: int = 0
    labelled: int = 0
    median_label_delay_days: float | None = None
    first_event: str = ""
    last_event: str = ""
    simulated: bool = False
    history_sha256: str = ""
    imported_at: str = ""
    profile: dict[str, Any] = field(default_factory=dict)
    previous: dict[str, Any] | None = None  # profile of what had this name before

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
    labels: Path | None = None,
    timezone: str = "UTC",
    time_format: str | None = None,
    label_delay_days: float = 7.0,
    delimiter: str = ",",
    encoding: str = "utf8",
    now: datetime | None = None,
    progress: Progress = lambda _what, _done, _of: None,
) -> Imported:
    """Check, sort by arrival and write a history; an earlier data set of that name is replaced, or left alone
    where this raises.

    `columns` maps fields to the file's columns (equal names need none), `constants` gives a field one value;
    `labels` is a file of labels by transaction id. A reported fraud without a `label_time` is taken to be known
    `label_delay_days` after it arrived.
    Raises BadConfiguration for a file or mapping that cannot be read, DataInvalid if no row is a payment.
    """
    folder = data_folder(settings, name)
    now = now or datetime.now(UTC)
    table = TableFile(file, delimiter, encoding)
    columns = dict(columns or {})
    of_payments = [name for name in columns if not (labels and name in LABELS)]
    plan = Plan.of(table.names, {name: columns[name] for name in of_payments}, constants or {}, timezone, time_format)
    plan = plan.without(LABELS) if labels else plan
    done = Imported(name, str(file), imported_at=now.isoformat(timespec="seconds"))
    done.columns, done.constants = dict(plan.columns), dict(plan.constants)
    known = _labels(labels, plan, columns, delimiter, encoding) if labels else None
    options = ParseOptions.of(settings)
    try:
        with ArrivalOrder(folder.parent / f".{name}.importing", _SORTED, RUN_ROWS) as order:
            _into(order, table, plan, known, options, int(now.timestamp() * 1e6), done, progress)
            _write_sorted(order, label_delay_days, done, progress)
            done.labels = known.as_json() if known else {}
            _replace(folder, order.folder / _HISTORY, file, done)
    except OSError as error:  # what cannot be read is a BadConfiguration by now
        raise BadConfiguration(f"{folder} cannot be written: {error}") from error
    return done


def _into(
    order: ArrivalOrder, table: TableFile, plan: Plan, labels: LabelFile | None, options: ParseOptions, now_us: int,
    done: Imported, progress: Progress,
) -> None:  # fmt: skip
    """All payments of the file. Raises DataInvalid where there is none."""
    for batch in table.batches(lambda row, why: done.drop(CSV_ROW, why, row)):
        columns_of.check_types(batch.schema, plan)
        try:
            order.add(_checked(batch, plan, labels, options, now_us, done))
        except pa.ArrowInvalid as error:  # such as bytes that are no text
            raise BadConfiguration(f"{table.path}, rows up to {done.rows_read}: {error}") from error
        progress("reading", done.rows_read, table.rows_in_all(done.rows_read))
    done.rows_read += done.dropped[CSV_ROW]
    if done.dropped.total() == done.rows_read:
        raise DataInvalid(done.name, [f"none of {done.rows_read} rows is a payment", *_reasons(done)])


def _labels(path: Path, plan: Plan, columns: Mapping[str, str], delimiter: str, encoding: str) -> LabelFile:
    file = TableFile(path, delimiter, encoding)
    return LabelFile.read(file, {"transaction_id": plan.columns.get("transaction_id", ""), **columns}, plan)


def _checked(
    batch: pa.RecordBatch, plan: Plan, labels: LabelFile | None, options: ParseOptions, now_us: int, done: Imported
) -> pa.RecordBatch:
    """_SORTED of the rows that are payments; the others are dropped by name."""
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
    fraud, reported = is_fraud.take(rows), label_time.take(rows)
    if labels:
        fraud, reported = labels.look_up(payments["transaction_id"])
    events = events_of(payments, no_snapshot)
    extra = [pa.array(first + parsed.rows[good]), pa.array(events.id), pa.array(events.payload)]
    return pa.RecordBatch.from_arrays([*payments.columns, arrived, fraud, reported, *extra], schema=_SORTED)


def _write_sorted(order: ArrivalOrder, delay_days: float, done: Imported, progress: Progress) -> None:
    """history.parquet in the runs' folder, and in `done` what it holds."""
    profile, repeated, users, delays = Profile(), Repeated(order.ids()), Slots(), [np.empty(0, np.int64)]
    filled = 0
    with written(order.folder / _HISTORY, HISTORY_SCHEMA) as history:
        for table in order.merged():
            rows, again = repeated.first(table)
            for row, is_same in again:
                done.drop(DUPLICATE if is_same else Code.ID_CONFLICT.value, "the transaction id was used before", row)
            rows, without = _with_label_times(rows.select(HISTORY_SCHEMA.names), delay_days)
            filled += without
            for batch in rows.combine_chunks().to_batches():
                history.add(batch)
                profile.add(batch)
                users.place(events_of(batch.select(SCHEMA.names), no_snapshot).user)
                delays.append(_delays(batch))
            progress("writing in order of arrival", history.count, done.rows_read)
    reported = np.concatenate(delays)
    done.rows_kept, done.users, done.profile = history.count, len(users), profile.as_json()
    done.labelled, done.frauds_reported = profile.labelled, profile.frauds
    if len(reported):
        done.median_label_delay_days = round(float(np.median(reported)) / DAY_US, 3)
    done.first_event, done.last_event = _time(profile.first), _time(profile.last)
    if "arrival_time" not in done.columns:
        done.filled["arrival_time"] = "event_time"
    if filled:
        done.filled["label_time"] = f"arrival_time + {delay_days:g} days for {filled} reported frauds"


def _with_label_times(rows: pa.Table, delay_days: float) -> tuple[pa.Table, int]:
    """Frauds without a time of their report get one; also how many."""
    missing = pc.and_(rows["is_fraud"].fill_null(False), rows["label_time"].is_null())
    count = pc.sum(missing).as_py() or 0
    if not count:
        return rows, 0
    later = pc.add(rows["arrival_time"].cast(pa.int64()), int(delay_days * DAY_US)).cast(_US)
    filled = pc.if_else(missing, later, rows["label_time"])
    at = rows.schema.get_field_index("label_time")
    return rows.set_column(at, HISTORY_SCHEMA.field("label_time"), filled), count


def _delays(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """From event to report of the reported frauds, microseconds."""
    fraud = batch.filter(pc.and_(batch["is_fraud"].fill_null(False), batch["label_time"].is_valid()))
    label, event = (fraud[name].cast(pa.int64()).to_numpy() for name in ("label_time", "event_time"))
    return np.asarray(label - event)


def _time(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()


def _replace(folder: Path, history: Path, file: Path, done: Imported) -> None:
    """Puts a data set in the place of another: import.json comes last, a folder with it is whole. Derived files go."""
    done.previous = _previous(folder)
    folder.mkdir(parents=True, exist_ok=True)
    in_place = file.parent.samefile(folder)  # a simulation written into the folder of its own data set
    beside = file.parent / MANIFEST
    done.simulated = file.name == _HISTORY and beside.exists() and (file.parent / TRUTH).exists()
    for stale in _STALE:
        if not in_place or stale not in (MANIFEST, TRUTH):
            (folder / stale).unlink(missing_ok=True)
    history.replace(folder / _HISTORY)
    if done.simulated and not in_place:
        shutil.copyfile(beside, folder / MANIFEST)
        shutil.copyfile(file.parent / TRUTH, folder / TRUTH)
    with (folder / _HISTORY).open("rb") as content:
        done.history_sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    (folder / "import.json").write_text(json.dumps(done.as_json(), indent=2) + "\n")


def _previous(folder: Path) -> dict[str, Any] | None:
    """What the data set of that name looked like before: the last import that no validation refused."""
    path, report = folder / "import.json", folder / "validation.json"
    if not path.exists():
        return None
    last = json.loads(path.read_text())
    refused = report.exists() and not json.loads(report.read_text())["passed"]
    if refused or not last.get("profile"):
        before: dict[str, Any] | None = last.get("previous")
        return before
    return {"imported_at": last["imported_at"], "file": last["file"], "profile": last["profile"]}


def _reasons(done: Imported) -> list[str]:
    first = {example["code"]: example for example in reversed(done.examples)}
    return [
        f"{count} rows {code} (row {first[code]['row']}: {first[code]['detail']})"
        for code, count in done.dropped.most_common()
    ]
