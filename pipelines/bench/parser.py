"""How long the parser takes per message, on one core."""

import json
import time
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo import parser
from pipelines.bench import machine

DEFECTS = 0.02  # share of messages that must become dead letters
_REPEATS = 7  # the best is reported: what disturbs a run only ever makes it slower
_START = 1_700_000_000  # seconds since 1970 of the first payment
_PLACES = ("New York", "São Paulo", "Lisbon", "Tokyo", "Berlin", "Nairobi", "Sydney", "Austin")
_BROKEN = (
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


def bench_parser(rows: int = 100_000) -> dict[str, Any]:
    """Parse one batch of so many messages, several times; microseconds of this core per message."""
    values = pa.array(messages(rows), pa.binary())
    broker = np.full(rows, (_START + rows) * 1_000_000)
    before = time.perf_counter()
    parser.warm()
    warm_s = time.perf_counter() - before
    took = []
    for _ in range(_REPEATS):
        before = time.process_time()
        parsed = parser.parse(values, broker)
        took.append((time.process_time() - before) / rows * 1e6)
    single = parser.SAMPLE
    before = time.process_time()
    for _ in range(200):
        parser.parse_one(single, broker[0])
    one = (time.process_time() - before) / 200 * 1e6
    return {
        "rows": rows,
        "bytes_per_message": round(values.nbytes / rows),
        "payments": len(parsed.rows),
        "rejects": len(parsed.rejects.rows),
        "us_per_message": round(min(took), 3),
        "us_per_message_median": round(float(np.median(took)), 3),
        "us_parse_one": round(one, 1),
        "warm_s": round(warm_s, 2),
        "machine": machine.describe().as_dict(),
    }
