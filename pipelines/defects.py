"""Defects of a stream at known rates, so that a test can compare outcomes with messages."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.codes import Code
from feature_repo.errors import BadConfiguration
from pipelines.messages import encode

NEAR = 16  # a repeat comes at most this many payments later: well within a user's last 32
LATEST_US = 3_600_000_000  # a late payment is at most this far behind the user's newest
NOT_SENT = np.iinfo(np.int64).min
_US = pa.timestamp("us", tz="UTC")

Message = tuple[bytes | None, bytes | None]  # value, key


@dataclass(frozen=True)
class Defects:
    """Shares of payments. Malformed and duplicate messages come on top of the payments, the others change one."""

    malformed: float = 0.0  # a damaged copy of a payment, under its key
    duplicate: float = 0.0  # the same bytes again
    unkeyed: float = 0.0  # without a key, so in any partition
    late: float = 0.0  # event time behind the newest one sent of the same user
    seed: int = 0

    @classmethod
    def of(cls, text: str) -> "Defects":
        """`standard`, or pairs like `malformed=0.001,late=0.01`. Raises BadConfiguration."""
        if text == "standard":
            return STANDARD
        known = [field.name for field in fields(cls)]
        given: dict[str, Any] = {}
        for pair in text.split(","):
            name, _, value = pair.partition("=")
            try:
                given[name.strip()] = int(value) if name.strip() == "seed" else float(value)
            except ValueError:
                raise BadConfiguration(f"{pair!r} is no defect with its rate, such as late=0.01") from None
            if name.strip() not in known:
                raise BadConfiguration(f"there is no defect {name!r}; there are {', '.join(known)}")
            if name.strip() != "seed" and not 0 <= given[name.strip()] <= 1:
                raise BadConfiguration(f"the rate of {name} must be between 0 and 1, not {value}")
        return cls(**given)


STANDARD = Defects(malformed=0.001, duplicate=0.002, unkeyed=0.001, late=0.002)


def _edited(edit: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def apply(message: bytes) -> bytes:
        payment = json.loads(message)
        edit(payment)
        return json.dumps(payment).encode()

    return apply


def _set(name: str, value: Any) -> Callable[[bytes], bytes]:
    return _edited(lambda payment: payment.update({name: value}))


# How a message is damaged, and the code the parser must give it. Order is part of the seed's meaning.
DAMAGES: tuple[tuple[Code, Callable[[bytes], bytes | None]], ...] = (
    (Code.NOT_JSON, lambda message: message[: len(message) // 2]),
    (Code.NOT_JSON, lambda message: message + b"}"),
    (Code.NOT_UTF8, lambda message: message.replace(b'"merchant":"', b'"merchant":"\xff', 1)),
    (Code.NOT_OBJECT, lambda message: b"[" + message + b"]"),
    (Code.EMPTY, lambda message: b""),
    (Code.TOMBSTONE, lambda message: None),
    (Code.TOO_DEEP, lambda message: message[:-1] + b',"x":' + b"[" * 20 + b"]" * 20 + b"}"),
    (Code.DUPLICATE_KEY, lambda message: message[:-1] + b',"merchant":"Another"}'),
    (Code.NUMBER_NOT_FINITE, _set("amount", float("nan"))),
    (Code.INVALID_UNICODE, _set("merchant", "half \ud83d")),
    (Code.FIELD_MISSING, _edited(lambda payment: payment.pop("merchant"))),
    (Code.TYPE, _set("amount", "12.50")),
    (Code.RANGE, _set("amount", -12.5)),
    (Code.PRECISION, _set("amount", 12.123456)),
    (Code.ID_FORMAT, _set("transaction_id", "  ")),
    (Code.TIME_NO_ZONE, _set("timestamp", "2025-06-01T12:00:00")),
    (Code.TIME_INVALID, _set("timestamp", "2025-02-30T12:00:00Z")),
    (Code.TIME_FUTURE, _set("timestamp", "2999-01-01T00:00:00Z")),
    (Code.PAN_DETECTED, _set("merchant", "card 4111 1111 1111 1111")),
)


@dataclass
class Counts:
    """What was put into the stream so far. `payments` are distinct good ones, late and unkeyed included."""

    payments: int = 0
    malformed: Counter[str] = field(default_factory=Counter)  # by the parser's code
    duplicates: int = 0
    unkeyed: int = 0
    late: int = 0  # strictly behind the user's newest one sent before, by a defect or by themselves
    first_event_us: int | None = None
    last_event_us: int | None = None


class Newest:
    """Newest event time sent of every user so far."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._times: npt.NDArray[np.int64] = np.full(1_024, NOT_SENT)

    def pass_on(
        self, users: pa.StringArray, times: npt.NDArray[np.int64], behind: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """bool[n]: payments behind their user's newest. Those with `behind` > 0 are first moved so far behind it."""
        encoded = users.dictionary_encode()
        slots = np.array([self._slots.setdefault(user, len(self._slots)) for user in encoded.dictionary.to_pylist()])
        while len(self._times) < len(self._slots):
            self._times = np.concatenate([self._times, np.full(len(self._times), NOT_SENT)])
        return _pass_on(slots[encoded.indices.to_numpy()], times, behind, self._times)


@numba.njit(cache=True, nogil=True)
def _pass_on(
    slots: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    behind: npt.NDArray[np.int64],
    newest: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    late = np.zeros(len(slots), np.bool_)
    for i in range(len(slots)):
        known = newest[slots[i]]
        if behind[i] > 0 and known != NOT_SENT:
            times[i] = known - behind[i]
        late[i] = times[i] < known
        newest[slots[i]] = max(known, times[i])
    return late


def messages(batches: Iterator[pa.RecordBatch], defects: Defects, counts: Counts) -> Iterator[list[Message]]:
    """Payments as messages in the order to send, with the defects; `counts` is kept up to date."""
    rng = np.random.default_rng(defects.seed)
    newest = Newest()
    for batch in batches:
        size = batch.num_rows
        draw = rng.random((4, size))
        late = draw[0] < defects.late
        unkeyed = (draw[1] < defects.unkeyed) & ~late
        behind = np.where(late, np.exp(rng.uniform(np.log(1e6), np.log(LATEST_US), size)), 0).astype(np.int64)
        times = batch["event_time"].cast(pa.int64()).to_numpy().copy()
        counts.late += int(newest.pass_on(batch["user_id"], times, behind).sum())
        if late.any():
            at = batch.schema.get_field_index("event_time")
            batch = batch.set_column(at, batch.schema.field(at), pa.array(times).cast(_US))
        values: list[bytes] = encode(batch).to_pylist()
        keys: list[bytes] = batch["user_id"].cast(pa.binary()).to_pylist()
        good: list[Message] = list(zip(values, keys, strict=True))
        for row in np.flatnonzero(unkeyed).tolist():
            good[row] = (values[row], None)
        again = np.flatnonzero((draw[2] < defects.duplicate) & ~unkeyed)
        damaged = np.flatnonzero(draw[3] < defects.malformed)
        wrong = _damaged(damaged, good, keys, rng, counts)
        _count(counts, times, int(unkeyed.sum()), len(again))
        yield _inserted(good, again, damaged, wrong, rng)


def _damaged(
    chosen: npt.NDArray[np.intp], good: list[Message], keys: list[bytes], rng: np.random.Generator, counts: Counts
) -> list[Message]:
    wrong: list[Message] = []
    for row, kind in zip(chosen.tolist(), rng.integers(0, len(DAMAGES), len(chosen)).tolist(), strict=True):
        code, damage = DAMAGES[kind]
        wrong.append((damage(good[row][0] or b""), keys[row]))
        counts.malformed[code.value] += 1
    return wrong


def _inserted(
    good: list[Message],
    again: npt.NDArray[np.intp],
    damaged: npt.NDArray[np.intp],
    wrong: list[Message],
    rng: np.random.Generator,
) -> list[Message]:
    """Repeats up to NEAR payments after their first time, damaged copies right after the payment they copy."""
    if not len(again) and not wrong:
        return good
    everything = good + [good[row] for row in again.tolist()] + wrong
    after = np.minimum(again + rng.integers(0, NEAR, len(again)), len(good) - 1)
    place = np.concatenate([np.arange(len(good)), after, damaged])
    return [everything[position] for position in np.argsort(place, kind="stable").tolist()]


def _count(counts: Counts, times: npt.NDArray[np.int64], unkeyed: int, duplicates: int) -> None:
    counts.payments += len(times)
    counts.unkeyed += unkeyed
    counts.duplicates += duplicates
    first, last = int(times.min()), int(times.max())
    counts.first_event_us = first if counts.first_event_us is None else min(first, counts.first_event_us)
    counts.last_event_us = last if counts.last_event_us is None else max(last, counts.last_event_us)
