import json

from typer.testing import CliRunner

from pipelines.bench.parser import DEFECTS, bench_parser, messages
from pipelines.cli import app


def test_bench_counts_every_message_and_names_its_machine() -> None:
    result = bench_parser(1_000)
    assert (result.payments, result.rejects) == (980, 20) == (1_000 * (1 - DEFECTS), 1_000 * DEFECTS)
    assert result.us_per_message > 0
    assert result.machine.cpu and result.machine.cores >= 1
    assert f"{result.machine.cores} cores" in result.machine.line()


def test_messages_of_a_seed_are_the_same_again() -> None:
    assert messages(50, seed=3) == messages(50, seed=3) != messages(50, seed=4)


def test_bench_of_the_parser_is_a_command() -> None:
    printed = CliRunner().invoke(app, ["bench", "parser", "--rows", "500", "--json"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)["rejects"] == 10
    assert "µs per message" in CliRunner().invoke(app, ["bench", "parser", "--rows", "500"]).stdout
