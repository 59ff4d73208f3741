"""Keys, limits and the audit log on real stores, and every path with whatever its schema allows."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from confluent_kafka.admin import AdminClient, NewTopic
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from typer.testing import CliRunner

from api.app import create_app
from api.limits import Counters, RateLimiter
from feature_repo.settings import Settings
from pipelines.cli import app as command_line
from tests.cases.keys import bearer
from tests.cases.model_service import FolderSource, MemoryStates, listening, running, settings_for, worker_for

NAME = "test_keys"  # of keys, topic and model here, as the stack is shared


def vigil(stack: Settings, *words: str) -> Any:
    """A `vigil keys` command's JSON."""
    done = CliRunner().invoke(command_line, ["keys", *words, "--json"], env={"VIGIL_HOME": str(stack.home)})
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def admin(stack: Settings) -> dict[str, str]:
    """Headers of a key made on the command line."""
    return bearer(vigil(stack, "create", NAME, "--scope", "admin")["key"])


@pytest.fixture(scope="module")
def api(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service asking for keys, with every store and a model service."""
    source = FolderSource(tmp_path_factory.mktemp("published"))
    source.publish("1")
    kafka = {"kafka_bootstrap": stack.kafka_bootstrap, "topic": NAME}
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.create_topics([NewTopic(NAME, stack.partitions, 1)])[NAME].result(30)
    with listening(worker_for(settings_for(source.folder, **kafka), source, MemoryStates())) as url:
        limits = {"keys": "on", "requests_per_key": 10**6, "requests_per_address": 10**6}
        own = {"serving_url": url, "model_name": NAME}
        with (
            running(create_app(stack.model_copy(update=limits | own))) as address,
            httpx.Client(base_url=address, timeout=30) as client,
        ):
            yield client


def test_a_key_made_on_the_command_line_is_good_until_it_is_revoked(
    stack: Settings, api: httpx.Client, admin: dict[str, str]
) -> None:
    made = vigil(stack, "create", NAME, "--scope", "read", "--scope", "search", "--days", "1")
    assert made["scopes"] == ["read", "search"] and made["expires_at"]
    asked = api.get("/transactions?limit=1", headers=bearer(made["key"]))
    assert asked.status_code == 200
    listed = {key["id"]: key for key in api.get("/keys", headers=admin).json()["items"]}
    assert made["key"] not in json.dumps(listed) and listed[made["id"]]["created_by"] == made["created_by"]
    revoked = api.delete(f"/keys/{made['id']}", headers=admin).json()
    again = vigil(stack, "revoke", made["id"])
    assert revoked == again and revoked["revoked_at"]
    # A worker that has not read its keys since still takes it; this one is made to, as after its FRESH_S.
    with running(create_app(stack.model_copy(update={"keys": "on"}))) as other:
        refused = httpx.get(f"{other}/transactions?limit=1", headers=bearer(made["key"]), timeout=30)
    assert (refused.status_code, refused.json()["code"]) == (401, "KEY_REFUSED")


def test_a_key_made_by_a_request_is_told_once_and_its_use_is_noted(
    stack: Settings, api: httpx.Client, admin: dict[str, str]
) -> None:
    body = {"name": NAME, "scopes": ["labels"], "expires_at": "2999-01-01"}
    answer = api.post("/keys", json=body, headers=admin)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    with running(create_app(stack.model_copy(update={"keys": "on"}))) as other:
        for _ in range(3):
            assert httpx.get(f"{other}/models", headers=bearer(made["key"]), timeout=30).status_code == 403
    found = {key["id"]: key for key in vigil(stack, "list")["items"]}[made["id"]]
    assert found["last_used_at"] and "key" not in found


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"scopes": []}, "PARAMETER_INVALID"),
        ({"scopes": ["root"]}, "PARAMETER_INVALID"),
        ({"name": " "}, "ID_FORMAT"),
        ({"expires_at": "2001-01-01"}, "EXPIRY_PASSED"),
        ({"expires_at": "2999-01-01T00:00:00"}, "TIME_NO_ZONE"),
        ({"admin": True}, "PARAMETER_UNKNOWN"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    api: httpx.Client, admin: dict[str, str], change: dict[str, Any], code: str
) -> None:
    refused = api.post("/keys", json={"name": NAME, "scopes": ["read"], **change}, headers=admin)
    assert (refused.status_code, refused.json()["code"]) == (422, code)


def test_an_unknown_key_cannot_be_revoked(api: httpx.Client, admin: dict[str, str]) -> None:
    refused = api.delete("/keys/nobody", headers=admin)
    assert (refused.status_code, refused.json()["code"]) == (404, "KEY_UNKNOWN")


def test_the_audit_log_tells_who_did_what_page_by_page(api: httpx.Client, admin: dict[str, str]) -> None:
    ids = [api.post("/keys", json={"name": NAME, "scopes": ["read"]}, headers=admin).json()["id"] for _ in range(3)]
    api.delete(f"/keys/{ids[0]}", headers=admin)
    label = {"transaction_id": f"{NAME}-1", "is_fraud": True, "label_time": "2026-01-01T00:00:00Z"}
    assert [api.post("/labels", json=label, headers=admin).json()["new"] for _ in range(2)] == [True, False]

    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page = api.get("/audit", params={"limit": 2, "from": "2026-01-01", **more}, headers=admin).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None or len(found) > 20:
            break
    newest = [(row["action"], row["subject"]) for row in found[:5]]
    created = [("create_key", identity) for identity in reversed(ids)]
    assert newest == [("label", f"{NAME}-1"), ("revoke_key", ids[0]), *created]
    assert [row["id"] for row in found] == sorted({row["id"] for row in found}, reverse=True)
    assert {row["actor"] for row in found[:5]} == {f"{NAME} (key {admin['Authorization'].split('_')[1]})"}
    only = api.get("/audit", params={"subject": ids[0]}, headers=admin).json()["items"]
    assert [row["action"] for row in only] == ["revoke_key", "create_key"]


def test_workers_share_a_limit_through_redis(stack: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.limits.REDIS_TIMEOUT_S", 30.0)  # a slow answer would have each worker count by itself

    async def ask() -> list[bool]:
        workers = [RateLimiter(Counters(stack.redis_url), NAME, 100) for _ in range(2)]
        asked = [worker.take("one") for _ in range(80) for worker in workers]
        return [left.refused for left in await asyncio.gather(*asked)]

    assert asyncio.run(ask()).count(False) == 100


# ---- whatever the schema allows ---------------------------------------------------------------------

EXAMPLES = 8  # of each path, and as many that its schema does not allow


def test_no_request_of_the_schema_fails_and_every_answer_fits_it(api: httpx.Client, admin: dict[str, str]) -> None:
    schema = schemathesis.openapi.from_url(f"{api.base_url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation, mode in itertools.product(operations, GenerationMode):
        if mode is GenerationMode.NEGATIVE and not operation.definition.raw["security"]:
            continue  # it takes nothing that could be wrong

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def holds(case: schemathesis.Case) -> None:
            # What a schema cannot say (times, decimals, the syntax of a search) may be refused, by a name of its own.
            case.call_and_validate(headers=admin, excluded_checks=[positive_data_acceptance])

        holds()
