"""`make chaos`: all processes under load, a seeded nemesis among them, and an independent look at what was left.

    python -m tests.chaos.run --kills 50 --seed 7
    python -m tests.chaos.run --only "Redis flushed" --only "topic grown"

Prints each fault as it happens, then a table and the verdict; the same as JSON with --out. Exits 1 where anything is
amiss, and after SIGTERM or Ctrl-C, which end a run with the table of what was done, nothing left running.
The same seed makes the same faults of the same payments; what they meet is up to the clock.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from math import inf
from pathlib import Path

from rich.console import Console

from feature_repo import definitions
from feature_repo import settings as configuration
from feature_repo.errors import VigilError
from feature_repo.settings import Settings
from infra.local.services import SERVERS
from infra.local.stack import Stack
from pipelines import road
from pipelines.demo import await_served
from pipelines.versions import Versions
from serving.source import SHA256_TAG
from tests.cases import tiny_model
from tests.cases.registry import publish
from tests.chaos import nemesis, outages
from tests.chaos.checker import check
from tests.chaos.disks import Disks
from tests.chaos.evidence import gather
from tests.chaos.load import Load
from tests.chaos.report import Report, Struck, conclude, say
from tests.chaos.site import Site, Unmet, decided, eventually, query
from tests.live import KEPT, new_stack
from training.registration import mlflow_client

COLUMNS = ("amount_log", "amount_z", "new_merchant")
SCALES = (0.1, 0.12)  # of the two versions: they score the same payment differently, and flag some
WARM_UP_S = 5.0
RECOVERED_S = 240.0  # until everything that was there when the fault was healed is decided, and nothing degraded
CALM_S = (0.5, 2.0)  # between two faults
CAME_TO = """
    SELECT outcome, count(*) FROM decisions WHERE kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s
        AND kafka_topic = %s AND revision = 1 GROUP BY 1
    UNION ALL
    SELECT code, count(*) FROM dead_letters WHERE kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s
        AND kafka_topic = %s GROUP BY 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="how many faults (50, or each that --only names once)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--rate", type=float, default=300.0, help="messages per second, of all producers but the transactional one"
    )
    parser.add_argument("--minutes", type=float, default=inf, help="begin no fault later than this after the start")
    parser.add_argument("--only", action="append", choices=sorted(nemesis.FAULTS), help="this kind of fault alone")
    parser.add_argument("--out", type=Path, help="JSON file for the table and the verdict")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the stack behind where it failed")
    given = parser.parse_args()
    kinds = given.only or sorted(nemesis.FAULTS)
    kills = given.kills or (len(given.only) if given.only else 50)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a file, a pipe or a terminal
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(f"seed {given.seed}, {kills} faults, {given.rate:.0f} messages per second", highlight=False)
    _no_settings_of_the_shell()
    report, began = Report(given.seed, given.rate), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vigil-halts-") as halts, tempfile.TemporaryDirectory() as images:
        os.environ |= {"VIGIL_HALT_AT": halts, "VIGIL_WINDOWS": "false"}
        stack, disks = new_stack(), Disks(Path(images))
        try:
            Run(stack, Path(halts), disks, report, console).run(kinds, kills, 60 * given.minutes)
        except KeyboardInterrupt:
            console.print("asked to end", style="bold red")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # what follows is to be brought to its end
            report.minutes = round((time.monotonic() - began) / 60, 1)
            conclude(console, report)
            if given.out:
                given.out.write_text(json.dumps(report.as_json(), indent=1))
            _clean_up(stack, disks, console, keep=given.keep and not report.passed)
    sys.exit(0 if report.passed else 1)


def _clean_up(stack: Stack, disks: Disks, console: Console, *, keep: bool) -> None:
    stack.down()
    if keep:
        console.print(f"kept: {stack.settings.home}, but what lay on disks of its own")
    disks.unmount()
    if not keep:
        stack.erase()


def _no_settings_of_the_shell() -> None:
    for name in configuration.inherited():
        if name.startswith("VIGIL_") and name not in KEPT:
            del os.environ[name]


class Run:
    def __init__(self, stack: Stack, halts: Path, disks: Disks, report: Report, console: Console) -> None:
        self._stack = stack
        self._halts = halts
        self._disks = disks
        self._report = report
        self._console = console
        self._chance = random.Random(report.seed)
        self._began = time.monotonic()

    @property
    def settings(self) -> Settings:
        return self._stack.settings

    def run(self, kinds: list[str], kills: int, seconds: float) -> None:
        """Strikes and looks; `report` tells how it went, also where this is broken off."""
        kinds = self._possible(kinds)
        names = nemesis.plan(self._chance, kinds, kills) if kinds else []
        self._report.wanted = len(names)
        versions = self._prepare()
        with Load(self.settings, self._report.rate, self._report.seed) as load:
            site = Site(self._stack, self._halts, versions, self._chance, load, self._disks)
            time.sleep(WARM_UP_S)
            self._await_recovery(site)
            for number, name in enumerate(names, 1):
                if time.monotonic() - self._began > seconds:
                    self._report.wanted = number - 1
                    break
                one = self._strike(site, number, name)
                if one.recovered_s is None and not self._started_anew(site):
                    break  # what follows would only tell of this one
                time.sleep(self._chance.uniform(*CALM_S))
            load.stop()
        complaints = [f"{one.fault}: {one.wrong}" for one in self._report.struck if one.wrong]
        complaints += self._settle(site)
        self._console.print("looking at what was left", style="dim")
        evidence = gather(self._stack, load, complaints)
        self._report.violations = check(evidence)
        self._report.count(load, evidence)
        self._report.checked = True

    def _possible(self, kinds: list[str]) -> list[str]:
        """Those that this machine allows; the folders to be filled get disks of their own."""
        full = {f"disk of {name} full": name for name in outages.DISKS}
        self._disks.mount(self.settings.home / full[kind] for kind in kinds if kind in full)
        self._report.skipped = {kind: self._disks.reason for kind in kinds if kind in full and self._disks.reason}
        for kind, reason in self._report.skipped.items():
            self._console.print(f"[yellow]skipped[/] {kind}: {reason}", highlight=False)
        return [kind for kind in kinds if kind not in self._report.skipped]

    def _prepare(self) -> tuple[str, str]:
        """The road with two versions of a model, the first of them the champion."""
        self._console.print("starting", style="dim")
        self._stack.up(SERVERS)
        definitions.apply(self.settings)
        with tempfile.TemporaryDirectory() as folder:
            first, second = (_registered(self.settings, Path(folder) / "model.onnx", scale) for scale in SCALES)
        Versions(self.settings).point("champion", first)
        self._stack.up()
        await_served(self.settings, first)
        return first, second

    def _strike(self, site: Site, number: int, name: str) -> Struck:
        one = Struck(number, name)
        self._report.struck.append(one)  # at once: a run that is broken off tells of it too
        self._console.print(f"{number:3} {name} ...", style="dim", highlight=False)
        site.mark()
        began = time.monotonic()
        try:
            one.before = decided(self.settings)
            one.detail = nemesis.FAULTS[name](site)
        except Exception as error:  # the table tells of it, the verdict fails, the others still come to their turn
            one.wrong = str(error) if isinstance(error, Unmet) else f"{type(error).__name__}: {error}"
        healed = time.monotonic()
        one.struck_s = round(healed - began, 1)
        try:
            self._await_recovery(site)
            one.recovered_s = round(time.monotonic() - healed, 1)
            one.after = decided(self.settings)
            one.outcomes = self._outcomes(one.before, one.after)
        except Exception as error:
            one.wrong = f"{one.wrong} {error}".strip()
        say(self._console, one)
        return one

    def _await_recovery(self, site: Site) -> None:
        """Raises Unmet."""
        site.all_decided(RECOVERED_S)
        eventually(lambda: not any(one.degraded for one in self._stack.status()), "something is degraded", RECOVERED_S)

    def _started_anew(self, site: Site) -> bool:
        """Whether all of it stopped and started again works, after a fault that it did not recover from."""
        self._console.print("everything is started anew", style="yellow")
        try:
            self._stack.down()
            self._stack.up()
            self._await_recovery(site)
        except (Unmet, VigilError) as error:
            self._console.print(f"[red]{error}[/]", highlight=False)
            return False
        return True

    def _settle(self, site: Site) -> list[str]:
        """Whatever is behind catches up; what could not be scored is. Returns what did not happen."""
        try:
            self._await_recovery(site)
            eventually(lambda: road.unread(self.settings) == 0, "not all that can be read was decided", RECOVERED_S)
            site.vigil("backfill")
            eventually(lambda: _indexed(self.settings), "search did not catch up with the decisions", RECOVERED_S)
        except (Unmet, VigilError) as error:
            return [str(error)]
        return []

    def _outcomes(self, before: dict[int, int], after: dict[int, int]) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for partition, until in after.items():
            place = (partition, before.get(partition, 0), until, self.settings.topic)
            counts.update(dict(query(self.settings, CAME_TO, *place, *place)))
        return dict(counts.most_common())


def _registered(settings: Settings, file: Path, scale: float) -> str:
    with mlflow_client(settings):  # which keeps MLflow's own news off the screen
        return publish(settings, file, {SHA256_TAG: tiny_model.write(file, COLUMNS, scale)})


def _indexed(settings: Settings) -> bool:
    ((decisions,),) = query(settings, "SELECT count(*) FROM decisions WHERE revision = 1")
    ((parked,),) = query(settings, "SELECT count(DISTINCT decision_id) FROM parked_documents")
    return road.documents(settings) >= decisions - parked


if __name__ == "__main__":
    main()
