"""Write `jars.lock`: resolve the servers' artefacts with their dependencies and pin every file.

For whoever moves a server to a new revision: change `ROOTS`, run `python -m infra.local.relock`, review
the difference, run the service tests.
"""

import hashlib
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from feature_repo import settings as configuration
from infra.local import ivy, jars

# group, organisation, name, revision, extension, with dependencies
ROOTS = (
    ("kafka", "org.apache.kafka", "kafka_2.13", "4.3.1", "jar", True),  # 4.4.0's set is incomplete
    # Kafka logs through SLF4J 1.7 and its artefact brings no binding: without one it says nothing.
    ("kafka", "org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4", "jar", False),
    ("elasticsearch", "org.elasticsearch.distribution.integ-test-zip", "elasticsearch", "9.5.4", "zip", False),
    # Only what pyspark 4.2.0 lacks: the rest of the connector's tree is in its own jars folder.
    ("spark", "org.apache.spark", "spark-sql-kafka-0-10_2.13", "4.2.0", "jar", False),
    ("spark", "org.apache.spark", "spark-token-provider-kafka-0-10_2.13", "4.0.0", "jar", False),
    ("spark", "org.apache.kafka", "kafka-clients", "3.9.2", "jar", False),
    ("spark", "org.apache.commons", "commons-pool2", "2.13.1", "jar", False),
)
HEADER = """\
# Pinned files of the local stack, written by infra/local/relock.py:
# group, SHA-256, organisation:name:revision:extension
"""


def main() -> None:
    settings = configuration.load()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        ivy.retrieve(settings, scratch, _module(), lambda name: None, use_poms=True)
        lines = [line for report in sorted((scratch / "ivy").glob("vigil-servers-*.xml")) for line in _pins(report)]
    jars.LOCK.write_text(HEADER + "".join(f"{line}\n" for line in sorted(set(lines), key=_by_name)))


def _by_name(line: str) -> tuple[str, str]:
    group, _, coordinates = line.split()
    return group, coordinates


def _module() -> str:
    groups = sorted({row[0] for row in ROOTS})
    rows = "".join(
        f'<dependency org="{organisation}" name="{name}" rev="{revision}" conf="{group}-&gt;default"'
        f' transitive="{str(transitive).lower()}">'
        + (f'<artifact name="{name}" type="zip" ext="zip"/>' if extension == "zip" else "")
        + "</dependency>"
        for group, organisation, name, revision, extension, transitive in ROOTS
    )
    confs = "".join(f'<conf name="{group}"/>' for group in groups)
    return (
        '<ivy-module version="2.0"><info organisation="vigil" module="servers"/>'
        f"<configurations>{confs}</configurations><dependencies>{rows}</dependencies></ivy-module>"
    )


def _pins(report: Path) -> list[str]:
    """Lines of the lock for one group, from Ivy's resolution report."""
    group = report.stem.removeprefix("vigil-servers-")
    lines = []
    for module in ElementTree.parse(report).iter("module"):
        for artifact in module.iter("artifact"):
            with Path(artifact.attrib["location"]).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            revision = next(r.attrib["name"] for r in module.iter("revision") if artifact in list(r.iter("artifact")))
            organisation, name = module.attrib["organisation"], artifact.attrib["name"]
            lines.append(f"{group} {digest} {organisation}:{name}:{revision}:{artifact.attrib['ext']}")
    return lines


if __name__ == "__main__":
    main()
