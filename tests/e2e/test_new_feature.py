"""A model that consumes a feature the champion does not: tried beside it, promoted, rolled back, on live traffic.

No source file changes under the running road. The champion here is trained without one feature of the catalogue,
as every model made before that feature was added is; the kernel computes all of them and each model chooses.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
import psycopg2

from feature_repo.features import NAMES
from feature_repo.settings import Settings
from pipelines import road as look
from pipelines.challenger import set_challenger
from pipelines.compare.run import LIVE, Question, compare
from pipelines.demo import await_served
from pipelines.promote import promote, rollback
from pipelines.versions import Versions
from tests.e2e.conftest import Road
from tests.e2e.test_road import DECIDED_S, api, eventually, message, send

FEATURE = "merchant_repeats_24h"
USERS = 8
PAUSE_S = 0.2  # between one payment of each user and the next
GOLDEN_TOLERANCE = 1e-5
UNTRIED = "the history is trained on to its end"


@contextmanager
def paying(settings: Settings) -> Iterator[None]:
    """Payments all the time, whatever happens to the models."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def pay() -> None:
        number = 0
        try:
            while not stop.is_set():
                now = datetime.now(UTC)
                send(settings, [message(number, f"steady_{user}", now) for user in range(USERS)], keyed=True)
                number += 1
                stop.wait(PAUSE_S)
        except BaseException as error:
            failures.append(error)

    payer = threading.Thread(target=pay)
    payer.start()
    try:
        yield
    finally:
        stop.set()
        payer.join()
    assert not failures


def query(settings: Settings, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg2.connect(settings.postgres_reader_dsn) as connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


def newest(settings: Settings) -> tuple[Any, ...]:
    """Champion's and challenger's version of the payment decided last."""
    found = query(
        settings,
        "SELECT model_version, challenger_version FROM decisions WHERE user_id LIKE 'steady_%%' "
        "ORDER BY processed_at DESC, kafka_offset DESC LIMIT 1",
    )
    return found[0] if found else (None, None)


def test_a_model_with_a_new_feature_goes_all_the_way_without_an_unscored_row(road: Road) -> None:
    settings = road.settings
    old = road.demo.train(overrides=(f"without={FEATURE}",))
    new = road.demo.train()
    promote(settings, old, "test", override=UNTRIED)
    await_served(road.settings, old)
    began = time.time()
    try:
        with paying(settings):
            eventually(lambda: newest(settings) == (old, None))
            set_challenger(settings, new, "test")
            eventually(lambda: newest(settings) == (old, new))
            promote(settings, "challenger", "test", override=UNTRIED)
            eventually(lambda: newest(settings) == (new, None))
            assert Versions(settings).aliases() == {"champion": new, "previous": old}
            rollback(settings, "test")
            eventually(lambda: newest(settings) == (old, None))
        assert look.settle(settings, DECIDED_S).complete
        check_rows(settings, began, old, new)
        check_scores(settings, old, new)
        compared = compare(settings, Question(old, new), datetime.now(UTC))
        assert compared.on == LIVE and compared.payments > 0
    finally:
        promote(settings, road.version, "test", override=UNTRIED)
        await_served(road.settings, road.version)


def check_rows(settings: Settings, began: float, old: str, new: str) -> None:
    """Every payment has a score; in each partition one version follows the other, and no range mixes them."""
    rows = query(
        settings,
        "SELECT kafka_partition, outcome, model_version, challenger_version, feature_set_id, processed_at "
        "FROM decisions WHERE processed_at >= to_timestamp(%s) ORDER BY kafka_partition, kafka_offset",
        began,
    )
    assert {row[1] for row in rows} == {"scored"}
    for _, of_partition in groupby(rows, lambda row: row[0]):
        versions = [version for version, _ in groupby(of_partition, lambda row: row[2])]
        assert versions == [old, new, old]
    assert {row[2:4] for row in rows} == {(old, None), (old, new), (new, None)}
    assert len({row[2:4] for row in rows}) == len({row[2:5] for row in rows}), "a version has one feature set"
    assert len({row[4] for row in rows}) == 2
    ranges: dict[tuple[Any, Any], set[tuple[Any, Any]]] = {}
    for partition, _, champion, challenger, _, processed in rows:
        ranges.setdefault((partition, processed), set()).add((champion, challenger))
    assert all(len(versions) == 1 for versions in ranges.values())


def check_scores(settings: Settings, old: str, new: str) -> None:
    """The features a row keeps give both of its scores again."""
    rows = query(
        settings,
        "SELECT transaction_id, features, anomaly_score, challenger_score FROM decisions "
        "WHERE model_version = %s AND challenger_version = %s",
        old,
        new,
    )
    features = np.array([np.frombuffer(bytes(row[1]), "<f4") for row in rows])
    for version, said in ((old, [row[2] for row in rows]), (new, [row[3] for row in rows])):
        artifact = Versions(settings).load(version)
        assert (FEATURE in artifact.manifest.columns) == (version == new)
        scores, _ = artifact.run(features[:, [NAMES.index(name) for name in artifact.manifest.columns]])
        np.testing.assert_allclose(scores, np.array(said, np.float32), atol=GOLDEN_TOLERANCE)
    shown = api(settings, f"/transactions/{rows[0][0]}")
    assert (shown["model_version"], shown["challenger_version"]) == (old, new)
    assert shown["challenger_score"] == rows[0][3]
