"""What a chaos run says of itself: also of a fault nobody recovered from, and of a run that was broken off."""

from io import StringIO

from rich.console import Console

from tests.chaos.checker import Violation
from tests.chaos.report import Report, Struck, conclude, say


def shown(report: Report) -> str:
    out = StringIO()
    console = Console(file=out, width=180)
    for one in report.struck:
        say(console, one)
    conclude(console, report)
    return out.getvalue()


def report() -> Report:
    healed = Struck(1, "disk full", "held", {0: 5}, {0: 9}, {"scored": 4}, struck_s=3.0, recovered_s=1.5)
    return Report(seed=7, rate=300.0, wanted=2, struck=[healed], checked=True)


def test_all_faults_struck_and_all_that_was_checked_holds() -> None:
    sound = report()
    sound.wanted = 1
    assert sound.passed
    said = shown(sound)
    assert "PASSED I1 to I8 hold; 1 of 1 faults" in said and "0: 5 → 9" in said and "scored 4" in said


def test_a_fault_nobody_recovered_from_stands_in_the_table_beside_the_others() -> None:
    failed = report()
    failed.struck.append(Struck(2, "job killed", wrong="the stream did not catch up [set]"))
    failed.violations = [Violation("I1", "a record has no outcome", 1, ("t-0-1",))]
    said = shown(failed)
    assert "2 job killed: the stream did not catch up [set], 0 s, then recovered never" in said
    assert "FAILED 1 kinds of violation; 2 of 2 faults" in said and "t-0-1" in said
    assert not failed.passed


def test_a_run_that_was_broken_off_tells_what_was_done_and_never_passes() -> None:
    broken = report()
    broken.checked, broken.wanted = False, 1
    said = shown(broken)
    assert "BROKEN OFF" in said and "1 disk full: held" in said and not broken.passed
    broken.skipped = {"disk of redis full": "no disk can be mounted here: permission denied"}
    assert "skipped disk of redis full: no disk can be mounted here" in shown(broken)
