"""What `vigil status` makes of services that are not there."""

from feature_repo import conditions
from infra.local.services import NAMES
from infra.local.status import ServiceStatus
from pipelines import degraded


def test_of_every_service_it_is_known_what_its_absence_means() -> None:
    assert set(conditions.MEANS) == set(NAMES)


def test_only_what_should_do_its_work_and_does_not_is_degraded() -> None:
    found = [
        ServiceStatus("redis", "up", 1, "", wanted=True),
        ServiceStatus("kafka", "down", None, "", wanted=False),
        ServiceStatus("postgres", "failed", None, "", "killed by SIGKILL", wanted=True),
        ServiceStatus("serving", "up", 2, "", "answered 503: MODEL_LOADING", wanted=True),
    ]
    told = {one["component"]: one for one in degraded.of_services(found)}
    assert {name: one["code"] for name, one in told.items()} == {
        "postgres": "SERVICE_DOWN",
        "serving": "SERVICE_NOT_READY",
    }
    assert told["postgres"]["cause"].startswith("killed by SIGKILL: payments wait")
    assert told["postgres"]["remedy"] == "vigil logs postgres, vigil restart postgres"
