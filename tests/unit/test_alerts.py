"""Alert rules and board: sound expressions over metrics that exist, and a word on what to do for each alert."""

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Metric, ProcessCollector

from api.traffic import Traffic
from infra.local.ports import DEFAULTS
from pipelines.metrics import LifecycleMetrics
from serving.metrics import Metrics
from streaming.indexer_metrics import IndexerMetrics
from streaming.metrics import StreamMetrics
from tests.cases import promql


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    """Everything our processes show, as their own classes declare it."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for made in (StreamMetrics, IndexerMetrics, LifecycleMetrics):
        made(registry)

    async def nothing(*_: Any) -> None:
        pass

    Traffic(nothing, registry)
    return registry


@pytest.fixture(scope="module")
def families(registry: CollectorRegistry) -> list[Metric]:
    return [*registry.collect(), *Metrics()._registry.collect()]


@pytest.mark.parametrize(("where", "expression"), promql.expressions())
def test_an_expression_is_sound_and_names_metrics_that_exist(
    where: str, expression: str, families: list[Metric]
) -> None:
    metrics, _ = promql.check(expression)
    assert metrics, where
    assert metrics <= promql.samples(families) | set(promql.OF_PROMETHEUS), where


@pytest.mark.parametrize(("where", "expression"), promql.expressions())
def test_labels_of_an_expression_are_those_of_our_metrics(
    where: str, expression: str, registry: CollectorRegistry
) -> None:
    declared = {"le", "model_version", *promql.OF_TARGETS}  # the last two of the model service, made in its workers
    for collector in registry._collector_to_names:
        declared |= set(getattr(collector, "_labelnames", ()))
    assert promql.check(expression)[1] <= declared, where


@pytest.mark.parametrize(
    "broken",
    [
        "sum(rate(vigil_x_total[5m])",
        "rate(vigil_x_total)",
        "summ(vigil_x)",
        "vigil_x > $",
        "sum",
        'a{b="c"}}',
        "a[5 m]",
    ],
)
def test_a_broken_expression_is_told_from_a_sound_one(broken: str) -> None:
    with pytest.raises(promql.BadExpression):
        promql.check(broken)


def test_names_and_labels_are_told_apart() -> None:
    expression = 'sum by (a, b) (rate(x_total{c=~"5.."}[5m])) / on (a) group_left () max without (d) (y) > 2'
    assert promql.check(expression) == ({"x_total", "y"}, {"a", "b", "c", "d"})


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    names = [rule["alert"] for rule in promql.alerts()]
    assert len(names) == len(set(names)) > 15
    for rule in promql.alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m")), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        said = rule["annotations"]
        assert set(said) == {"summary", "runbook"} and len(said["runbook"]) > 40, rule["alert"]
        for label in re.findall(r"\$labels\.(\w+)", said["summary"]):
            kept = re.search(r"by \(([^)]*)\)", rule["expr"])
            assert kept is None or label in re.split(r",\s*", kept[1]), f"{rule['alert']} has no label {label}"


def test_the_runbook_names_commands_that_exist() -> None:
    import typer.main

    from pipelines.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a typer app is a group
    for rule in promql.alerts():
        for command in re.findall(r"`vigil ([a-z-]+)", rule["annotations"]["runbook"]):
            assert command in commands, f"{rule['alert']}: vigil {command}"


def test_every_process_of_ours_is_scraped_where_it_listens() -> None:
    scraped = yaml.safe_load((promql.INFRA / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [one for job in scraped for one in job["static_configs"]]
    found = {one["labels"]["service"]: one["targets"] for one in targets}
    ports = {"serving": "serving", "api": "api"} | {n: f"{n}_metrics" for n in ("stream", "indexer", "lifecycle")}
    assert {one["labels"].get("job", job["job_name"]) for job in scraped for one in job["static_configs"]} == {"vigil"}
    assert found == {name: [f"{name}:{DEFAULTS[port]}"] for name, port in ports.items()}


def test_panels_have_their_own_ids_and_do_not_overlap() -> None:
    board = json.loads(promql.BOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
