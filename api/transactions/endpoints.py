"""`GET /transactions`, its exports, and `GET /transactions/{transaction_id}`."""

from typing import Annotated, Literal

from fastapi import Depends, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from api.filters import Identifier, once
from api.problems import problems
from api.quick import QuickRoute, asked, documented
from api.routes import Router, needs
from api.scopes import Scope
from api.streamed import Streamed
from api.transactions.schemas import DecisionDetail, ExportFilters, ListFilters, Page
from api.transactions.service import TransactionService

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}


def router(service: TransactionService) -> Router:
    routes = Router(tags=["transactions"])

    @needs(Scope.READ)
    async def list_transactions(request: Request) -> Response:
        """Filtered decisions, page by page. A page never repeats or skips one, whatever arrives meanwhile; it may
        hold fewer than `limit`, and only `next_cursor` says whether more follow.

        Repeated payments are left out unless `outcome=duplicate` asks for them.
        """
        return Response(await service.page(asked(ListFilters, request)), media_type="application/json")

    routes.add_api_route(
        "/transactions",
        list_transactions,
        route_class_override=QuickRoute,
        summary="Decisions, newest first",
        response_model=Page,
        responses=problems(400, 422, 503),
        openapi_extra=documented(ListFilters),
    )

    @routes.get(
        "/transactions.{form}",
        summary="Decisions as a file",
        dependencies=[Depends(once)],
        response_class=StreamingResponse,
        responses={200: {"content": {name: {} for name in MEDIA_TYPES.values()}}, **problems(422, 503)},
    )
    @needs(Scope.READ)
    async def export_transactions(
        form: Annotated[Literal["csv", "ndjson"], Path()], query: Annotated[ExportFilters, Query()]
    ) -> StreamingResponse:
        """All that the list holds, as CSV or as a JSON object a line, while it is read: of any size. A file that was
        cut off by an error ends without the last chunk of its encoding, which clients report.

        In CSV, text that a spreadsheet would run as a formula has a `'` before it.
        """
        headers = {"Content-Disposition": f'attachment; filename="transactions.{form}"'}
        pieces, held = await service.export(query, form)
        return Streamed(pieces, held, headers=headers, media_type=MEDIA_TYPES[form])

    # An id may hold a slash, so the rest of the path is the id.
    @routes.get(
        "/transactions/{transaction_id:path}",
        summary="One decision",
        dependencies=[Depends(once)],
        responses=problems(404, 422, 503),
    )
    @needs(Scope.READ)
    def get_transaction(transaction_id: Annotated[Identifier, Path(examples=["txn_123456"])]) -> DecisionDetail:
        """The first scored decision of the id, in its newest revision, with the features it was made from."""
        return service.get(transaction_id)

    return routes
