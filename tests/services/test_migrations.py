"""The schema on a real server: from nothing, twice, by two at once, and what each role may do."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors, sql

from feature_repo.errors import BadConfiguration, StoreUnavailable
from feature_repo.settings import Settings
from infra.local.files import Files
from infra.sql import migrate
from pipelines import rebuild as daily_rebuild
from streaming import ledger, repair
from training.data import midnight

DECISION = {
    "id": 16,
    "kafka_topic": "transactions",
    "kafka_partition": 0,
    "kafka_offset": 1,
    "revision": 1,
    "transaction_id": "t1",
    "user_id": "u1",
    "amount": "12.5",
    "currency": "USD",
    "event_time": datetime(2026, 1, 1, tzinfo=UTC),
    "merchant": "m",
    "location": "l",
    "payment_method": "card",
    "outcome": "scored",
    "ruleset_version": "v0",
    "late": False,
    "ingested_at": datetime(2026, 1, 1, tzinfo=UTC),
    "processed_at": datetime(2026, 1, 1, tzinfo=UTC),
}
RANGE = (
    "INSERT INTO ledger_ranges (kafka_topic, kafka_partition, first_offset, until_offset, attempt, ruleset_version, "
    "feature_names, records, scored, unscored, duplicates, dead_letters, committed_at) "
    "VALUES ('t', 0, 0, 5, gen_random_uuid(), 'v0', '{}', 5, 5, 0, 0, 0, now())"
)


@contextmanager
def database_of_its_own(settings: Settings) -> Iterator[Settings]:
    """Settings of a new database with nothing in it; dropped at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    address = settings.postgres_dsn.rpartition("@")[2].partition("/")[0]
    superuser = f"postgresql://postgres:{Files(settings.home).secrets()['postgres']}@{address}/postgres"
    with closing(psycopg2.connect(superuser)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            create = sql.SQL("CREATE DATABASE {} OWNER vigil_migrator")
            cursor.execute(create.format(sql.Identifier(name)))
            dsns = ("postgres_dsn", "postgres_reader_dsn", "postgres_migrator_dsn")
            try:
                yield settings.model_copy(
                    update={dsn: getattr(settings, dsn).rsplit("/", 1)[0] + f"/{name}" for dsn in dsns}
                )
            finally:
                cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty(stack: Settings) -> Iterator[Settings]:
    with database_of_its_own(stack) as settings:
        yield settings


@pytest.fixture
def database(empty: Settings) -> Settings:
    """Migrated, for a test that writes."""
    migrate.upgrade(empty)
    return empty


@pytest.fixture(scope="module")
def shared(stack: Settings) -> Iterator[Settings]:
    """Migrated, for tests that change nothing."""
    with database_of_its_own(stack) as settings:
        migrate.upgrade(settings)
        yield settings


def run(dsn: str, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """One statement in a transaction of its own."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def insert(dsn: str, **changes: Any) -> None:
    row = DECISION | changes
    names, marks = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    run(dsn, f"INSERT INTO decisions ({names}) VALUES ({marks})", row)


def catalogue(settings: Settings) -> list[tuple[Any, ...]]:
    """Everything the migrations make: relations, columns, rights, functions."""
    return run(
        settings.postgres_migrator_dsn,
        """
        SELECT c.relname::text, c.relkind::text, a.attname::text, c.relacl::text || a.attacl::text
        FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'public'::regnamespace
        UNION ALL SELECT proname, 'f', NULL, proacl::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        ORDER BY 1, 3
        """,
    )


def where(settings: Settings) -> list[str]:
    """The partition of each decision."""
    rows = run(settings.postgres_reader_dsn, "SELECT tableoid::regclass::text FROM decisions ORDER BY id")
    return [row[0] for row in rows]


def test_the_schema_comes_up_from_nothing_and_a_second_time_changes_nothing(empty: Settings) -> None:
    revision = migrate.upgrade(empty)
    first = catalogue(empty)
    assert {"decisions", "dead_letters", "ledger", "audit", "parked_documents", "promotion_requests", "labels"} <= {
        row[0] for row in first
    }
    assert migrate.upgrade(empty) == revision
    assert catalogue(empty) == first


def test_two_migrations_at_once_both_succeed(empty: Settings) -> None:
    revisions: list[str] = []
    threads = [threading.Thread(target=lambda: revisions.append(migrate.upgrade(empty))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(revisions) == 3 and len(set(revisions)) == 1


def test_partitions_from_yesterday_to_the_day_after_tomorrow_are_there(database: Settings) -> None:
    today = datetime.now(UTC)
    for offset, days in enumerate((-1, 0, 1, 2)):
        insert(database.postgres_dsn, id=offset, ingested_at=today + timedelta(days=days))
    assert where(database) == [f"decisions_{today + timedelta(days=d):%Y%m%d}" for d in (-1, 0, 1, 2)]


def test_a_decision_of_1999_lands_in_the_default_partition(database: Settings) -> None:
    insert(database.postgres_dsn, ingested_at=datetime(1999, 12, 31, tzinfo=UTC))
    assert where(database) == ["decisions_default"]


def test_the_writer_makes_missing_partitions_and_only_those(database: Settings) -> None:
    ensure = "SELECT ensure_decision_partitions('2031-05-01', 3)"
    assert run(database.postgres_dsn, ensure) == [(3,)]
    assert run(database.postgres_dsn, ensure) == [(0,)]
    for name in ("20310501", "20310502", "20310503"):
        assert run(
            database.postgres_migrator_dsn,
            "SELECT count(*) FROM pg_indexes WHERE tablename = %s",
            (f"decisions_{name}",),
        ) == [(2,)]


def test_a_new_partition_takes_its_rows_out_of_the_default_one(database: Settings) -> None:
    noon = datetime(2031, 5, 1, 12, tzinfo=UTC)
    for number, moment in enumerate((noon, noon + timedelta(days=1), noon.replace(hour=0))):
        insert(database.postgres_dsn, id=number, ingested_at=moment)
    assert where(database) == ["decisions_default"] * 3
    run(database.postgres_dsn, "SELECT ensure_decision_partitions(%s, 1)", (date(2031, 5, 1),))
    assert where(database) == ["decisions_20310501", "decisions_default", "decisions_20310501"]


def test_days_begin_at_midnight_utc_whatever_the_session_says(database: Settings) -> None:
    run(
        database.postgres_dsn + "?options=-ctimezone%3DAsia/Tokyo", "SELECT ensure_decision_partitions('2031-05-01', 2)"
    )
    insert(database.postgres_dsn, ingested_at=datetime(2031, 5, 1, 23, 59, 59, 999_999, tzinfo=UTC))
    assert where(database) == ["decisions_20310501"]


@pytest.mark.parametrize("days", [0, -1, 401])
def test_an_odd_number_of_days_is_refused(shared: Settings, days: int) -> None:
    with pytest.raises(errors.InvalidParameterValue):
        run(shared.postgres_dsn, "SELECT ensure_decision_partitions('2031-05-01', %s)", (days,))


def test_partitions_can_be_made_while_a_transaction_is_writing_another_day(database: Settings) -> None:
    with closing(psycopg2.connect(database.postgres_dsn)) as writing, writing.cursor() as cursor:
        cursor.execute("SET lock_timeout = '2s'")
        names = ", ".join(DECISION)
        row = DECISION | {"ingested_at": datetime.now(UTC)}
        cursor.execute(
            f"INSERT INTO decisions ({names}) VALUES ({', '.join(f'%({n})s' for n in row)})", row
        )  # not committed yet
        run(
            database.postgres_dsn + "?options=-clock_timeout%3D2s",
            "SELECT ensure_decision_partitions('2031-05-01', 1)",
        )
        writing.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM decisions",
        "UPDATE decisions SET amount = 0",
        "TRUNCATE decisions",
        "DELETE FROM dead_letters",
        "UPDATE dead_letters SET code = 'X'",
        "DELETE FROM ledger",
        "DELETE FROM ledger_ranges",
        "UPDATE ledger_ranges SET until_offset = 9",
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
        "UPDATE api_keys SET digest = ''",
        "UPDATE api_keys SET scopes = '{admin}'",
        "DELETE FROM api_keys",
        "DROP TABLE decisions",
        "CREATE TABLE mine (x int)",
        "UPDATE alembic_version SET version_num = '0'",
    ],
)
def test_the_writer_appends_and_changes_no_past(shared: Settings, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        run(shared.postgres_dsn, statement)


def test_the_writer_marks_a_range_published(database: Settings) -> None:
    run(database.postgres_dsn, RANGE)
    run(database.postgres_dsn, "UPDATE ledger_ranges SET published_at = now() WHERE kafka_topic = 't'")
    assert run(database.postgres_reader_dsn, "SELECT published_at IS NOT NULL FROM ledger_ranges") == [(True,)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO decisions DEFAULT VALUES",
        "INSERT INTO dead_letters DEFAULT VALUES",
        "INSERT INTO audit (actor, action, subject) VALUES ('a', 'b', 'c')",
        "UPDATE ledger SET committed_until = 0",
        "DELETE FROM parked_documents",
        "INSERT INTO promotion_requests (actor, action, model_name) VALUES ('a', 'rollback', 'm')",
        "INSERT INTO labels (transaction_id, label_time, source, is_fraud) VALUES ('t', now(), 's', true)",
        "DELETE FROM merchant_days",
        "UPDATE api_keys SET revoked_at = NULL",
        "INSERT INTO merchant_snapshots (id, effective_at, content) VALUES ('ms_', now(), '')",
        "SELECT ensure_decision_partitions('2031-05-01', 1)",
    ],
)
def test_the_reader_writes_nothing(shared: Settings, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        run(shared.postgres_reader_dsn, statement)


@pytest.mark.parametrize(
    "table",
    [
        *("decisions", "dead_letters", "ledger", "ledger_ranges", "audit", "parked_documents", "alembic_version"),
        *("promotion_requests", "labels", "merchant_days", "merchant_snapshots", "payment_windows", "window_progress"),
        "api_keys",
    ],
)
def test_the_reader_reads_every_table(shared: Settings, table: str) -> None:
    run(shared.postgres_reader_dsn, f"SELECT * FROM {table}")


@pytest.mark.parametrize("changes", [{"outcome": "maybe"}, {"decision": "perhaps"}])
def test_an_unknown_outcome_or_decision_is_refused(shared: Settings, changes: dict[str, str]) -> None:
    with pytest.raises(errors.CheckViolation):
        insert(shared.postgres_dsn, **changes)


def test_labels_are_received_in_the_order_in_which_they_come_to_light(database: Settings) -> None:
    """So the newest that was seen says which of them were: whoever trains notes it, and the gate goes by it."""
    label = "INSERT INTO labels (transaction_id, label_time, source, is_fraud) VALUES (%s, now(), 's', true)"
    with (
        closing(psycopg2.connect(database.postgres_dsn)) as slow,
        closing(psycopg2.connect(database.postgres_dsn)) as quick,
    ):
        slow.cursor().execute("SELECT now()")  # a long import has begun
        with quick, quick.cursor() as cursor:
            cursor.execute(label, ("first",))
        slow.cursor().execute(label, ("second",))
        with quick, quick.cursor() as cursor, pytest.raises(errors.LockNotAvailable):
            cursor.execute("SET LOCAL lock_timeout = '100ms'")
            cursor.execute(label, ("third",))
        slow.commit()
        with quick, quick.cursor() as cursor:
            cursor.execute(label, ("third",))
    found = run(database.postgres_reader_dsn, "SELECT transaction_id FROM labels ORDER BY received_at")
    assert found == [("first",), ("second",), ("third",)]


def test_rights_come_to_a_table_whose_grants_were_lost(database: Settings) -> None:
    run(database.postgres_migrator_dsn, "REVOKE ALL ON decisions FROM vigil_reader")
    with pytest.raises(errors.InsufficientPrivilege):
        where(database)
    migrate.upgrade(database)
    assert where(database) == []


def test_a_database_of_a_newer_release_is_refused(database: Settings) -> None:
    run(database.postgres_migrator_dsn, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BadConfiguration, match="9999"):
        migrate.upgrade(database)


def test_a_wrong_password_is_named_without_the_password(shared: Settings) -> None:
    wrong = shared.model_copy(
        update={"postgres_migrator_dsn": "postgresql://vigil_migrator:guess@" + shared.postgres_dsn.partition("@")[2]}
    )
    with pytest.raises(StoreUnavailable, match="password authentication failed") as caught:
        migrate.upgrade(wrong)
    assert "guess" not in str(caught.value)


def test_a_day_that_is_over_gets_an_index_of_its_ids_once(database: Settings) -> None:
    dsn = database.postgres_dsn
    run(dsn, "SELECT ensure_decision_partitions('2026-01-01', 1)")
    insert(dsn)
    for made in (True, False):
        assert run(dsn, "SELECT seal_decision_partition('2026-01-01')") == [(made,)]
    assert run(dsn, "SELECT seal_decision_partition('2020-01-01')") == [(False,)]
    assert run(dsn, "SELECT user_id FROM decisions_of('t1')") == [("u1",)]
    indexes = run(dsn, "SELECT indexname FROM pg_indexes WHERE tablename = 'decisions_20260101'")
    assert ("decisions_20260101_transaction",) in indexes


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", []):
        yield from nodes(below)


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (ledger.CLAIM, ("t", 0, str(uuid.UUID(int=1)))),
        (ledger.MOVE, (9, "t", 0, str(uuid.UUID(int=1)), 5)),
        (ledger.BURIED, ("t", 0, 0, 9, "ID_CONFLICT")),
        (ledger.PUBLISHED, ("t", 0, 5)),
        (ledger.WAITING, ("t",)),
        (repair.UNPUBLISHED, ("t",)),
        (repair.DECIDED, (16, 32, "t")),
        (repair.BURIED, ("t", 0, 0, 9)),
    ],
    ids=lambda value: " ".join(str(value).split()[:6]),
)
def test_the_roads_queries_do_not_read_whole_tables(shared: Settings, statement: str, values: Any) -> None:
    """What is as large as the retention asks for is reached by an index or not at all."""
    found = plan(shared, statement, values)
    assert not [node for node in found if node["Node Type"] == "Seq Scan"], found


def test_what_asks_for_a_day_reads_the_partition_of_that_day_alone(shared: Settings) -> None:
    today = datetime.now(UTC).date()
    found = plan(shared, daily_rebuild.COUNT, (today, midnight(today), midnight(today + timedelta(days=1))))
    read = {node["Relation Name"] for node in found if node.get("Relation Name", "").startswith("decisions")}
    assert len(read) == 1 and read.pop().endswith(f"{today:%Y%m%d}")


def plan(settings: Settings, statement: str, values: Any) -> list[dict[str, Any]]:
    """The nodes of its plan, with the partitions of some days; empty tables would be read as a whole otherwise."""
    with closing(psycopg2.connect(settings.postgres_migrator_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT ensure_decision_partitions((now() AT TIME ZONE 'UTC')::date - 1, 4)")
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
        ((told,),) = cursor.fetchall()
        connection.rollback()
    return list(nodes(told[0]["Plan"]))
