"""What is said of a user while the model service is away."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from api.errors import UserUnknown
from api.transactions.render import Rendered
from api.transactions.schemas import EXAMPLE
from api.users.schemas import User
from api.users.service import UserService
from feature_repo.errors import DependencyDown

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


class Payments:
    def __init__(self, *payments: Any) -> None:
        self._payments = payments

    async def page(self, *_: Any) -> Rendered:
        return Rendered(",".join(map(json.dumps, self._payments)).encode(), len(self._payments), False, 0, NOW)


class Told:
    """Decisions and labels of a user flagged now."""

    def flagged(self, *_: Any) -> datetime:
        return NOW

    def reported(self, *_: Any) -> None:
        return None


def away(_: str) -> dict[str, Any]:
    raise DependencyDown("the model service", "here", "HTTP status 503")


def nothing(_: str) -> None:
    return None


def asked(activity: Any, *payments: Any) -> User:
    service = UserService(Payments(*payments), Told(), activity, lambda: NOW)  # type: ignore[arg-type]  # what it asks
    return asyncio.run(service.get("user_789"))


def test_without_the_model_service_a_user_has_all_but_features() -> None:
    user = asked(away, EXAMPLE)
    assert (user.features, user.features_unavailable) == (None, "DEPENDENCY_DOWN")
    assert [tag.name for tag in user.tags] == ["flagged"]
    assert [payment.transaction_id for payment in user.payments] == ["txn_123456"]


def test_a_user_the_feature_store_does_not_know_is_no_failure() -> None:
    user = asked(nothing, EXAMPLE)
    assert (user.features, user.features_unavailable) == (None, None)


def test_nobody_is_called_unknown_before_the_feature_store_was_asked() -> None:
    with pytest.raises(UserUnknown):
        asked(nothing)
    with pytest.raises(DependencyDown):
        asked(away)
