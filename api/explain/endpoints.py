"""`GET /transactions/{transaction_id}/explain`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from api.explain.schemas import Explanation
from api.explain.service import ExplainService
from api.filters import Identifier, once
from api.problems import problems


def router(service: ExplainService) -> APIRouter:
    routes = APIRouter(tags=["transactions"], dependencies=[Depends(once)])

    @routes.get(
        "/transactions/{transaction_id:path}/explain",
        summary="Why it was decided so",
        responses=problems(404, 409, 422, 503),
    )
    def explain_transaction(transaction_id: Annotated[Identifier, Path(examples=["txn_123456"])]) -> Explanation:
        """The features at the time of the decision beside the user's usual ones, what each contributed, and the score
        the same model gives with the reasons' features at their usual values.
        """
        return service.explain(transaction_id)

    return routes
