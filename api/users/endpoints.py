"""`GET /users/{user_id}`."""

from typing import Annotated

from fastapi import Depends, Path

from api.filters import Identifier, once
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope
from api.users.schemas import User
from api.users.service import UserService


def router(service: UserService) -> Router:
    routes = Router(tags=["users"], dependencies=[Depends(once)])

    # An id may hold a slash, so the rest of the path is the id.
    @routes.get("/users/{user_id:path}", summary="A user", responses=problems(404, 422, 503))
    @needs(Scope.READ)
    async def get_user(user_id: Annotated[Identifier, Path(examples=["user_789"])]) -> User:
        """Features now, through Feast, the newest payments, and tags from what was decided and labelled.

        While the model service or its feature store is away the rest is answered all the same, and
        `features_unavailable` says why features are null.
        """
        return await service.get(user_id)

    return routes
