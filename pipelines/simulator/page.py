"""One page of plots about a simulated history, with nothing loaded from elsewhere."""

import base64
import html
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.simulator.folder import HISTORY, MANIFEST, PAGE, TRUTH
from pipelines.simulator.fraud import MECHANISM_NAMES
from pipelines.simulator.world import DAY_US, HOUR_US

READ_ROWS = 131_072
AMOUNT_EDGES = np.geomspace(0.25, 10_000, 61)
_COLUMNS = ["transaction_id", "user_id", "amount", "event_time", "merchant", "is_fraud", "label_time"]
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c1c1c}
table{border-collapse:collapse}td,th{text-align:left;padding:.2rem .8rem;border-bottom:1px solid #ddd}
td:nth-child(2){text-align:right}img{max-width:100%}"""

Counts = npt.NDArray[np.int64]


@dataclass
class Figures:
    """What is drawn. `per_day` has genuine payments under "" and each mechanism's by its name."""

    days: int
    per_day: dict[str, Counts] = field(default_factory=dict)
    amounts: dict[bool, Counts] = field(default_factory=dict)  # by AMOUNT_EDGES; True is fraud
    hours: dict[bool, Counts] = field(default_factory=dict)
    joined: dict[str, int] = field(default_factory=dict)  # user -> day of the first payment
    merchants: Counter[str] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)  # days from a fraud to its report
    false_claims: int = 0

    def add(self, batch: pa.RecordBatch, mechanism: npt.NDArray[np.int64], first_us: int) -> None:
        """`mechanism` [n] are positions in MECHANISM_NAMES, 0 for genuine payments."""
        time = batch["event_time"].cast(pa.int64()).to_numpy()
        day = (time - first_us) // DAY_US
        fraud = mechanism > 0
        for number in np.unique(mechanism).tolist():
            self._count(self.per_day, MECHANISM_NAMES[number], day[mechanism == number], self.days)
        bins = np.searchsorted(AMOUNT_EDGES, batch["amount"].to_numpy()).clip(1, len(AMOUNT_EDGES) - 1) - 1
        for kind in (False, True):
            self._count(self.amounts, kind, bins[fraud == kind], len(AMOUNT_EDGES) - 1)
            self._count(self.hours, kind, time[fraud == kind] // HOUR_US % 24, 24)
        users = batch["user_id"].dictionary_encode()
        first = np.full(len(users.dictionary), self.days)
        np.minimum.at(first, users.indices.to_numpy(), day)
        for user, begun in zip(users.dictionary.to_pylist(), first.tolist(), strict=True):
            self.joined[user] = min(begun, self.joined.get(user, self.days))
        for entry in batch["merchant"].value_counts().to_pylist():
            self.merchants[entry["values"]] += entry["counts"]
        reported = batch["label_time"].is_valid().to_numpy(zero_copy_only=False)
        delay = batch["label_time"].cast(pa.int64()).fill_null(0).to_numpy() - time
        self.delays += (delay[reported & fraud] / DAY_US).tolist()
        self.false_claims += int((reported & ~fraud).sum())

    @staticmethod
    def _count(of: dict[Any, Counts], name: Any, values: Counts, size: int) -> None:
        counted = np.bincount(values.clip(0, size - 1), minlength=size)
        of[name] = of.get(name, np.zeros(size, np.int64)) + counted


def figures(folder: Path) -> Figures:
    """Of a simulated folder, read batch by batch."""
    manifest = json.loads((folder / MANIFEST).read_text())
    first_us = int(np.datetime64(manifest["options"]["start"], "us").astype(np.int64))
    truth = pq.read_table(folder / TRUTH, columns=["transaction_id", "mechanism"])
    names = pa.array(MECHANISM_NAMES)
    codes = pc.index_in(truth["mechanism"], value_set=names).combine_chunks()
    found = Figures(int(manifest["days"]))
    with pq.ParquetFile(folder / HISTORY) as history:
        for batch in history.iter_batches(READ_ROWS, columns=_COLUMNS):
            place = pc.index_in(batch["transaction_id"], value_set=truth["transaction_id"].combine_chunks())
            found.add(batch, codes.take(place).fill_null(0).to_numpy().astype(np.int64), first_us)
    return found


def write(folder: Path, to: Path) -> Path:
    """The page about a simulated folder, into folder `to`."""
    found = figures(folder)
    options = json.loads((folder / MANIFEST).read_text())["options"]
    title = f"Simulated history: {options['users']:,} people, {found.days} days, seed {options['seed']}"
    rows = "".join(f"<tr><td>{html.escape(name)}<td>{value}</tr>" for name, value in _table(found, options))
    path = to / PAGE
    path.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f'<h1>{html.escape(title)}</h1><img alt="plots" src="data:image/png;base64,{_plots(found)}">'
        f"<table>{rows}</table></html>\n",
        encoding="utf-8",
    )
    return path


def _table(found: Figures, options: dict[str, Any]) -> list[tuple[str, str]]:
    total = {name: int(counts.sum()) for name, counts in found.per_day.items()}
    frauds = sum(count for name, count in total.items() if name)
    payments = sum(total.values())
    delays = np.array(found.delays)
    rows = [
        ("payments", f"{payments:,}"),
        ("people who paid", f"{len(found.joined):,}"),
        ("merchants paid", f"{len(found.merchants):,}"),
        ("frauds", f"{frauds:,} ({frauds / max(payments, 1):.3%})"),
        *((f"of them {name}", f"{count:,}") for name, count in sorted(total.items()) if name),
        ("reported", f"{len(delays):,} ({len(delays) / max(frauds, 1):.1%})"),
        ("false claims", f"{found.false_claims:,}"),
    ]
    if len(delays):
        rows.append(("days to a report: median, 95 %, longest", _three(delays)))
    return rows + [(name.replace("_", " "), str(value)) for name, value in options.items()]


def _three(delays: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.1f}" for value in (*np.quantile(delays, (0.5, 0.95)), delays.max()))


def _plots(found: Figures) -> str:
    """Base 64 of one PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import; no display needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 15), layout="constrained")
    FigureCanvasAgg(figure)
    per_day, growth, amounts, hours, zipf, delays, fraud, share = figure.subplots(4, 2).flat
    days = np.arange(found.days)
    every = sum(found.per_day.values(), np.zeros(found.days, np.int64))
    per_day.plot(days, every)
    per_day.set(title="payments per day", xlabel="day", ylim=(0, None))
    joined = np.bincount(np.array(list(found.joined.values()), dtype=np.int64), minlength=found.days)
    growth.plot(days, np.cumsum(joined[: found.days]))
    growth.set(title="people who have paid so far", xlabel="day", ylim=(0, None))
    for kind, name in ((False, "genuine"), (True, "fraud")):
        amount, hour = found.amounts[kind], found.hours[kind]
        amounts.stairs(amount / max(amount.sum(), 1), AMOUNT_EDGES, label=name)
        hours.stairs(hour / max(hour.sum(), 1), np.arange(25), label=name)
    amounts.set(title="amounts, share of payments", xscale="log", xlabel="amount")
    hours.set(title="hour of the day, UTC, share of payments", xlabel="hour")
    ranked = np.sort(list(found.merchants.values()))[::-1]
    zipf.loglog(np.arange(1, len(ranked) + 1), ranked)
    zipf.set(title="merchants by rank", xlabel="rank", ylabel="payments")
    delays.hist(found.delays, bins=60, range=(0, 60))
    delays.set(title="days from fraud to report", xlabel="days")
    for name in MECHANISM_NAMES[1:]:
        if name in found.per_day:
            weeks = found.per_day[name][: found.days // 7 * 7].reshape(-1, 7).mean(axis=1)
            fraud.plot(3 + 7 * np.arange(len(weeks)), weeks, label=name)
    fraud.set(title="frauds per day by mechanism, weekly means", xlabel="day", ylim=(0, None))
    share.plot(days, (every - found.per_day.get("", 0)) / np.maximum(every, 1))
    share.set(title="share of fraud per day", xlabel="day", ylim=(0, None))
    for place in (amounts, hours, fraud):
        place.legend(fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=90)
    return base64.b64encode(image.getvalue()).decode()
