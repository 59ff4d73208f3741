"""`make chaos`: all processes under load, a seeded nemesis among them, and an independent look at what was left.

    python -m tests.chaos.run --kills 50 --seed 7

Prints a table of faults as they happen and the verdict; the same as JSON with --out. Exits 1 where anything is amiss.
The same seed makes the same faults of the same payments; what they meet is up to the clock.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import psycopg2
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from feature_repo import definitions
from feature_repo import settings as configuration
from feature_repo.settings import Settings
from infra.local.services import SERVERS
from infra.local.stack import Stack
from pipelines.demo import Demo, Scale
from pipelines.versions import Versions
from serving.source import SHA256_TAG
from tests.cases import tiny_model
from tests.cases.registry import publish
from tests.chaos import nemesis
from tests.chaos.checker import Evidence, Violation, check
from tests.chaos.evidence import gather
from tests.chaos.load import Load
from tests.chaos.nemesis import Site, Unmet, eventually
from tests.live import KEPT, new_stack
from training.registration import mlflow_client

COLUMNS = ("amount_log", "amount_z", "new_merchant")
SCALES = (0.1, 0.12)  # of the two versions: they score the same payment differently, and flag some
WARM_UP_S = 10.0
RECOVERED_S = 300.0  # until everything that was there when the fault was healed is decided, and nothing degraded
CALM_S = (1.0, 5.0)  # between two faults
CAME_TO = """
    SELECT outcome FROM decisions WHERE kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s
        AND kafka_topic = %s AND revision = 1
    UNION ALL
    SELECT code FROM dead_letters WHERE kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s
        AND kafka_topic = %s
"""


@dataclass
class Struck:
    """One fault and what followed. Offsets are decided ones by partition, `recovered_s` None where it did not."""

    number: int
    fault: str
    detail: str = ""
    before: dict[int, int] = field(default_factory=dict)
    after: dict[int, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    recovered_s: float | None = None
    wrong: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--rate", type=float, default=300.0, help="messages per second, of all producers but the transactional one"
    )
    parser.add_argument("--minutes", type=float, default=inf, help="begin no fault later than this after the start")
    parser.add_argument("--only", action="append", choices=sorted(nemesis.FAULTS), help="this kind of fault alone")
    parser.add_argument("--out", type=Path, help="JSON file for the table and the verdict")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the stack behind where it failed")
    given = parser.parse_args()
    nemesis.stop_signals_interrupt()
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(f"seed {given.seed}, {given.kills} faults, {given.rate:.0f} messages per second", highlight=False)
    _no_settings_of_the_shell()
    passed = False
    with tempfile.TemporaryDirectory(prefix="vigil-halts-") as halts:
        os.environ |= {"VIGIL_HALT_AT": halts, "VIGIL_WINDOWS": "false"}
        stack = new_stack()
        try:
            run = Run(stack, Path(halts), given.seed, given.rate, console)
            passed = run.run(given.only, given.kills, 60 * given.minutes)
            if given.out:
                given.out.write_text(json.dumps(run.report(), indent=1))
        finally:
            if given.keep and not passed:
                stack.down()
                console.print(f"kept: {stack.settings.home}")
            else:
                stack.erase()
    sys.exit(0 if passed else 1)


def _no_settings_of_the_shell() -> None:
    for name in configuration.inherited():
        if name.startswith("VIGIL_") and name not in KEPT:
            del os.environ[name]


class Run:
    def __init__(self, stack: Stack, halts: Path, seed: int, rate: float, console: Console) -> None:
        self.struck: list[Struck] = []
        self.violations: list[Violation] = []
        self._stack = stack
        self._halts = halts
        self._seed = seed
        self._rate = rate
        self._console = console
        self._chance = random.Random(seed)
        self._began = time.monotonic()
        self._counts: dict[str, int] = {}

    @property
    def settings(self) -> Settings:
        return self._stack.settings

    def run(self, only: list[str] | None, kills: int, seconds: float) -> bool:
        """True where every fault was recovered from and every invariant holds."""
        versions = self._prepare()
        site = Site(self._stack, self._halts, versions, self._chance)
        names = nemesis.plan(self._chance, only or nemesis.FAULTS, kills)
        with Load(self.settings, self._rate, self._seed) as load:
            time.sleep(WARM_UP_S)
            self._await_recovery()
            for number, name in enumerate(names, 1):
                if time.monotonic() - self._began > seconds:
                    names = names[: number - 1]
                    break
                one = self._strike(site, number, name)
                self.struck.append(one)
                self._say(one)
                if one.recovered_s is None:
                    break  # what follows would only tell of this one
                time.sleep(self._chance.uniform(*CALM_S))
            load.stop()
        complaints = [f"{one.fault}: {one.wrong}" for one in self.struck if one.wrong]
        complaints += self._settle(site)
        evidence = gather(self._stack, load.sent, complaints)
        self.violations = check(evidence)
        self._count(load, evidence)
        self._conclude(len(names))
        return not self.violations and len(self.struck) == len(names)

    def _prepare(self) -> tuple[str, str]:
        """The road with two versions of a model, the first of them the champion."""
        self._console.print("starting", style="dim")
        self._stack.up(SERVERS)
        definitions.apply(self.settings)
        with tempfile.TemporaryDirectory() as folder:
            first, second = (_registered(self.settings, Path(folder) / "model.onnx", scale) for scale in SCALES)
        Versions(self.settings).point("champion", first)
        self._stack.up()
        Demo(self._stack, Scale(), lambda step, what: None).await_served(first)
        return first, second

    def _strike(self, site: Site, number: int, name: str) -> Struck:
        one = Struck(number, name, before=_decided(self.settings))
        site.mark()
        try:
            one.detail = nemesis.FAULTS[name](site)
        except Unmet as unmet:
            one.wrong = str(unmet)
        except Exception as error:  # the table tells of it, the verdict fails, the others still come to their turn
            one.wrong = f"{type(error).__name__}: {error}"
        healed = time.monotonic()
        try:
            self._await_recovery()
            one.recovered_s = round(time.monotonic() - healed, 1)
        except Unmet as unmet:
            one.wrong = f"{one.wrong} {unmet}".strip()
        one.after = _decided(self.settings)
        one.outcomes = self._outcomes(one.before, one.after)
        return one

    def _await_recovery(self) -> None:
        ends = eventually(lambda: _ends(self.settings), "Kafka does not answer", RECOVERED_S)

        def caught_up() -> bool:
            decided = _decided(self.settings)
            return all(decided.get(partition, 0) >= end for partition, end in ends.items())

        eventually(caught_up, "the stream did not catch up", RECOVERED_S)
        eventually(
            lambda: not any(service.degraded for service in self._stack.status()), "something is degraded", RECOVERED_S
        )

    def _settle(self, site: Site) -> list[str]:
        """Whatever is behind catches up; what could not be scored is. Returns what did not happen."""
        try:
            self._await_recovery()
            site.vigil("backfill")
            eventually(lambda: _indexed(self.settings), "search did not catch up with the decisions", RECOVERED_S)
        except Unmet as unmet:
            return [str(unmet)]
        return []

    # ---- what there is to see

    def _outcomes(self, before: dict[int, int], after: dict[int, int]) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for partition, until in after.items():
            place = (partition, before.get(partition, 0), until, self.settings.topic)
            counts.update(outcome for (outcome,) in _query(self.settings, CAME_TO, *place, *place))
        return dict(counts.most_common())

    def _say(self, one: Struck) -> None:
        recovered = "never" if one.recovered_s is None else f"{one.recovered_s:.1f} s"
        wrong = f" [red]{one.wrong}[/]" if one.wrong else ""
        self._console.print(f"{one.number:3} {one.fault}: {one.detail}, recovered {recovered}{wrong}", highlight=False)

    def _count(self, load: Load, evidence: Evidence) -> None:
        self._counts = {
            "confirmed by Kafka": len(load.sent),
            "given up by producers": sum(load.failed.values()),
            "records in the log": len(evidence.log),
            "decisions": len(evidence.rows),
            "dead letters": len(evidence.letters),
            "ranges": len(evidence.ranges),
            "documents": len(evidence.documents),
            "parked": len(evidence.parked),
            "models that decided": len(evidence.models),
        }

    def _conclude(self, wanted: int) -> None:
        table = Table(title=f"seed {self._seed}", title_justify="left")
        for heading in ("#", "fault", "detail", "offsets", "came to", "recovered"):
            table.add_column(heading, justify="right" if heading in ("#", "recovered") else "left")
        for one in self.struck:
            offsets = "\n".join(f"{p}: {one.before.get(p, 0)} → {until}" for p, until in sorted(one.after.items()))
            came_to = ", ".join(f"{name} {count}" for name, count in one.outcomes.items())
            recovered = "never" if one.recovered_s is None else f"{one.recovered_s:.1f} s"
            detail = f"{one.detail} [red]{one.wrong}[/]" if one.wrong else one.detail
            table.add_row(str(one.number), one.fault, detail, offsets, came_to, recovered)
        self._console.print(table)
        self._console.print(", ".join(f"{count:,} {name}" for name, count in self._counts.items()), highlight=False)
        for violation in self.violations:
            self._console.print(f"[red]{violation.invariant} {violation.what}[/], {violation.count} times:")
            for example in violation.examples:
                self._console.print(f"    {example}", highlight=False, markup=False)
        minutes = (time.monotonic() - self._began) / 60
        done = f"{len(self.struck)} of {wanted} faults in {minutes:.0f} minutes, seed {self._seed}"
        if self.violations or len(self.struck) < wanted:
            self._console.print(f"[bold red]FAILED[/] {len(self.violations)} kinds of violation; {done}")
        else:
            self._console.print(f"[bold green]PASSED[/] I1 to I8 hold; {done}")

    def report(self) -> dict[str, Any]:
        """The table and the verdict as JSON values."""
        return {
            "seed": self._seed,
            "rate": self._rate,
            "faults": [asdict(one) for one in self.struck],
            "counts": self._counts,
            "violations": [asdict(violation) for violation in self.violations],
        }


def _registered(settings: Settings, file: Path, scale: float) -> str:
    with mlflow_client(settings):  # which keeps MLflow's own news off the screen
        return publish(settings, file, {SHA256_TAG: tiny_model.write(file, COLUMNS, scale)})


def _query(settings: Settings, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(settings.postgres_reader_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall()


def _decided(settings: Settings) -> dict[int, int]:
    sql = "SELECT kafka_partition, committed_until FROM ledger WHERE kafka_topic = %s"
    return dict(_query(settings, sql, settings.topic))


def _ends(settings: Settings) -> dict[int, int]:
    """The offset after the last of each partition; of Kafka's own word."""
    with closing(Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "chaos-ends"})) as consumer:
        partitions = consumer.list_topics(settings.topic, timeout=10).topics[settings.topic].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(settings.topic, number), timeout=10)[1]
            for number in partitions
        }


def _indexed(settings: Settings) -> bool:
    from pipelines.road import documents

    ((decisions,),) = _query(settings, "SELECT count(*) FROM decisions WHERE revision = 1")
    ((parked,),) = _query(settings, "SELECT count(DISTINCT decision_id) FROM parked_documents")
    return documents(settings) >= decisions - parked


if __name__ == "__main__":
    main()
