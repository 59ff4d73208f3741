"""The areas of the command line, in the order of `vigil --help`."""

from types import ModuleType

from pipelines.commands import (
    bench,
    challenger,
    data,
    demo,
    drift,
    features,
    keys,
    lifecycle,
    live,
    model,
    operate,
    stack,
    state,
    stream,
    switch,
    topic,
)

AREAS: tuple[ModuleType, ...] = (
    stack, data, demo, features, model, challenger, drift, live, lifecycle, stream, switch, topic, state, operate, keys,
    bench,
)  # fmt: skip
