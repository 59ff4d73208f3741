"""Puts together what is known of a user."""

import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import anyio.to_thread

from api.errors import UserUnknown
from api.transactions.repository import TransactionRepository
from api.transactions.schemas import Decision, ListFilters
from api.users.repository import UserRepository
from api.users.schemas import Tag, User
from feature_repo.errors import DependencyDown
from feature_repo.features import MIN_HISTORY_FOR_REASONS

log = logging.getLogger("vigil.api")

PAYMENTS = 20
FLAGGED_FOR = timedelta(days=30)
REPORTED_FOR = timedelta(days=90)
SILENT_AFTER = timedelta(days=30)  # when the kernel takes a user for a new one


class UserService:
    """`activity` is ModelService.activity."""

    def __init__(
        self,
        payments: TransactionRepository,
        users: UserRepository,
        activity: Callable[[str], dict[str, Any] | None],
        now: Callable[[], datetime],
    ) -> None:
        self._payments = payments
        self._users = users
        self._activity = activity
        self._now = now

    async def get(self, user_id: str) -> User:
        """Raises UserUnknown, StoreUnavailable; DependencyDown where nobody else knows the user either."""
        now = self._now()
        asked = ListFilters.model_validate({"user_id": user_id, "limit": PAYMENTS})
        page = await self._payments.page(asked, None, now)
        items = [Decision(**item) for item in json.loads(b"[%s]" % page.content)]
        features, unavailable = None, None
        try:
            features = await anyio.to_thread.run_sync(self._activity, user_id)
        except DependencyDown as error:
            if not items:  # whether this user is unknown cannot be told
                raise
            log.warning("a user without features: %s", error)
            unavailable = error.code
        if not items and features is None:
            raise UserUnknown
        tags = await anyio.to_thread.run_sync(self._tags, user_id, features, items, now)
        return User(user_id=user_id, features=features, features_unavailable=unavailable, tags=tags, payments=items)

    def _tags(self, user_id: str, features: dict[str, Any] | None, items: list[Decision], now: datetime) -> list[Tag]:
        found = {
            "reported_fraud": self._users.reported(user_id, now - REPORTED_FOR),
            "flagged": self._users.flagged(user_id, now - FLAGGED_FOR),
        }
        if features is not None:
            newest = datetime.fromisoformat(str(features["last_seen"]))
            found["sparse"] = newest if int(features["payments"]) < MIN_HISTORY_FOR_REASONS else None
            found["silent"] = newest if now - newest > SILENT_AFTER else None
        return [Tag(name=name, since=at) for name, at in found.items() if at is not None]
