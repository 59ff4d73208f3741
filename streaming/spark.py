"""What the two Spark processes, `vigil stream` and `vigil windows`, have in common."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def spark_session(
    settings: Settings, jars: list[Path], master: str, name: str, folder: Path, options: dict[str, Any]
) -> "SparkSession":
    """The session of `vigil NAME` with its files in `folder`: UTC, nothing beyond `bind`; `options` are its own."""
    from pyspark.sql import SparkSession

    common: dict[str, Any] = {
        "spark.jars": ",".join(str(jar) for jar in jars),
        "spark.driver.host": settings.internal_bind,
        "spark.driver.bindAddress": settings.internal_bind,
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.streaming.minBatchesToRetain": 2,
        "spark.sql.streaming.numRecentProgressUpdates": 20,
        # A checkpoint file costs two forks of `chmod` with a checksum beside it, one without.
        "spark.hadoop.fs.AbstractFileSystem.file.impl": "org.apache.hadoop.fs.local.RawLocalFs",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.local.dir": str(folder / "local"),
        "spark.log.level": "WARN",
    }
    os.environ["SPARK_LOCAL_IP"] = (
        settings.internal_bind
    )  # the only way to say outside spark-submit where its page listens
    builder = SparkSession.builder.master(master).appName(f"vigil-{name}")
    for option, value in (common | options).items():
        builder = builder.config(option, str(value))
    return builder.getOrCreate()
