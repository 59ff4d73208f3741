"""The OpenAPI document: FastAPI's, with our problems in place of its own validation errors."""

from pathlib import Path
from typing import Any

import fastapi_offline
import starlette.routing
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import Mount

from api.detect.schemas import Detection
from api.problems import Finding, Problem, problems
from api.routes import GuardedPart, Router, declared, needs
from api.scopes import PUBLIC
from api.transactions.schemas import Decision, DecisionDetail

DESCRIPTION = (
    "Payments to be decided (`POST /transactions`), one decided now (`POST /detect`), all decisions that were made "
    "(`GET /transactions`, `GET /search`), why (`/explain`), by whom (`/users`) and as they come (`GET /stream`). "
    "Models that make them (`/models`), and what was learnt of payments later (`POST /labels`)."
)
KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "`vigil keys create`, or `POST /keys`. Not asked for where the service listens on loopback only.",
}
DOCS = "/docs"  # the document as a page; below it the files it needs
FILES = Path(fastapi_offline.__file__).parent / "static"
OWN_ERRORS = ("HTTPValidationError", "ValidationError")  # FastAPI's, which never leave this service


def describe(app: FastAPI) -> None:
    """Make `/openapi.json` say what is really answered, and to whom, and show it at DOCS. Raises ScopeUndeclared."""
    app.router.routes += page(app.title).routes
    declared(app)  # now, and not when somebody asks for the document
    app.description = DESCRIPTION
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            schemas = document["components"]["schemas"]
            for name in OWN_ERRORS:
                schemas.pop(name, None)
            for part in (Problem, Finding):
                schemas[part.__name__] = part.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas[part.__name__].pop("$defs", None)
            for model in (Decision, DecisionDetail, Detection):  # FastAPI drops every null of an example
                schemas[model.__name__] |= model.model_config["json_schema_extra"]
            document["components"]["securitySchemes"] = {"key": KEY}
            for (method, path), scope in declared(app).items():
                operation = document["paths"][path][method.lower()]
                _without_own_errors(operation["responses"])
                operation["security"] = [{"key": [scope]}] if scope else []
                refused = problems(401, 403, 429, 503) if scope else {}
                operation["responses"] |= {str(status): refusal for status, refusal in refused.items()}
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _without_own_errors(responses: dict[str, Any]) -> None:
    """FastAPI adds its validation answer to every path with parameters; ours has another media type."""
    for response in responses.values():
        content = response.get("content", {})
        if "HTTPValidationError" in str(content.get("application/json", "")):
            del content["application/json"]


def page(title: str) -> Router:
    """Swagger UI without the network FastAPI's own page takes it from."""
    routes = Router()

    @routes.get(DOCS, include_in_schema=False)
    @needs(PUBLIC)
    async def show() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=title,
            swagger_js_url=f"{DOCS}/swagger-ui-bundle.js",
            swagger_css_url=f"{DOCS}/swagger-ui.css",
            swagger_favicon_url=f"{DOCS}/favicon.png",
        )

    files = starlette.routing.Router([Mount(DOCS, StaticFiles(directory=FILES))])
    routes.routes.append(GuardedPart(DOCS, files, open_to_all=(f"{DOCS}/",)))
    return routes
