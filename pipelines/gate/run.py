"""The gate on a registered version: read, judge, write the report where the version lives."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

from feature_repo.errors import ArtifactCorrupt, BadConfiguration, FeatureSetMismatch
from feature_repo.settings import Settings
from pipelines import requests
from pipelines.gate import evidence, report
from pipelines.gate.judge import described, judge
from pipelines.gate.verdict import Verdict
from pipelines.history import data_folder
from pipelines.requests import Cursor, Request
from pipelines.versions import Versions


def judged(settings: Settings, versions: Versions, cursor: Cursor, request: Request, now: datetime) -> dict[str, Any]:
    """The report of one version (`request.version`, a number), logged to its run; `refusals` decides.

    Raises BadConfiguration for an unknown data set without an override, DependencyDown.
    """
    assert request.version is not None and request.data is not None, "a promotion names both"
    verdict = _verdict(settings, versions, cursor, request, now)
    written = {
        **verdict.as_json(),
        "data": request.data,
        "judged_at": now.isoformat(timespec="seconds"),
        "request": request.id,
        "actor": request.actor,
        "override": request.override,
        "refusals": verdict.refusals(request.override),
    }
    written = json.loads(json.dumps(written, default=float))  # numpy's numbers as JSON's
    report.log(settings, versions.run_of(request.version), request.version, written)
    return written


def _verdict(settings: Settings, versions: Versions, cursor: Cursor, request: Request, now: datetime) -> Verdict:
    version, data = str(request.version), str(request.data)
    try:
        candidate = versions.load(version)
    except (ArtifactCorrupt, FeatureSetMismatch) as error:
        return evidence.unsound(version, error)
    if request.override is None and not (data_folder(settings, data) / "history.parquet").is_file():
        raise BadConfiguration(f"there is no data set {data} to judge on", remedy="vigil import or --data NAME")
    found = evidence.gather(settings, versions, candidate, data, now)
    before = requests.judged_before(cursor, request, described(found.window))
    return judge(replace(found, attempts=before + 1))
