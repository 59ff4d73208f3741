"""What a chaos run prints and writes: a line per fault as it happens, then the table and the verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.chaos.checker import Evidence, Violation
from tests.chaos.load import Load


@dataclass
class Struck:
    """One fault and what followed. Offsets are decided ones by partition, `recovered_s` None where it did not."""

    number: int
    fault: str
    detail: str = ""
    before: dict[int, int] = field(default_factory=dict)
    after: dict[int, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    struck_s: float = 0.0  # the harm and the operator's work
    recovered_s: float | None = None  # from then on
    wrong: str = ""

    @property
    def recovery(self) -> str:
        return "never" if self.recovered_s is None else f"{self.recovered_s:.1f} s"

    @property
    def what(self) -> str:
        """For the screen."""
        return f"{escape(self.detail)} [red]{escape(self.wrong)}[/]".strip() if self.wrong else escape(self.detail)


@dataclass
class Report:
    """Of one run; `wanted` faults were planned, `skipped` are kinds that cannot be done here, with the reason."""

    seed: int
    rate: float
    wanted: int = 0
    struck: list[Struck] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    minutes: float = 0.0
    checked: bool = False

    @property
    def passed(self) -> bool:
        return self.checked and not self.violations and len(self.struck) == self.wanted

    def count(self, load: Load, evidence: Evidence) -> None:
        self.counts = {
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

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def say(console: Console, one: Struck) -> None:
    console.print(
        f"{one.number:3} {one.fault}: {one.what}, {one.struck_s:.0f} s, then recovered {one.recovery}", highlight=False
    )


def conclude(console: Console, report: Report) -> None:
    console.print(_table(report.seed, report.struck))
    for fault, reason in report.skipped.items():
        console.print(f"[yellow]skipped[/] {fault}: {reason}", highlight=False)
    console.print(", ".join(f"{count:,} {name}" for name, count in report.counts.items()), highlight=False)
    for violation in report.violations:
        console.print(f"[red]{violation.invariant} {escape(violation.what)}[/], {violation.count} times:")
        for example in violation.examples:
            console.print(f"    {example}", highlight=False, markup=False)
    done = f"{len(report.struck)} of {report.wanted} faults in {report.minutes:.0f} minutes, seed {report.seed}"
    if report.passed:
        console.print(f"[bold green]PASSED[/] I1 to I8 hold; {done}")
    elif report.checked:
        console.print(f"[bold red]FAILED[/] {len(report.violations)} kinds of violation; {done}")
    else:
        console.print(f"[bold red]BROKEN OFF[/] before the stores were looked at; {done}")


def _table(seed: int, struck: Sequence[Struck]) -> Table:
    table = Table(title=f"seed {seed}", title_justify="left")
    for heading in ("#", "fault", "detail", "offsets", "came to", "took", "recovered"):
        table.add_column(heading, justify="right" if heading in ("#", "took", "recovered") else "left")
    for one in struck:
        offsets = "\n".join(f"{p}: {one.before.get(p, 0)} → {until}" for p, until in sorted(one.after.items()))
        came_to = ", ".join(f"{name} {count}" for name, count in one.outcomes.items())
        row = str(one.number), one.fault, one.what, offsets, came_to, f"{one.struck_s:.0f} s", one.recovery
        table.add_row(*row)
    return table
