"""How long the parser takes per message, on one core."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo import parser
from pipelines.bench.machine import Machine, describe

DEFECTS = 0.02  # share of messages that must become dead letters
_REPEATS = 9
_SINGLES = 200
_START = 1_700_000_000  # seconds since 1970 of the first payment
_PLACES = ("New York", "São Paulo", "Lisbon", "Tokyo", "Berlin", "Nairobi", "Sydney", "Austin")
_BROKEN: tuple[Callable[[bytes], bytes], ...] = (
    lambda message: message[:-9],
    lambda message: message.replace(b'"amount": ', b'"amount": -'),
    lambda message: message.replace(b'Z"', b'"'),
    lambda message: message.replace(b'"user_id"', b'"user_name"'),
    lambda message: message.replace(b'"location": "', b'"location": "4111 1111 1111 1111 '),
)


def messages(rows: int, seed: int = 1) -> list[bytes]:
    """Payments as a producer would send them, `DEFECTS` of them broken in one of five ways."""
    random = np.random.default_rng(seed)
    made = [
        json.dumps(
            {
                "transaction_id": f"txn_{random.integers(1 << 62):016x}",
                "user_id": f"user_{random.integers(200_000)}",
                "amount": round(float(random.lognormal(3.5, 1.2)) + 0.01, 2),
                "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_START + row)),
                "merchant": f"Merchant {random.integers(5_000)}",
                "location": _PLACES[random.integers(len(_PLACES))],
                "payment_method": ("credit_card", "debit_card", "wallet")[random.integers(3)],
            }
        ).encode()
        for row in range(rows)
    ]
    for position, row in enumerate(random.permutation(rows)[: round(rows * DEFECTS)].tolist()):
        made[row] = _BROKEN[position % len(_BROKEN)](made[row])
    return made


@dataclass(frozen=True)
class ParserBench:
    """Times are of this process's CPU, so that a busy machine disturbs them less."""

    rows: int
    bytes_per_message: int
    payments: int
    rejects: int
    repeats: int
    us_per_message: float  # of the best run: what disturbs a run only ever makes it slower
    us_per_message_median: float
    us_parse_one: float  # a message parsed alone, as /detect does
    warm_s: float  # until the compiled code was loaded, or compiled where it was not on disk
    machine: Machine

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def bench_parser(rows: int = 100_000) -> ParserBench:
    """Parse one batch of so many messages, several times, on one core."""
    values = pa.array(messages(rows), pa.binary())
    broker_us = np.full(rows, (_START + rows) * 1_000_000)
    begun = time.perf_counter()
    parser.warm()
    warm_s = time.perf_counter() - begun
    parsed = parser.parse(values, broker_us)
    took = [_cpu_us(lambda: parser.parse(values, broker_us)) / rows for _ in range(_REPEATS)]
    alone = [_cpu_us(lambda: parser.parse_one(parser.SAMPLE, int(broker_us[0]))) for _ in range(_SINGLES)]
    return ParserBench(
        rows=rows,
        bytes_per_message=round(values.nbytes / rows),
        payments=len(parsed.rows),
        rejects=len(parsed.rejects.rows),
        repeats=_REPEATS,
        us_per_message=round(min(took), 3),
        us_per_message_median=round(float(np.median(took)), 3),
        us_parse_one=round(float(np.median(alone)), 1),
        warm_s=round(warm_s, 2),
        machine=describe(),
    )


def _cpu_us(call: Callable[[], object]) -> float:
    begun = time.process_time_ns()
    call()
    return (time.process_time_ns() - begun) / 1_000
