"""The areas of the command line, in the order of `vigil --help`."""

from types import ModuleType

from pipelines.commands import (
    bench,
    challenger,
    data,
    demo,
    drift,
    features,
    lifecycle,
    live,
    model,
    operate,
    stack,
    state,
    stream,
    topic,
)

AREAS: tuple[ModuleType, ...] = (
    stack, data, demo, features, model, challenger, drift, live, lifecycle, stream, topic, state, operate, bench
)  # fmt: skip
