"""What the messages on our topics hold: a JSON Schema per topic, and examples named after what they show.

`topics.yaml` says who owns a topic, which version its contract has and what a change may do.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Contract:
    """Of one topic's messages."""

    topic: str
    owner: str  # whom to ask before relying on more than is written here
    description: str
    key: str  # what a message's key is
    version: int
    compatibility: str  # what the next version may do
    schema: dict[str, Any]
    examples: dict[str, bytes]  # name of what it shows -> the message's value as it is on the wire


@cache
def contracts() -> dict[str, Contract]:
    """All contracts by topic. Read from the package once."""
    folder = files(__name__)
    headers = yaml.safe_load((folder / "topics.yaml").read_text(encoding="utf-8"))
    return {topic: _contract(folder, topic, header) for topic, header in headers.items()}


def _contract(folder: Traversable, topic: str, header: dict[str, Any]) -> Contract:
    shown = sorted((folder / "examples" / topic).iterdir(), key=lambda file: file.name)
    schema = json.loads((folder / f"{topic}.schema.json").read_text(encoding="utf-8"))
    return Contract(
        topic=topic,
        schema=schema,
        examples={file.name.removesuffix(".json"): file.read_bytes() for file in shown},
        **header,
    )
