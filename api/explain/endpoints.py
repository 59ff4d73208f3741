"""`GET /transactions/{transaction_id}/explain`."""

from typing import Annotated

from fastapi import Depends, Path

from api.explain.schemas import Explanation
from api.explain.service import ExplainService
from api.filters import Identifier, once
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope


def router(service: ExplainService) -> Router:
    routes = Router(tags=["transactions"], dependencies=[Depends(once)])

    @routes.get(
        "/transactions/{transaction_id:path}/explain",
        summary="Why it was decided so",
        responses=problems(404, 409, 422, 503),
    )
    @needs(Scope.READ)
    def explain_transaction(transaction_id: Annotated[Identifier, Path(examples=["txn_123456"])]) -> Explanation:
        """The features at the time of the decision beside the user's usual ones, what each contributed, and the score
        the same model gives with the reasons' features at their usual values.
        """
        return service.explain(transaction_id)

    return routes
