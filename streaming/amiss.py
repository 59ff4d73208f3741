"""What keeps the stream from its whole work, in words for an operator."""

from collections.abc import Iterator

from feature_repo.conditions import Condition

UNPUBLISHED_S = 15.0  # longer than a batch takes to publish what it decided
SERVICES = {"PostgreSQL": "postgres", "Redis": "redis", "Kafka": "kafka"}  # as `vigil status` names them


def amiss(
    *, waits_for: str | None, model_down: bool, model_failed: bool, sinks_down: bool, unpublished: int, age_s: float
) -> Iterator[Condition]:
    """`waits_for` is the server a batch is held for; `unpublished` ranges are not on Kafka, the oldest for `age_s`."""
    if waits_for:
        server = SERVICES.get(waits_for, waits_for)
        yield Condition(
            "STREAM_HOLDS",
            server,
            f"payments wait for {waits_for}, none is skipped",
            f"vigil logs {server}, vigil restart {server}; the stream goes on by itself",
        )
    if model_down:
        yield Condition(
            "MODEL_DOWN",
            "serving",
            "the model service does not answer: payments go to review without a score",
            "vigil logs serving, vigil restart serving; scoring comes back by itself, then vigil backfill",
        )
    if model_failed:
        yield Condition(
            "MODEL_FAILED",
            "serving",
            "the model's answers cannot be used: payments go to review without a score",
            "vigil logs stream says what is wrong with them; vigil rollback, then vigil backfill",
        )
    if unpublished and (sinks_down or age_s > UNPUBLISHED_S):
        yield Condition(
            "PUBLISH_BEHIND",
            "kafka",
            f"{unpublished} decided ranges are not on Kafka yet, so search does not know them",
            "vigil logs stream names what Kafka refuses; once it takes them they are published without further ado",
        )
