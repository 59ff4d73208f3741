"""`GET /keys`, `POST /keys` and `DELETE /keys/{id}`."""

from typing import Annotated

from fastapi import Depends, Path

from api.body import json_only
from api.filters import Identifier, once
from api.keys.schemas import KeyBody, KeyMade, Keys, KeyShown
from api.keys.service import KeyService
from api.problems import problems
from api.routes import Actor, Router, needs
from api.scopes import Scope


def router(service: KeyService) -> Router:
    routes = Router(prefix="/keys", tags=["keys"], dependencies=[Depends(once)])

    @routes.get("", summary="Every key, without its secret", responses=problems(503))
    @needs(Scope.ADMIN)
    def list_keys() -> Keys:
        """Newest first."""
        return service.list()

    @routes.post(
        "",
        status_code=201,
        summary="Make a key",
        responses=problems(400, 413, 415, 422, 503),
        dependencies=[Depends(json_only)],
    )
    @needs(Scope.ADMIN)
    def create_key(body: KeyBody, actor: Actor) -> KeyMade:
        """The answer holds the key. It is not kept, and cannot be shown again."""
        return service.create(body, actor)

    @routes.delete("/{key_id}", summary="Revoke a key", responses=problems(404, 422, 503))
    @needs(Scope.ADMIN)
    def revoke_key(key_id: Annotated[Identifier, Path(examples=["1f9c2ab4c0de"])], actor: Actor) -> KeyShown:
        """It is refused by every worker within a minute, and stays in the list. Again changes nothing."""
        return service.revoke(key_id, actor)

    return routes
