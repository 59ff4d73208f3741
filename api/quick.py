"""A path that is asked so often that FastAPI's own work on a request would be most of it.

It stands in the OpenAPI document like any other; its endpoint takes the request alone and answers with a Response.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError

from api.errors import ParameterTwice, of_validation
from api.routes import GuardedRoute

Asked = TypeVar("Asked", bound=BaseModel)


def asked(model: type[Asked], request: Request) -> Asked:
    """The query of a request. Raises ParameterTwice, CursorInvalid, QueryInvalid."""
    items = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    given = dict(items)
    if len(given) < len(items):
        raise ParameterTwice
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise of_validation(error.errors(), ["query"]) from error


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a path that reads its query by `asked`."""
    schema = model.model_json_schema()
    parameters = []
    for name, field in schema["properties"].items():
        described = json.dumps(field)
        for defined, definition in schema.get("$defs", {}).items():
            described = described.replace(json.dumps({"$ref": f"#/$defs/{defined}"}), json.dumps(definition))
        read: dict[str, Any] = json.loads(described)
        description = read.pop("description")
        parameters.append({"name": name, "in": "query", "required": False, "schema": read, "description": description})
    return {"parameters": parameters}


class QuickRoute(GuardedRoute):
    """Calls its endpoint with the request, and looks for no dependency of it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            answer: Response = await self.endpoint(request)
            return answer

        return handle
