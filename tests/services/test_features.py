"""`vigil features` on real stores: a user's aggregates now, and the vector behind a past decision."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
import redis
from typer.testing import CliRunner, Result

from feature_repo import definitions
from feature_repo.errors import BadConfiguration
from feature_repo.features import NAMES
from feature_repo.hashing import partitions_of
from feature_repo.keys import state_key
from feature_repo.settings import Settings
from pipelines.cli import app
from streaming.ledger import Ledger
from streaming.partition import Road
from streaming.scoring import Pins
from tests.unit.road_fakes import PIN, FakeChallenger, FakePublisher, FakeStates, score_by_amount
from tests.unit.streams import KNOWN, snapshot_of
from tests.unit.test_road import payment, records

SNAPSHOT = snapshot_of(KNOWN)


class Decided:
    """Two users' payments through the nine steps into the real PostgreSQL; ids are this test's own."""

    def __init__(self, stack: Settings) -> None:
        mark = uuid4().hex[:8]
        self.user, self.other = f"ada-{mark}", f"bob-{mark}"
        self.topic = f"features-{mark}"
        self.ids = {number: f"{mark}-{number}" for number in range(6)}
        self.states = FakeStates()
        settings = stack.model_copy(update={"topic": self.topic, "partitions": 1})
        ledger = Ledger(stack.postgres_dsn, self.topic)
        fakes: Any = (self.states, FakePublisher(), score_by_amount, FakeChallenger())
        road = Road(settings, ledger, *fakes)
        road.take(records([*(self.paid(number, self.user) for number in range(4))]), Pins(PIN), frozenset(), None)
        later = [self.paid(4, self.user, 90_000.0), self.paid(5, self.user, currency="EUR"), self.paid(0, self.other)]
        road.take(records([*later], first=4), Pins(PIN), frozenset(), SNAPSHOT)
        ledger.close()

    def paid(self, number: int, user: str, amount: float = 20.0, **other: Any) -> bytes:
        return payment(number, user, amount, transaction_id=self.ids[number], **other)


@pytest.fixture(scope="module")
def decided(stack: Settings) -> Decided:
    return Decided(stack)


@pytest.fixture(autouse=True)
def home(stack: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_HOME", str(stack.home))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["features", *arguments])


def told(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.exception
    return dict(json.loads(done.stdout))


def test_a_past_decision_shows_its_vector_version_and_snapshot(decided: Decided) -> None:
    row = told("--transaction", decided.ids[4])
    assert (row["user_id"], row["decision_id"]) == (decided.user, f"{decided.topic}-0-4")
    assert (row["model_version"], row["side_inputs"]) == (PIN.version, SNAPSHOT.id)
    assert tuple(row["features"]) == NAMES
    assert row["features"]["amount_log"] == pytest.approx(np.log1p(90_000.0))
    assert row["features"]["history"] == pytest.approx(np.log1p(4))
    printed = run("--transaction", decided.ids[4]).stdout
    assert f"model version {PIN.version}" in printed and SNAPSHOT.id in printed
    assert all(f"  {name} " in printed for name in NAMES)


def test_an_id_two_users_share_is_told_apart_by_the_user(decided: Decided) -> None:
    row = told("--transaction", decided.ids[0], "--user", decided.other)
    assert (row["user_id"], row["features"]["history"]) == (decided.other, 0.0)
    assert told("--transaction", decided.ids[0], "--user", decided.user)["user_id"] == decided.user


def test_a_payment_without_features_says_so(decided: Decided) -> None:
    assert told("--transaction", decided.ids[5])["features"] is None
    printed = run("--transaction", decided.ids[5]).stdout
    assert "unscored CURRENCY_UNSUPPORTED" in printed and "no features were computed for it" in printed


def test_a_payment_nobody_decided_is_refused_by_name(decided: Decided) -> None:
    for arguments in (("--transaction", "nobody's"), ("--transaction", decided.ids[4], "--user", decided.other)):
        refused = run(*arguments).exception
        assert isinstance(refused, BadConfiguration) and arguments[1] in refused.message


def test_a_user_now_is_read_from_the_record_the_stream_wrote(stack: Settings, decided: Decided) -> None:
    definitions.apply(stack, stack.data)
    partition = int(partitions_of(pa.array([decided.user]), stack.partitions)[0])
    with closing(redis.Redis.from_url(stack.redis_url)) as client:
        client.set(state_key(decided.user, partition), decided.states.records[decided.user])
    now = told("--user", decided.user)
    assert (now["payments"], now["largest_recent"], now["kafka_offset"]) == (5, 90_000.0, 4)
    assert now["last_seen"] == "2027-01-15T07:04:00.000000Z"
    assert "90000" in run("--user", decided.user).stdout
    assert "nothing is known of" in run("--user", f"not {decided.user}").stdout


def test_a_home_where_nothing_was_applied_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_HOME", str(tmp_path))
    refused = run("--user", "ada").exception
    assert isinstance(refused, BadConfiguration) and refused.remedy == "vigil up, or feast apply"
    assert list(tmp_path.iterdir()) == []
