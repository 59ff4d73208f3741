"""`GET /transactions` and `GET /transactions/{transaction_id}`."""

from typing import Annotated

from fastapi import Depends, Path, Query

from api.filters import Filters, Identifier, once
from api.problems import problems
from api.routes import Router, needs
from api.scopes import Scope
from api.transactions.schemas import DecisionDetail, Page
from api.transactions.service import TransactionService


def router(service: TransactionService) -> Router:
    routes = Router(tags=["transactions"], dependencies=[Depends(once)])

    @routes.get("/transactions", summary="Decisions, newest first", responses=problems(400, 422, 503))
    @needs(Scope.READ)
    def list_transactions(query: Annotated[Filters, Query()]) -> Page:
        """Filtered decisions, page by page. A page never repeats or skips one, whatever arrives meanwhile.

        Repeated payments are left out unless `outcome=duplicate` asks for them.
        """
        return service.page(query)

    # An id may hold a slash, so the rest of the path is the id.
    @routes.get("/transactions/{transaction_id:path}", summary="One decision", responses=problems(404, 422, 503))
    @needs(Scope.READ)
    def get_transaction(transaction_id: Annotated[Identifier, Path(examples=["txn_123456"])]) -> DecisionDetail:
        """The first scored decision of the id, in its newest revision, with the features it was made from."""
        return service.get(transaction_id)

    return routes
