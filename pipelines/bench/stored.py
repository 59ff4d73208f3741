"""Decisions by the million, written as the stream writes them: for measuring what reads them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from io import BytesIO

import numpy as np
import numpy.typing as npt
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import WIDTH
from feature_repo.settings import Settings
from feature_repo.transaction import SCHEMA
from serving.wire import MAX_REASONS, NO_REASON
from streaming.decisions import NOT_UNSCORED, SCORED, Decisions
from streaming.rows import DECISION_COLUMNS, decision_copy

TOPIC = "bench"
DAYS = 30
PER_USER = 200  # payments of a user in these days
BATCH = 50_000
FLAGGED = 0.005
BYTES_PER_ROW = 550  # with its part of the indexes
WRITE_AHEAD_BYTES = 5 << 30  # what PostgreSQL may hold of its log, and some air

KINDS = ("Coffee", "Books", "Grocery", "Pharmacy", "Fuel", "Toys", "Garden", "Music", "Bakery", "Travel")
NAMES = ("Corner", "Online", "Family", "Harbour", "Northern", "Royal", "City", "Green", "Golden", "Old")
PLACES = ("New York", "Boston", "Chicago", "Dallas", "New Haven", "San José", "Portland", "Austin", "Denver", "Miami")
METHODS = ("credit_card", "debit_card", "wallet", "bank_transfer")
MERCHANTS = tuple(f"{name} {kind} {number}" for name in NAMES for kind in KINDS for number in range(1, 21))


def users(rows: int) -> int:
    return max(1, rows // PER_USER)


def user(number: int) -> str:
    return f"bench_{number:07d}"


def fill(settings: Settings, first: int, until: int, rows: int, say: Callable[[int], None]) -> None:
    """Write payments first..until of `rows`, which are spread over the last DAYS and all users."""
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    with closing(psycopg2.connect(settings.postgres_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT ensure_decision_partitions(%s, %s)", (start.date(), DAYS + 3))
        connection.commit()
        for decisions in _batches(start, first, until, rows):
            columns = ", ".join(DECISION_COLUMNS)
            cursor.copy_expert(
                f"COPY decisions ({columns}) FROM STDIN (FORMAT binary)", BytesIO(decision_copy(decisions)), 1 << 18
            )
            connection.commit()
            say(int(decisions.offsets[-1]) + 1)


def settle(settings: Settings) -> None:
    """What autovacuum does within minutes."""
    with closing(psycopg2.connect(settings.postgres_migrator_dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("VACUUM (ANALYZE, FREEZE) decisions")


def _batches(start: datetime, first: int, until: int, rows: int) -> Iterator[Decisions]:
    random = np.random.default_rng(first)
    began, step = int(start.timestamp() * 1e6), DAYS * 86_400e6 / rows
    for at in range(first, until, BATCH):
        numbers = np.arange(at, min(at + BATCH, until))
        yield _decided(random, numbers, began + (numbers * step).astype(np.int64), users(rows))


def _decided(
    random: np.random.Generator, numbers: npt.NDArray[np.int64], times: npt.NDArray[np.int64], people: int
) -> Decisions:
    n = len(numbers)
    flagged = random.random(n) < FLAGGED
    reasons = np.full((n, MAX_REASONS), NO_REASON, np.uint8)
    reasons[:, 0], reasons[:, 1] = random.integers(0, 5, n), random.integers(5, 9, n)
    return Decisions(
        topic=TOPIC,
        partition=0,
        payments=_payments(random, numbers, times, people),
        offsets=numbers,
        ingested=times + 200_000,
        processed=int(times[-1]) + 1_000_000,
        outcome=np.full(n, SCORED, np.uint8),
        unscored=np.full(n, NOT_UNSCORED, np.uint8),
        scores=(np.where(flagged, 0.5, 0.0) + random.random(n) / 2).astype(np.float32),
        is_anomaly=flagged,
        decision=flagged.astype(np.uint8),
        reasons=reasons,
        shares=np.tile(np.array([0.5, 0.25, 0, 0], np.float32), (n, 1)),
        features=random.standard_normal((n, WIDTH), np.float32),
        late=np.zeros(n, np.bool_),
        model_version="1",
        feature_set_id="fs_of_the_bench",
        ruleset="v0",
        side_inputs=None,
        currency="USD",
        shadow=None,
    )


def _payments(
    random: np.random.Generator, numbers: npt.NDArray[np.int64], times: npt.NDArray[np.int64], people: int
) -> pa.RecordBatch:
    n = len(numbers)

    def one_of(words: tuple[str, ...]) -> pa.Array:
        return pa.array(words).take(pa.array(random.integers(0, len(words), n)))

    named = pc.utf8_lpad(pa.array(random.integers(0, people, n)).cast(pa.string()), 7, "0")
    columns = {
        "transaction_id": pc.binary_join_element_wise("bench", pa.array(numbers).cast(pa.string()), "_"),
        "user_id": pc.binary_join_element_wise("bench", named, "_"),
        "amount": pa.array(np.round(random.lognormal(3.5, 1.2, n) + 0.01, 2)),
        "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
        "merchant": one_of(MERCHANTS),
        "location": one_of(PLACES),
        "payment_method": one_of(METHODS),
    }
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(n, field.type)) for field in SCHEMA], schema=SCHEMA
    )
