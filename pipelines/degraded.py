"""What does not do its whole work, what that means for payments, and what to do about it."""

from collections.abc import Sequence
from typing import Any

from feature_repo import conditions
from feature_repo.conditions import MEANS
from feature_repo.errors import StoreUnavailable
from feature_repo.settings import Settings
from infra.local.service import State
from infra.local.status import ServiceStatus
from pipelines.requests import rows


def of_services(found: Sequence[ServiceStatus]) -> list[dict[str, Any]]:
    """Services of the stack that should do their work and do not."""
    return [
        {
            "code": "SERVICE_NOT_READY" if one.state == State.UP else "SERVICE_DOWN",
            "component": one.name,
            "cause": f"{one.detail or one.state}: {MEANS[one.name]}",
            "remedy": f"vigil logs {one.name}, vigil restart {one.name}",
            "since": None,
        }
        for one in found
        if one.degraded
    ]


def of_jobs(settings: Settings) -> list[dict[str, Any]]:
    """What jobs and switches say, oldest first; nothing where PostgreSQL cannot tell, which is seen otherwise."""
    try:
        return rows(settings, conditions.CURRENT, {})
    except StoreUnavailable:
        return []
