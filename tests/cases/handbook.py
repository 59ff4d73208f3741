"""Payments of the kind the Fraud Detection Handbook simulates (Le Borgne et al. 2022, chapter 3), our own generator.

Customers pay at terminals near them on a square of 100 by 100, each at an own rate and mean amount. Three frauds: any
amount over 220; two terminals a day are compromised for 28 days; three customers a day are for 14, and a third of
their payments is five times as large. One place and one payment method only; every fraud is reported a week later.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.transaction import HISTORY_SCHEMA

CUSTOMERS, TERMINALS, RADIUS = 5_000, 10_000, 5.0
DEAR = 220.0
TERMINALS_A_DAY, TERMINAL_DAYS = 2, 28
CUSTOMERS_A_DAY, CUSTOMER_DAYS, TAKEN, DEARER = 3, 14, 3, 5.0  # one payment in TAKEN, DEARER times as large
REPORTED_AFTER = 7  # days
DAY_US = 86_400_000_000
FIRST_US = int(np.datetime64("2019-04-01", "us").astype(np.int64))


def write(path: Path, days: int, seed: int) -> None:
    """A history of HISTORY_SCHEMA in order of arrival; `is_fraud` is the truth."""
    random = np.random.default_rng(seed)
    customer, terminal, time = _payments(random, days)
    mean = random.uniform(5, 100, CUSTOMERS)[customer]
    amount = random.normal(mean, mean / 2)
    amount = np.where(amount < 0, random.uniform(0, 2 * mean), amount)
    fraud = np.round(amount, 2) > DEAR
    day = time // DAY_US
    for today in range(days):
        hit = np.isin(terminal, random.choice(TERMINALS, TERMINALS_A_DAY, replace=False))
        fraud |= hit & (day >= today) & (day < today + TERMINAL_DAYS)
        for victim in random.choice(CUSTOMERS, CUSTOMERS_A_DAY, replace=False):
            his = np.flatnonzero((customer == victim) & (day >= today) & (day < today + CUSTOMER_DAYS))
            taken = random.choice(his, len(his) // TAKEN, replace=False)
            amount[taken] *= DEARER
            fraud[taken] = True
    pq.write_table(_table(customer, terminal, FIRST_US + time, np.maximum(np.round(amount, 2), 0.01), fraud), path)


def _payments(random: np.random.Generator, days: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Customer, terminal and microseconds since the start of each payment, in order of time."""
    homes, tills = (random.uniform(0, 100, (count, 2)) for count in (CUSTOMERS, TERMINALS))
    near = [np.flatnonzero(((tills - home) ** 2).sum(axis=1) < RADIUS**2) for home in homes]
    count, first = np.array([len(some) for some in near]), np.cumsum([0, *(len(some) for some in near[:-1])])
    payments = random.poisson(random.uniform(0, 4, CUSTOMERS)[:, None] * (count > 0)[:, None], (CUSTOMERS, days))
    place = np.repeat(np.arange(payments.size), payments.ravel())
    customer, day = place // days, place % days
    second = random.normal(43_200, 20_000, len(place))
    terminal = np.concatenate(near)[first[customer] + (random.random(len(place)) * count[customer]).astype(np.int64)]
    awake = np.flatnonzero((second > 0) & (second < 86_400))
    time = day * DAY_US + (second * 1e6).astype(np.int64)
    order = awake[np.argsort(time[awake], kind="stable")]
    return customer[order], terminal[order], time[order]


def _table(
    customer: np.ndarray, terminal: np.ndarray, time: np.ndarray, amount: np.ndarray, fraud: np.ndarray
) -> pa.Table:
    number = np.arange(len(time))

    def named(tag: str, numbers: np.ndarray) -> pa.Array:
        return pa.compute.binary_join_element_wise(tag, pa.array(numbers).cast(pa.string()), "_")

    stamp = pa.timestamp("us", tz="UTC")
    columns = {
        "transaction_id": named("tx", number),
        "user_id": named("customer", customer),
        "merchant": named("terminal", terminal),
        "amount": pa.array(amount),
        "event_time": pa.array(time).cast(stamp),
        "arrival_time": pa.array(time).cast(stamp),
        "location": pa.repeat("here", len(time)),
        "payment_method": pa.repeat("card", len(time)),
        "is_fraud": pa.array(fraud),
        "label_time": pa.array(time + REPORTED_AFTER * DAY_US, mask=~fraud).cast(stamp),
    }
    missing = [field for field in HISTORY_SCHEMA if field.name not in columns]
    columns |= {field.name: pa.nulls(len(time), field.type) for field in missing}
    return pa.table([columns[name] for name in HISTORY_SCHEMA.names], schema=HISTORY_SCHEMA)
