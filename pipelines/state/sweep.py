"""Records of users who fell silent go, so that states do not grow with everybody ever seen.

After 30 days without a payment, by event time, the kernel starts a user afresh, to the very bytes of a new user's
record. So a record may go as soon as it is sure that none of the user's payments can still come that is not further on
than that, and nobody can tell. Sure it is by two clocks: the record lies 30 days and a margin behind the newest payment
of its partition, and the stream has decided nothing of the user for as long. One payment from the future (or a backfill
of old ones) fools one of them, not both. A payment that is late by more than the margin finds a new user.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo import layouts
from feature_repo.hashing import hash_texts
from feature_repo.memory import RESET_AFTER
from feature_repo.settings import Settings
from feature_repo.state import DAY, States
from pipelines import requests
from pipelines.online import SEEDED
from streaming.states import StateStore

MARGIN = 7 * DAY  # how late, in event time, the first payment after a silence may come and still change nothing
SILENCE = RESET_AFTER + MARGIN  # microseconds

# The first offset of each partition that was decided within the silence, by PostgreSQL's clock; its end where none was.
OLDER_THAN = """SELECT l.kafka_partition, coalesce(min(r.first_offset), l.committed_until)
    FROM ledger l LEFT JOIN ledger_ranges r ON r.kafka_topic = l.kafka_topic
        AND r.kafka_partition = l.kafka_partition AND r.committed_at >= now() - %s * interval '1 microsecond'
    WHERE l.kafka_topic = %s GROUP BY l.kafka_partition, l.committed_until"""
SEEDED_LATELY = """SELECT EXISTS (SELECT FROM audit
    WHERE action = %s AND subject = %s AND at >= now() - %s * interval '1 microsecond')"""


@dataclass
class Swept:
    """Of all `records`, `silent` were old enough, and `swept` of them went: one that is written just then stays."""

    records: int = 0
    silent: int = 0
    swept: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def sweep(settings: Settings) -> Swept:
    """Delete the records of silent users, while the stream runs. Raises DependencyDown, StateCorrupt.

    The stream cannot lose a payment by it: it writes records whole. Where it read one before this deleted it, it puts
    it back with the payment; where it reads after, it begins afresh, as the kernel would have.
    """
    done = Swept()
    decided_before, seeded_before = _decided_before(settings)
    with closing(StateStore(settings.redis_url)) as store:
        newest: dict[int, int] = {}
        for partition, _, _, states in _records(store):
            newest[partition] = max(newest.get(partition, 0), int(states["newest"].max()))
        for partition, users, values, states in _records(store):
            last_in = states["partition"]  # of the last payment: another one where the topic was grown since
            before = np.array([decided_before.get(number, 0) for number in last_in.tolist()], np.int64)
            folded_before = np.where(last_in >= 0, states["offset"] < before, seeded_before)
            rows = np.flatnonzero(folded_before & (newest.get(partition, 0) - states["newest"] > SILENCE)).tolist()
            done.records += len(users)
            done.silent += len(rows)
            if rows:
                done.swept += store.forget(partition, [users[row] for row in rows], [values[row] for row in rows])
    return done


def _decided_before(settings: Settings) -> tuple[dict[int, int], bool]:
    """By partition the offset below which everything was decided before the silence, and whether a history that seeded
    the states was folded before it."""
    with requests.connected(settings) as connection, connection, connection.cursor() as cursor:
        cursor.execute(OLDER_THAN, (SILENCE, settings.topic))
        offsets = dict(cursor.fetchall())
        cursor.execute(SEEDED_LATELY, (SEEDED, settings.topic, SILENCE))
        ((lately,),) = cursor.fetchall()
    return offsets, not lately


def _records(store: StateStore) -> Iterator[tuple[int, list[str], list[bytes], States]]:
    for partition, users, values in store.records():
        yield partition, users, values, layouts.read(values, hash_texts(pa.array(users, pa.string()), "user_id"))
