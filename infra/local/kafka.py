"""Kafka: one KRaft node that is broker and controller."""

import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from feature_repo.errors import DependencyDown
from infra.local import account, files, health, jars
from infra.local.plan import Plan
from infra.local.service import Service

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{broker},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{broker},CONTROLLER://{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.bootstrap.servers={controller}
log.dirs={logs}

auto.create.topics.enable=false
log.message.timestamp.type=LogAppendTime
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0

# One machine, few cores, a small heap.
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=16777216
log.segment.bytes=268435456
metadata.log.max.record.bytes.between.snapshots=2097152
metadata.log.segment.bytes=16777216
metadata.max.retention.bytes=16777216
"""

LOGGING = """\
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %-5p %c{1} %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
"""

# The serial collector: with half a gigabyte of heap it costs the least memory and processor time.
JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")


def service(plan: Plan) -> Service:
    folder = plan.home / "kafka"
    return Service(
        name="kafka",
        argv=partial(_argv, plan),
        url=plan.address("kafka"),
        ports=(plan.ports["kafka"], plan.ports["kafka_controller"]),
        check=partial(health.kafka, plan.address("kafka")),
        cwd=folder,
        env=plan.environment,
        account=plan.account,
        prepare=partial(_prepare, plan),
    )


def _argv(plan: Plan) -> Sequence[str]:
    folder = plan.folder("kafka")
    return [*_java(plan, folder, *JVM), "kafka.Kafka", str(folder / "server.properties")]


def _java(plan: Plan, folder: Path, *options: str) -> list[str]:
    classpath = ":".join(str(jar) for jar in jars.classpath(plan.settings, "kafka"))
    logging = f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"
    return [str(plan.java), *options, logging, "-cp", classpath]


def _prepare(plan: Plan) -> None:
    """Write the configuration; format the storage on the first start."""
    folder = plan.folder("kafka")
    logs = folder / "logs"
    properties = PROPERTIES.format(broker=plan.address("kafka"), controller=plan.address("kafka_controller"), logs=logs)
    for name, text in (("server.properties", properties), ("log4j2.properties", LOGGING)):
        files.replace(folder / name, text)
        account.own(folder / name, plan.account)
    if not (logs / "meta.properties").exists():
        _format(plan, folder)


def _format(plan: Plan, folder: Path) -> None:
    # 16 random bytes in base64; a first character "-" would read as an option.
    cluster = "V" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
    argv = _java(plan, folder, "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    argv += ["kafka.tools.StorageTool", "format", "--standalone", "--cluster-id", cluster]
    argv += ["--config", str(folder / "server.properties"), "--ignore-formatted"]
    done = subprocess.run(
        argv,
        cwd=folder,
        env=plan.environment(),
        user=plan.account.uid if plan.account else None,
        group=plan.account.gid if plan.account else None,
        extra_groups=[] if plan.account else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise DependencyDown("kafka", str(folder), f"formatting its storage failed: {' '.join(last)}")
