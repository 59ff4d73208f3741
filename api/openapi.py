"""The OpenAPI document: FastAPI's, with our problems in place of its own validation errors."""

from typing import Any

from fastapi import FastAPI

from api.detect.schemas import Detection
from api.problems import Finding, Problem, problems
from api.routes import declared
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
OWN_ERRORS = ("HTTPValidationError", "ValidationError")  # FastAPI's, which never leave this service


def describe(app: FastAPI) -> None:
    """Make `/openapi.json` say what is really answered, and to whom. Raises ScopeUndeclared."""
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
