"""Sampled decisions of the live stream against the raw payments in Kafka: read, recompute, publish the rate."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.errors import BadConfiguration, ParityBroken
from feature_repo.settings import Settings
from pipelines import log
from pipelines.history import data_folder
from pipelines.live import Names, reading
from pipelines.online import Seed, snapshots_of
from pipelines.parity.recompute import Logged, Mismatch, Recomputation
from pipelines.replay import batches
from pipelines.requests import Cursor
from streaming.ledger import buried
from streaming.placement import placements, stretches
from training.registration import mlflow_client

SAMPLE = 1_000  # decided offsets drawn
EXAMPLES = 20  # mismatches told one by one

# Why a decision could not be checked.
NOT_RETAINED = "earlier payments of the user are no longer in the log"
HISTORY_GONE = "the history that seeded the states is not what it was"
STATES_REPLACED = "a history was replayed over the live states, but holds nothing of the user"
SNAPSHOT_GONE = "the snapshot of merchants was never kept"


@dataclass(frozen=True)
class Parity:
    """`checked` decisions were recomputed; `unchecked` counts the others of the sample by reason."""

    checked: int
    mismatches: list[Mismatch]
    unchecked: dict[str, int] = field(default_factory=dict)
    records_read: int = 0

    @property
    def mismatch_rate(self) -> float | None:
        """None where nothing could be checked."""
        return len(self.mismatches) / self.checked if self.checked else None

    def as_json(self) -> dict[str, Any]:
        return {
            "checked": self.checked,
            "mismatched": len(self.mismatches),
            "mismatch_rate": self.mismatch_rate,
            "unchecked": self.unchecked,
            "records_read": self.records_read,
            "mismatches": [one.as_json() for one in self.mismatches[:EXAMPLES]],
        }


def check(settings: Settings, sample: int = SAMPLE, seed: int | None = None) -> Parity:
    """Draw `sample` decided offsets, recompute those that are decisions with features, log the rate to MLflow.

    Reads the payments topic once, from its beginning or from where a replayed history took over. `seed` makes the draw
    repeatable. Raises BadConfiguration where nothing was decided, DependencyDown.
    """
    with reading(settings) as connection, connection.cursor() as cursor:
        seeded = Seed.newest(cursor, settings.topic)
        drawn = _drawn(settings, cursor, seeded, sample, np.random.default_rng(seed))
        found = _checked(settings, cursor, seeded, drawn)
    publish(settings, found)
    return found


def require(parity: Parity) -> None:
    """Raises ParityBroken where a single decision differs."""
    if parity.mismatches:
        raise ParityBroken(len(parity.mismatches), parity.checked)


def publish(settings: Settings, parity: Parity) -> None:
    """A run of its own in experiment MODEL-parity: the numbers as metrics, the rest as parity.json."""
    said = parity.as_json()
    numbers = {name: float(said[name]) for name in ("checked", "mismatched", "mismatch_rate") if said[name] is not None}
    numbers["unchecked"] = float(sum(parity.unchecked.values()))
    with mlflow_client(settings) as mlflow:
        client = mlflow.MlflowClient()
        name = f"{settings.model_name}-parity"
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        run_id = client.create_run(experiment_id, run_name=f"{datetime.now(UTC):%Y-%m-%d %H:%M}").info.run_id
        for metric, value in numbers.items():
            client.log_metric(run_id, f"parity_{metric}", value)
        client.log_dict(run_id, said, "parity.json")
        client.set_terminated(run_id)


# ---- what is checked --------------------------------------------------------------------------------


def _drawn(
    settings: Settings, cursor: Cursor, seeded: Seed | None, sample: int, random: np.random.Generator
) -> list[Logged]:
    """Decisions at offsets drawn from all that are decided and still in the log, those with features."""
    cursor.execute("SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %s", (settings.topic,))
    decided = dict(cursor.fetchall())
    kept = log.kept(settings).items()
    first = {partition: max(_start(seeded, partition), oldest) for partition, (oldest, _) in kept}
    spans = {partition: until - first.get(partition, 0) for partition, until in decided.items()}
    total = sum(span for span in spans.values() if span > 0)
    if not total:
        raise BadConfiguration(f"nothing of {settings.topic} is decided, or none of it is retained")
    chosen = np.sort(random.choice(total, min(sample, total), replace=False))
    ids: list[int] = []
    for partition, span in spans.items():
        here = chosen[chosen < max(span, 0)]
        ids += [partition << 48 | (first.get(partition, 0) + int(at)) << 4 | 1 for at in here]
        chosen = chosen[len(here) :] - max(span, 0)
    names = Names.logged(cursor, settings.topic)
    cursor.execute(
        "SELECT kafka_partition, kafka_offset, transaction_id, user_id, late, features, side_inputs"
        " FROM unnest(%s::bigint[]) AS drawn (id) JOIN decisions USING (id)"
        " WHERE kafka_topic = %s AND features IS NOT NULL ORDER BY id",
        (ids, settings.topic),
    )
    return [
        Logged(
            partition, offset, transaction_id, user_id, late, names.of(partition, offset),
            np.frombuffer(bytes(features), "<f4"), side_inputs,
        )
        for partition, offset, transaction_id, user_id, late, features, side_inputs in cursor
    ]  # fmt: skip


def _start(seeded: Seed | None, partition: int) -> int:
    """The first offset that counts: a history replayed over the live states stands for everything before it."""
    return seeded.positions.get(partition, 0) if seeded else 0


def _checked(settings: Settings, cursor: Cursor, seeded: Seed | None, drawn: list[Logged]) -> Parity:
    if seeded is not None and not seeded.stands(settings):
        return Parity(0, [], {HISTORY_GONE: len(drawn)} if drawn else {})
    snapshots = snapshots_of(cursor, {one.side_inputs for one in drawn if one.side_inputs})
    again = Recomputation(settings, drawn, snapshots)
    if seeded is not None:
        for payments, _, _ in batches(data_folder(settings, seeded.data), seeded.data):
            again.seed(payments)
    read = 0
    ends = {one.partition: one.offset + 1 for one in drawn}  # drawn in order: the last of each partition
    for stretch in stretches(placements(cursor, settings), seeded.positions if seeded else {}, ends):
        at = (stretch.partition, stretch.first, stretch.until)
        left_out = buried(cursor, settings.topic, *at)
        for offsets, values, ingested in log.records(settings, *at):
            kept = ~np.isin(offsets, left_out)
            again.take(stretch, offsets[kept], values.filter(pa.array(kept)), ingested[kept])
            read += len(offsets)
    gone = _not_retained(settings, cursor, seeded, drawn)  # after reading: what was deleted meanwhile counts too
    replaced = any(seeded.positions.values()) if seeded else False
    unchecked: Counter[str] = Counter()
    checked = []
    for one in drawn:
        if one.user_id in gone:
            unchecked[NOT_RETAINED] += 1
        elif replaced and one.user_id not in again.seeded:
            unchecked[STATES_REPLACED] += 1
        elif one.side_inputs and one.side_inputs not in snapshots:
            unchecked[SNAPSHOT_GONE] += 1
        else:
            checked.append(one)
    return Parity(len(checked), again.mismatches(checked), dict(unchecked), read)


def _not_retained(settings: Settings, cursor: Cursor, seeded: Seed | None, drawn: list[Logged]) -> set[str]:
    """Users of whom a payment was decided whose record Kafka has deleted since."""
    gone: set[str] = set()
    for partition, (oldest, _) in log.kept(settings).items():
        users = sorted({one.user_id for one in drawn})  # before a growth they may have lain in any
        if users and oldest > _start(seeded, partition):
            cursor.execute(
                "SELECT DISTINCT user_id FROM decisions WHERE user_id = ANY(%s) AND kafka_topic = %s"
                " AND kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s",
                (users, settings.topic, partition, _start(seeded, partition), oldest),
            )
            gone.update(user for (user,) in cursor)
    return gone
