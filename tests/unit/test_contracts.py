import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import validator_for
from referencing import Registry, Resource

import feature_repo.contracts
from feature_repo import transaction
from feature_repo.codes import Code
from feature_repo.contracts import Contract, contracts
from feature_repo.features import REASONS
from feature_repo.parser import SAMPLE, parse_one
from tests.cases.bad_inputs import BAD, BROKER_TIME_US, GOOD, Case

# A schema counts the 512 characters sent, not the 256 of the normal form; and takes no width for something to see.
SEEN_OTHERWISE = ("text that is longer decomposed", "text of letters with two accents", "user of nothing visible")
# What a JSON Schema cannot say of a JSON document, or cannot see any more once it is read.
BEYOND_A_SCHEMA = {
    Code.DUPLICATE_KEY, Code.INVALID_UNICODE, Code.NUMBER_NOT_FINITE, Code.PAN_DETECTED, Code.PRECISION,
    Code.TIME_INVALID, Code.TIME_FUTURE, Code.TOO_DEEP, Code.TOO_LARGE,
}  # fmt: skip


def validator(topic: str) -> Draft202012Validator:
    resources = [Resource.from_contents(contract.schema) for contract in contracts().values()]
    registry: Registry[Any] = Registry().with_resources([(str(one.id()), one) for one in resources])
    return Draft202012Validator(contracts()[topic].schema, registry=registry)


def examples() -> Iterator[Any]:
    for contract in contracts().values():
        for name, value in contract.examples.items():
            yield pytest.param(contract, value, id=f"{contract.topic}/{name}")


@pytest.mark.parametrize("contract", contracts().values(), ids=lambda contract: contract.topic)
def test_contract_is_a_schema_with_owner_version_and_examples(contract: Contract) -> None:
    assert contract.schema["$schema"] == feature_repo.contracts.DIALECT
    validator_for(contract.schema).check_schema(contract.schema)
    assert contract.schema["$id"] == f"urn:vigil:contract:{contract.topic}:{contract.version}"
    assert contract.owner and contract.key and contract.description
    assert contract.compatibility in ("backward", "forward", "full")
    assert contract.examples


@pytest.mark.parametrize(("contract", "value"), examples())
def test_example_fulfils_its_contract(contract: Contract, value: bytes) -> None:
    validator(contract.topic).validate(json.loads(value))


@pytest.mark.parametrize("name", contracts()["transactions"].examples)
def test_example_payment_is_accepted_by_the_parser(name: str) -> None:
    assert parse_one(contracts()["transactions"].examples[name], BROKER_TIME_US).num_rows == 1


def test_sample_everybody_quotes_is_an_example() -> None:
    assert json.loads(contracts()["transactions"].examples["sample"]) == json.loads(SAMPLE)


@pytest.mark.parametrize("case", [c for c in GOOD if c.name not in SEEN_OTHERWISE], ids=lambda case: case.name)
def test_payment_the_parser_accepts_fulfils_the_contract(case: Case) -> None:
    validator("transactions").validate(json.loads(case.payload or b""))


@pytest.mark.parametrize(
    "case",
    [c for c in BAD if c.field and c.code not in BEYOND_A_SCHEMA and c.name not in SEEN_OTHERWISE],
    ids=lambda case: case.name,
)
def test_payment_the_parser_refuses_breaks_the_contract(case: Case) -> None:
    with pytest.raises(ValidationError):
        validator("transactions").validate(json.loads(case.payload or b""))


def test_contract_of_payments_says_what_the_code_says() -> None:
    schema = contracts()["transactions"].schema
    assert tuple(schema["properties"]) == (*transaction.REQUIRED, *transaction.OPTIONAL)
    assert tuple(schema["required"]) == transaction.REQUIRED
    fields = schema["properties"]
    assert {fields[name]["maxLength"] for name in ("transaction_id", "user_id", "device_id")} == {
        transaction.MAX_ID_CHARACTERS
    }
    assert {fields[name]["maxLength"] for name in ("merchant", "location", "payment_method", "channel")} == {
        transaction.MAX_TEXT_CHARACTERS
    }
    assert fields["amount"]["maximum"] == transaction.MAX_AMOUNT


def test_contracts_know_every_code_and_every_reason() -> None:
    assert contracts()["transactions.dlq"].schema["properties"]["code"]["enum"] == [code.value for code in Code]
    reasons = contracts()["decisions"].schema["properties"]["anomaly_reasons"]["items"]["enum"]
    assert reasons == [reason.value for reason in REASONS]


@pytest.mark.parametrize(
    "change",
    [
        {"anomaly_score": None},
        {"model_version": None},
        {"outcome": "unscored"},
        {"outcome": "duplicate"},
        {"anomaly_reasons": ["bad_weather"]},
        {"event_time": "2023-07-15T14:22:35+02:00"},
        {"revision": 0},
        {"colour": "red"},
    ],
    ids=str,
)
def test_decision_that_contradicts_itself_breaks_the_contract(change: dict[str, Any]) -> None:
    decision = json.loads(contracts()["decisions"].examples["approved"])
    with pytest.raises(ValidationError):
        validator("decisions").validate(decision | change)


def test_unscored_payment_is_never_approved() -> None:
    decision = json.loads(contracts()["decisions"].examples["model_down_is_reviewed"])
    with pytest.raises(ValidationError):
        validator("decisions").validate(decision | {"decision": "approve"})


def test_alert_that_is_no_anomaly_breaks_the_contract() -> None:
    with pytest.raises(ValidationError):
        validator("alerts").validate(json.loads(contracts()["decisions"].examples["approved"]))


def test_every_file_of_the_contracts_is_packed() -> None:
    folder = Path(feature_repo.contracts.__file__).parent
    settings = tomllib.loads((folder.parents[1] / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["feature_repo.contracts"]
    packed = {file for pattern in patterns for file in folder.glob(pattern)}
    assert packed == {file for file in folder.rglob("*") if file.suffix in (".json", ".yaml")}
