"""Elasticsearch: one node of the slim distribution, for search over decisions."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from infra.local import account, files, health, jars
from infra.local.plan import Plan
from infra.local.ports import HOST
from infra.local.service import Service

CONFIGURATION = """\
cluster.name: vigil
node.name: vigil
discovery.type: single-node
network.host: {host}
http.port: {http}
transport.port: {transport}
path.data: {folder}/data
path.logs: {folder}/logs
xpack.security.enabled: false
action.destructive_requires_name: true
# The whole stack shares one disk: keep the flood stage, which makes indices read-only, for a disk that is
# really full.
cluster.routing.allocation.disk.watermark.low: 97%
cluster.routing.allocation.disk.watermark.high: 98%
cluster.routing.allocation.disk.watermark.flood_stage: 99%
cluster.routing.allocation.disk.watermark.flood_stage.max_headroom: 512mb
cluster.routing.allocation.disk.watermark.high.max_headroom: 1gb
cluster.routing.allocation.disk.watermark.low.max_headroom: 2gb
"""

# Beside what the distribution sets: memory is taken as it is used (600 MB after the start instead of
# 1.3 GB), and the optimising compiler waits for code that stays hot, which saves a fifth of the start.
# The collector stays G1: the real-memory circuit breaker relies on it.
JVM_OPTIONS = """\
-Xms1g
-Xmx1g
-XX:+UseG1GC
-XX:-AlwaysPreTouch
-XX:Tier4InvocationThreshold=20000
-XX:Tier4MinInvocationThreshold=2400
-XX:Tier4CompileThreshold=60000
-XX:Tier4BackEdgeThreshold=160000
-Djava.io.tmpdir=${{ES_TMPDIR}}
20-:--add-modules=jdk.incubator.vector
-Dorg.apache.lucene.store.defaultReadAdvice=normal
-Dorg.apache.lucene.store.MMapDirectory.sharedArenaMaxPermits=1
-XX:+ExitOnOutOfMemoryError
-XX:ErrorFile={folder}/logs/hs_err_pid%p.log
"""

LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.node.name = org.elasticsearch.node.Node
logger.node.level = info
"""


def service(plan: Plan) -> Service:
    folder = plan.home / "elasticsearch"
    return Service(
        name="elasticsearch",
        argv=partial(_argv, plan),
        url=f"http://{plan.address('elasticsearch')}",
        ports=(plan.ports["elasticsearch"], plan.ports["elasticsearch_transport"]),
        check=partial(health.elasticsearch, f"http://{plan.address('elasticsearch')}"),
        cwd=folder,
        env=partial(_environment, plan),
        account=plan.account,
        prepare=partial(_prepare, plan),
        stop_timeout_s=40,
    )


def _argv(plan: Plan) -> Sequence[str]:
    # Search may fall behind by seconds, decisions may not: where the cores are short, it is Elasticsearch that waits.
    return ["nice", "-n", "5", str(jars.elasticsearch(plan.settings) / "bin" / "elasticsearch")]


def _environment(plan: Plan) -> dict[str, str]:
    folder = plan.folder("elasticsearch")
    return plan.environment(
        ES_JAVA_HOME=str(plan.java.parents[1]),
        ES_PATH_CONF=str(folder / "config"),
        ES_TMPDIR=str(folder / "tmp"),
        CLI_JAVA_OPTS="-XX:TieredStopAtLevel=1",
    )


def _prepare(plan: Plan) -> None:
    folder = plan.folder("elasticsearch")
    for name in ("config", "data", "logs", "tmp"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
        account.own(folder / name, plan.account)
    for name, text in _configuration(plan, folder).items():
        files.replace(folder / "config" / name, text)
        account.own(folder / "config" / name, plan.account)


def _configuration(plan: Plan, folder: Path) -> dict[str, str]:
    ports = plan.ports
    node = CONFIGURATION.format(
        host=HOST, http=ports["elasticsearch"], transport=ports["elasticsearch_transport"], folder=folder
    )
    return {
        "elasticsearch.yml": node,
        "jvm.options": JVM_OPTIONS.format(folder=folder),
        "log4j2.properties": LOGGING,
    }
