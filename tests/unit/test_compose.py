"""The containers say what the local stack says: services, ports, settings, health checks, commands."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from feature_repo.settings import Settings
from infra.local import elasticsearch, kafka, postgres, redis, services
from infra.local.files import Files
from infra.local.ports import DEFAULTS, HOST
from infra.local.service import Service

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra" / "compose.yaml"
DOCKERFILE = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
OBSERVING = ("prometheus", "grafana")
ONCE = "provision"  # runs to its end before ours start; `vigil up` does the same itself
HOME = "/var/lib/vigil"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return document


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Service]:
    """The local stack's definitions on the usual ports."""
    home = tmp_path_factory.mktemp("home")
    (home / "run").mkdir()
    Files(home).write_ports(DEFAULTS)
    return services.definitions(Settings(home=home))


def lines(configuration: str) -> dict[str, str]:
    """`name = value`, `name=value`, `name: value` or `name value` lines as a mapping."""
    found = {}
    for line in configuration.splitlines():
        if line.strip() and not line.startswith("#"):
            name, value = re.split(r"\s*[=:]\s*|\s+", line.strip(), maxsplit=1)
            found[name] = value.strip("'")
    return found


def stage(target: str) -> str:
    """The part of the Dockerfile that makes one image, from its FROM to the next."""
    match = re.search(rf"^FROM \S+ AS {target}$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert match, f"no stage {target}"
    return match[1].replace("\\\n", " ")


def command(target: str) -> list[str]:
    match = re.search(r"^CMD (\[.*\])$", stage(target), re.MULTILINE)
    assert match, f"stage {target} has no command"
    parsed: list[str] = json.loads(match[1])
    return parsed


def test_it_is_a_compose_file(compose: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests" / "vendor" / "compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(compose)


def test_the_schema_refuses_a_service_with_an_unknown_key(compose: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests" / "vendor" / "compose-spec.json").read_text())
    wrong = {"services": {"kafka": {**compose["services"]["kafka"], "helthcheck": {}}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(wrong)


def test_it_has_the_services_of_the_local_stack(compose: dict[str, Any], local: dict[str, Service]) -> None:
    assert set(compose["services"]) == set(local) | {ONCE} | set(OBSERVING)
    for name in OBSERVING:
        service = compose["services"][name]
        assert service["profiles"] == ["observe"] and all(port.startswith(f"{HOST}:") for port in service["ports"])


@pytest.mark.parametrize("name", services.NAMES)
def test_a_service_needs_starts_and_stops_as_in_the_local_stack(
    name: str, compose: dict[str, Any], local: dict[str, Service]
) -> None:
    here, there = compose["services"][name], local[name]
    needs = set(here.get("depends_on", {}))
    assert needs - {ONCE} == {*there.needs, *there.wants}  # heeded by `up` alone: a restart waits for nobody
    assert (ONCE in needs) == (there.ours and name != "mlflow")
    assert here["restart"] == ("unless-stopped" if there.ours else "no")
    assert here.get("stop_grace_period") == f"{there.stop_timeout_s:.0f}s"
    assert here.get("stop_signal", "SIGTERM") == {2: "SIGINT", 15: "SIGTERM"}[int(there.stop_signal)]


def test_what_is_needed_is_waited_for_until_it_is_healthy(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name in OBSERVING:
            continue  # they show what they find
        for need, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if need == ONCE else "service_healthy"
            assert how["condition"] == expected, f"{name} needs {need}"


@pytest.mark.parametrize("name", services.NAMES)
def test_ports_are_the_usual_ones_and_published_on_loopback_only(
    name: str, compose: dict[str, Any], local: dict[str, Service]
) -> None:
    inside_only = {DEFAULTS["kafka_controller"], DEFAULTS["elasticsearch_transport"]}
    wanted = {f"{HOST}:{port}:{port}" for port in local[name].ports if port not in inside_only}
    assert set(compose["services"][name].get("ports", [])) == wanted


def test_no_service_is_on_the_network_of_the_host(compose: dict[str, Any]) -> None:
    assert not [name for name, service in compose["services"].items() if "network_mode" in service]


def test_every_variable_of_ours_is_a_setting_and_names_a_service_and_its_port(compose: dict[str, Any]) -> None:
    inside = DEFAULTS | {"kafka": 19092}
    for name in (ONCE, *services.OURS):
        for variable, value in compose["services"][name].get("environment", {}).items():
            field = variable.removeprefix("VIGIL_").lower()
            assert field in Settings.model_fields, f"{name}: {variable}"
            if variable in ("VIGIL_BIND", "VIGIL_INTERNAL_BIND"):  # others: by their command
                whose = ("api",) if variable == "VIGIL_BIND" else ("stream", "indexer", "lifecycle")
                assert value == "0.0.0.0" and name in whose
                continue
            plain = re.sub(r"\$\{\w+:\?\}", "password", value)
            address = urlsplit(plain if "://" in plain else f"kafka://{plain}")
            assert address.port == inside[str(address.hostname)], f"{name}: {variable}"


def test_each_service_has_the_database_role_it_needs_and_no_other(compose: dict[str, Any]) -> None:
    roles = {
        name: set(re.findall(r"://(vigil_\w+):", json.dumps(service.get("environment", {}))))
        for name, service in compose["services"].items()
    }
    assert {name: found for name, found in roles.items() if found} == {
        ONCE: {"vigil_migrator"},
        "mlflow": {"vigil_mlflow"},
        "api": {"vigil_reader", "vigil_writer"},
        "stream": {"vigil_writer"},
        "indexer": {"vigil_writer"},
        "lifecycle": {"vigil_writer"},
        "windows": {"vigil_writer"},
    }


def test_passwords_come_from_variables_that_must_be_set_and_are_in_the_example(compose: dict[str, Any]) -> None:
    text = COMPOSE.read_text()
    required = set(re.findall(r"\$\{(VIGIL_\w+PASSWORD):\?\}", text))
    assert len(re.findall(r"\$\{", text)) == len(re.findall(r"\$\{VIGIL_\w+PASSWORD:\?\}", text))
    for value in re.findall(r"://\w+:([^@\s]+)@", text):
        assert value.startswith("${") and value.endswith(":?}")
    example = (ROOT / "infra" / "compose.example.env").read_text()
    assert {line for line in example.splitlines() if line and line[0] != "#"} == {f"{v}=" for v in required}


@pytest.mark.parametrize("name", ["mlflow", *services.OURS])
def test_an_image_starts_what_the_local_stack_starts(name: str, local: dict[str, Service]) -> None:
    home = str(local[name].cwd.parents[1])
    argv = ["python", *local[name].argv()[1:]]
    argv = ["0.0.0.0" if word == HOST else word.replace(home, HOME) for word in argv]
    assert command(name) == argv


@pytest.mark.parametrize("name", ["mlflow", *services.OURS])
def test_an_image_has_the_environment_of_the_local_stack(
    name: str, compose: dict[str, Any], local: dict[str, Service]
) -> None:
    own = {"VIGIL_HOME"} | {v for v in local[name].env() if v.startswith(("MLFLOW_", "BENTOML_", "DO_NOT"))}
    here = compose["services"][name].get("environment", {})
    image = dict(re.findall(r"(\w+)=(\S+)", " ".join(re.findall(r"^ENV (.*)$", stage("runtime"), re.MULTILINE))))
    image |= dict(re.findall(r"(\w+)=(\S+)", " ".join(re.findall(r"^ENV (.*)$", stage(name), re.MULTILINE))))
    for variable in own - {"MLFLOW_BACKEND_STORE_URI"}:
        home = str(local[name].cwd.parents[1])
        assert (here | image)[variable] == local[name].env()[variable].replace(home, HOME), variable
    for variable, value in local[name].env().items():
        if variable.endswith("_NUM_THREADS") or variable == "MALLOC_ARENA_MAX":
            assert image[variable] == value


@pytest.mark.parametrize("name", ["mlflow", "serving", "api", "stream"])
def test_an_image_is_healthy_when_the_local_stack_says_so(name: str, local: dict[str, Service]) -> None:
    check = getattr(local[name].check, "args", ("",))[0]  # a partial of health.http and its address
    text = re.search(r"^HEALTHCHECK .*$", stage(name), re.MULTILINE)
    assert text and f"'{check}'" in text[0]
    start = re.search(r"--start-period=(\d+)s", text[0])
    assert start and float(start[1]) == local[name].start_timeout_s


def test_servers_of_others_are_asked_for_health_as_in_the_local_stack(
    compose: dict[str, Any], local: dict[str, Service]
) -> None:
    tests = {name: " ".join(compose["services"][name]["healthcheck"]["test"]) for name in services.SERVERS[:4]}
    assert re.search(r"pg_isready --host 127.0.0.1", tests["postgres"])
    assert "kafka-broker-api-versions.sh" in tests["kafka"]
    assert "redis-cli ping" in tests["redis"]
    assert "/_cluster/health?wait_for_status=yellow&timeout=1s" in tests["elasticsearch"]
    for name in services.SERVERS[:4]:
        period = compose["services"][name]["healthcheck"]["start_period"]
        assert period == f"{local[name].start_timeout_s:.0f}s", name


def test_images_run_as_an_ordinary_user_and_install_by_hash_only() -> None:
    assert re.search(r"^USER vigil$", stage("runtime"), re.MULTILINE)
    assert not re.search(r"^USER root", DOCKERFILE, re.MULTILINE)
    for installed in re.findall(r"(?:uv )?pip install [^&\n]*", DOCKERFILE):
        assert "--require-hashes --no-deps" in installed
    for name in ("mlflow", *services.OURS, ONCE):
        assert re.search(rf"^FROM runtime AS {name}$", DOCKERFILE, re.MULTILINE)


def test_images_of_others_are_pinned_to_a_version(compose: dict[str, Any]) -> None:
    for name in (*services.SERVERS[:4], *OBSERVING):
        assert re.search(r":v?\d+", compose["services"][name]["image"]), name


# ---- the servers' own settings ------------------------------------------------------------------


def test_kafka_is_configured_as_in_the_local_stack(compose: dict[str, Any]) -> None:
    own_here = {"listeners", "advertised.listeners", "listener.security.protocol.map", "log.dirs"}
    # The image formats its storage itself, for a quorum that is named in the configuration.
    own_here |= {"controller.quorum.bootstrap.servers"}
    environment = compose["services"]["kafka"]["environment"]
    for name, value in lines(kafka.PROPERTIES).items():
        if name not in own_here:
            assert environment["KAFKA_" + name.upper().replace(".", "_")] == value, name
    assert environment["KAFKA_HEAP_OPTS"].split() == [o for o in kafka.JVM if o.startswith("-Xm")]


def test_postgres_is_configured_as_in_the_local_stack(compose: dict[str, Any]) -> None:
    own_here = {"listen_addresses", "port", "unix_socket_directories", "log_destination", "logging_collector"}
    by_memory = {"shared_buffers": "256MB", "effective_cache_size": "2GB"}  # a container does not measure its machine
    flags = dict(flag.removeprefix("-c").split("=", 1) for flag in compose["services"]["postgres"]["command"][1:])
    there = lines(postgres.CONFIGURATION.format(host="", port="", shared_buffers=0, cache=0, wal_compression="lz4"))
    for name in own_here:
        del there[name]
    there |= by_memory
    assert {name: value.strip() for name, value in flags.items()} == {k: v.strip() for k, v in there.items()}


def test_postgres_has_the_roles_and_databases_of_the_local_stack() -> None:
    script = (ROOT / "infra" / "docker" / "postgres-roles.sh").read_text()
    source = Path(postgres.__file__).read_text()
    made = set(re.findall(r"CREATE ROLE (\w+)", script))
    assert made == set(re.findall(r'"(vigil_(?:migrator|writer|reader|mlflow))"', source))
    assert dict(re.findall(r"CREATE DATABASE (\w+) OWNER (\w+)", script)) == dict(
        re.findall(r'\("(\w+)", "(vigil_\w+)"\)', source)
    )
    assert "GRANT CONNECT ON DATABASE vigil TO vigil_writer, vigil_reader" in source
    assert "GRANT CONNECT ON DATABASE vigil TO vigil_writer, vigil_reader" in script
    assert script.count("REVOKE CONNECT ON DATABASE") == 2


def test_redis_is_configured_as_in_the_local_stack(compose: dict[str, Any]) -> None:
    own_here = {"bind", "port", "protected-mode", "dir", "daemonize"}
    words = compose["services"]["redis"]["command"][1:]
    flags = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    maximum = Settings.model_fields["redis_max_memory"].default
    there = lines(redis.CONFIGURATION.format(host="-", port="-", folder="-", memory=maximum))
    assert flags == {name: value for name, value in there.items() if name not in own_here}


def test_elasticsearch_is_configured_as_in_the_local_stack(compose: dict[str, Any]) -> None:
    own_here = {"network.host", "http.port", "transport.port", "path.data", "path.logs"}
    environment = dict(compose["services"]["elasticsearch"]["environment"])
    heap = environment.pop("ES_JAVA_OPTS").split()
    assert heap == [line for line in elasticsearch.JVM_OPTIONS.splitlines() if line.startswith("-Xm")]
    there = lines(elasticsearch.CONFIGURATION)
    assert environment == {name: value for name, value in there.items() if name not in own_here}


def test_images_of_servers_have_the_versions_of_the_local_stack(compose: dict[str, Any]) -> None:
    from infra.local import jars

    pinned = {a.name: a.revision for a in jars.manifest()}
    images = {name: compose["services"][name]["image"].rpartition(":")[2] for name in ("kafka", "elasticsearch")}
    assert images == {"kafka": pinned["kafka_2.13"], "elasticsearch": pinned["elasticsearch"]}
