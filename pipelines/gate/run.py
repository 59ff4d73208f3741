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

    Judged on the data set asked for, else on the one it was trained on. Raises BadConfiguration for an unknown
    one without an override, DependencyDown.
    """
    assert request.version is not None, "a promotion names one"
    data, verdict = _verdict(settings, versions, cursor, request, now)
    written = {
        **verdict.as_json(),
        "data": data,
        "judged_at": now.isoformat(timespec="seconds"),
        "request": request.id,
        "actor": request.actor,
        "override": request.override,
        "refusals": verdict.refusals(request.override),
    }
    written = json.loads(json.dumps(written, default=float))  # numpy's numbers as JSON's
    report.log(settings, versions.run_of(request.version), request.version, written)
    return written


def _verdict(
    settings: Settings, versions: Versions, cursor: Cursor, request: Request, now: datetime
) -> tuple[str, Verdict]:
    """The data set judged on, empty where nobody named one, and what came of it."""
    version = str(request.version)
    try:
        candidate = versions.load(version)
    except (ArtifactCorrupt, FeatureSetMismatch) as error:
        return request.data or "", evidence.unsound(version, error)
    data = request.data or candidate.manifest.data_name
    if data and request.override is None and not (data_folder(settings, data) / "history.parquet").is_file():
        raise BadConfiguration(f"there is no data set {data} to judge on", remedy="vigil import or --data NAME")
    found = evidence.gather(settings, versions, candidate, data, now)
    before = requests.judged_before(cursor, replace(request, data=data), described(found.window))
    return data, judge(replace(found, attempts=before + 1))
