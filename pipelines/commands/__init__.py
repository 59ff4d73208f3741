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
)

AREAS: tuple[ModuleType, ...] = (
    stack, data, demo, features, model, challenger, drift, live, lifecycle, stream, switch, state, operate, keys,
    bench,
)  # fmt: skip
