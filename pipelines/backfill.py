"""Scores what the stream had to decide without a model, from the features it logged: revision 2 of those decisions.

Revision 1 stays as it was decided. A lot is one transaction: the new rows, an audit row, and the mark that their
range is to be published again, which is done from PostgreSQL once its lots are through: by us, or where we are cut
short by the next backfill or the stream. What has a revision 2 gets no other.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg2.extensions
from psycopg2.extras import execute_values

from feature_repo.errors import DependencyDown
from feature_repo.features import NAMES, REASONS, WIDTH
from feature_repo.settings import Settings
from pipelines.requests import audit
from serving.client import ModelClient
from serving.decision import APPROVE, DECISIONS, RULESET, decide
from serving.wire import NO_REASON
from streaming.decisions import CURRENCY_UNSUPPORTED, NOT_UNSCORED, UNSCORED_REASONS, row_id
from streaming.ledger import Ledger
from streaming.publish import Publisher
from streaming.repair import publish_decided, publish_unpublished
from streaming.scoring import Pin, Scorer, Scores
from training.data import midnight

log = logging.getLogger("vigil.backfill")

LATE_REVISION = 2
LOT_ROWS = 10_000
BACKFILL_LOCK = 0x56474246  # "VGBF": held to the end of a lot, so that two backfills never score the same rows

RANGES = """
    SELECT kafka_partition, first_offset, until_offset, feature_names FROM ledger_ranges
    WHERE kafka_topic = %(topic)s AND unscored > 0 ORDER BY kafka_partition, first_offset
"""
WAITING = """
    SELECT d.id, d.features FROM decisions d
    LEFT JOIN (SELECT id FROM decisions WHERE id >= %(low)s AND id < %(high)s AND kafka_topic = %(topic)s
        AND revision = 2) AS later ON later.id = d.id + 1
    WHERE d.id >= %(low)s AND d.id < %(high)s AND d.kafka_topic = %(topic)s AND d.revision = 1 AND later.id IS NULL
        AND d.outcome = 'unscored' AND d.unscored_reason <> %(never)s AND d.features IS NOT NULL
        AND d.ingested_at >= %(start)s AND d.ingested_at < %(end)s
    ORDER BY d.id LIMIT %(rows)s
"""
KEPT = """kafka_topic, kafka_partition, kafka_offset, transaction_id, user_id, amount, currency, event_time, merchant,
    location, payment_method, late, ingested_at, features, side_inputs"""
APPEND = f"""
    INSERT INTO decisions (id, revision, outcome, anomaly_score, is_anomaly, anomaly_reasons, reason_shares, decision,
        model_version, feature_set_id, ruleset_version, processed_at, {KEPT})
    SELECT d.id + 1, {LATE_REVISION}, 'scored', v.score, v.is_anomaly, v.reasons, v.shares, v.decision, v.version,
        v.feature_set, v.ruleset, v.processed, {", ".join(f"d.{name.strip()}" for name in KEPT.split(","))}
    FROM (VALUES %s) AS v (id, score, is_anomaly, reasons, shares, decision, version, feature_set, ruleset, processed)
    JOIN decisions d ON d.id = v.id
    WHERE d.id >= {{low}} AND d.id < {{high}} AND d.kafka_topic = {{topic}} AND d.revision = 1
    RETURNING is_anomaly
"""
TEMPLATE = "(%s, %s::real, %s, %s::text[], %s::real[], %s, %s, %s, %s, %s::timestamptz)"
UNPUBLISH = """
    UPDATE ledger_ranges SET published_at = NULL WHERE kafka_topic = %s AND kafka_partition = %s AND first_offset = %s
"""


@dataclass
class Backfilled:
    """What a run did. `republished` are ranges an earlier run, or the stream, had left unpublished."""

    scored: int = 0
    flagged: int = 0
    without_features: int = 0  # logged before a feature existed that the champion consumes: they stay unscored
    republished: int = 0
    versions: Counter[str] = field(default_factory=Counter)  # rows by model version

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "versions": dict(self.versions)}


@dataclass(frozen=True)
class Range:
    """A committed range with payments that have no score; `names` is what its vectors hold."""

    partition: int
    first: int
    until: int
    names: tuple[str, ...]


def run(
    settings: Settings,
    actor: str,
    first: date | None = None,
    last: date | None = None,
    progress: Callable[[int], None] = lambda scored: None,
) -> Backfilled:
    """Score with the champion what arrived on the days `first` to `last` (inclusive, UTC; default: all).

    Raises ModelLoading where there is no champion, FeatureSetMismatch where this build cannot feed it, DependencyDown.
    """
    with ModelClient(settings.serving_url, settings.model_timeout_s) as client:
        models = client.models()
        pin = Pin.of(models.get(models.champion))
        backfill = Backfill(
            settings,
            Ledger(settings.postgres_dsn, settings.topic),
            Publisher(settings.kafka_bootstrap, settings.publish_timeout_s),
            Scorer(client, settings.score_chunk_rows, settings.model_timeout_s),
            actor,
        )
        return backfill.run(pin, first, last, progress)


class Backfill:
    """`run` over stores and a scorer that are passed in."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        publisher: Publisher,
        scorer: Callable[[npt.NDArray[np.float32], Pin | None], Scores],
        actor: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._publisher = publisher
        self._scorer = scorer
        self._actor = actor
        self._clock = clock
        self._done = Backfilled()

    def run(
        self,
        pin: Pin,
        first: date | None = None,
        last: date | None = None,
        progress: Callable[[int], None] = lambda scored: None,
    ) -> Backfilled:
        """Publish what was left unpublished, then range by range."""
        self._done.republished = publish_unpublished(self._settings, self._ledger, self._publisher)
        start = midnight(first or date.min)
        end = midnight(last + timedelta(days=1)) if last else "infinity"
        with self._ledger.transaction() as cursor:
            cursor.execute(RANGES, {"topic": self._settings.topic})
            ranges = [Range(p, low, until, tuple(names)) for p, low, until, names in cursor.fetchall()]
        for one in ranges:
            self._range(one, pin, {"start": start, "end": end}, progress)
        return self._done

    def _range(self, one: Range, pin: Pin, window: dict[str, Any], progress: Callable[[int], None]) -> None:
        low, high = row_id(one.partition, np.array([one.first, one.until]), 0).tolist()
        appended = False
        while True:
            with self._ledger.transaction() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (BACKFILL_LOCK,))
                waiting = self._waiting(cursor, low, high, window)
                appended |= bool(waiting) and self._lot(cursor, one, waiting, pin)
            progress(self._done.scored)
            if len(waiting) < LOT_ROWS:
                break
            low = waiting[-1][0] + 1
        if appended:
            publish_decided(self._settings, self._ledger, self._publisher, one.partition, one.first, one.until)

    def _waiting(
        self, cursor: psycopg2.extensions.cursor, low: int, high: int, window: dict[str, Any]
    ) -> list[tuple[int, bytes]]:
        """Ids and vectors of decisions that wait for a score."""
        never = UNSCORED_REASONS[CURRENCY_UNSUPPORTED]
        values = {"low": low, "high": high, "topic": self._settings.topic, "never": never, "rows": LOT_ROWS}
        cursor.execute(WAITING, {**values, **window})
        return cursor.fetchall()

    def _lot(
        self, cursor: psycopg2.extensions.cursor, one: Range, waiting: Sequence[tuple[int, bytes]], pin: Pin
    ) -> bool:
        """Score and append one lot; answers whether there was anything to append."""
        ids = np.array([row for row, _ in waiting], np.int64)
        features = _by_position([vector for _, vector in waiting], one.names)
        fit = np.isfinite(features[:, pin.columns]).all(axis=1)
        self._done.without_features += int((~fit).sum())
        if not fit.any():
            return False
        scores = self._scorer(features[fit], pin)
        silent = int((scores.unscored != NOT_UNSCORED).sum())
        if silent or scores.pin is None:
            raise DependencyDown(
                "model service", self._settings.serving_url, f"{silent} payments got no score; what was scored stays"
            )
        values = self._values(ids[fit], scores, scores.pin)
        topic, low, high = self._settings.topic, int(ids[0]), int(ids[-1]) + 1
        statement = APPEND.format(low=low, high=high, topic=cursor.mogrify("%s", (topic,)).decode().replace("%", "%%"))
        found = execute_values(cursor, statement, values, TEMPLATE, page_size=LOT_ROWS, fetch=True)
        cursor.execute(UNPUBLISH, (topic, one.partition, one.first))
        after = {"scored": len(found), "model_version": scores.pin.version}
        audit(cursor, self._actor, "backfill", f"{topic}-{one.partition} {one.first}-{one.until - 1}", None, after)
        self._done.scored += len(found)
        self._done.versions[scores.pin.version] += len(found)
        self._done.flagged += sum(flagged for (flagged,) in found)
        return True

    def _values(self, ids: npt.NDArray[np.int64], scores: Scores, pin: Pin) -> list[tuple[Any, ...]]:
        """The verdicts, in the order of TEMPLATE."""
        score = scores.records["score"]
        every = np.ones(len(ids), np.bool_)
        is_anomaly, decision = decide(score, every, pin.threshold, self._settings.reject_threshold)
        explained = is_anomaly | (decision != APPROVE)
        processed = datetime.fromtimestamp(self._clock(), UTC)
        values = []
        for row in range(len(ids)):
            reasons: list[str] | None = None
            shares: list[float] | None = None
            if explained[row]:
                codes = scores.records["reasons"][row]
                reasons = [REASONS[code].value for code in codes if code != NO_REASON]
                shares = scores.records["shares"][row][: len(reasons)].tolist()
            values.append(
                (
                    int(ids[row]), float(score[row]), bool(is_anomaly[row]), reasons, shares, DECISIONS[decision[row]],
                    pin.version, pin.feature_set_id, RULESET, processed,
                )
            )  # fmt: skip
        return values


def _by_position(vectors: Sequence[bytes], names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Logged vectors as float32[n, WIDTH] in today's order of features; NaN where one was not logged."""
    logged = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), len(names))
    features = np.full((len(vectors), WIDTH), np.nan, np.float32)
    for at, name in enumerate(NAMES):
        if name in names:
            features[:, at] = logged[:, names.index(name)]
    return features
