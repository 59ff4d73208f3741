"""Versions in MLflow's registry, requests in PostgreSQL."""

import uuid
from datetime import datetime
from typing import Any

import httpx

from api.postgres import Database
from feature_repo.errors import DependencyDown

TIMEOUT_S = 5.0
PAGE = 200
SHOWN = """id, requested_at, started_at, finished_at, actor, action, version, data, override, alert_budget, outcome,
    code, detail, aliases_before, aliases_after, report"""
# Of a payment its newest label counts.
TRIAL = """SELECT d.model_version, d.is_anomaly AS champion, d.challenger_score >= %(threshold)s AS challenger,
    count(*) AS payments, count(l.is_fraud) AS labelled, count(*) FILTER (WHERE l.is_fraud) AS reported
FROM decisions d LEFT JOIN (
    SELECT DISTINCT ON (transaction_id) transaction_id, is_fraud FROM labels
    ORDER BY transaction_id, label_time DESC, received_at DESC
) l USING (transaction_id)
WHERE d.outcome = 'scored' AND d.challenger_version = %(version)s AND d.challenger_score IS NOT NULL
    AND d.ingested_at >= %(since)s AND d.model_version = %(champion)s
GROUP BY 1, 2, 3"""


class RegistryRepository:
    """MLflow's REST interface; blocks; raises DependencyDown."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # The registry is a server of ours: a proxy meant for the internet must not be asked for it.
        self._http = httpx.Client(trust_env=False, timeout=TIMEOUT_S)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> version; empty where nothing was ever registered."""
        model = self._ask("registered-models/get", name=name).get("registered_model", {})
        return {entry["alias"]: str(entry["version"]) for entry in model.get("aliases", [])}

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Every version as MLflow describes it, newest first."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self._ask("model-versions/search", filter=f"name='{name}'", max_results=PAGE, page_token=token)
            found += page.get("model_versions", [])
            token = page.get("next_page_token", "")
            if not token:
                return sorted(found, key=lambda version: int(version["version"]), reverse=True)

    def metrics(self, run_id: str) -> dict[str, float]:
        """Of a training run, the newest value of each; empty for a run that does not exist."""
        run = self._ask("runs/get", run_id=run_id).get("run", {}) if run_id else {}
        return {metric["key"]: float(metric["value"]) for metric in run.get("data", {}).get("metrics", [])}

    def close(self) -> None:
        self._http.close()

    def _ask(self, path: str, **parameters: str | int) -> dict[str, Any]:
        """One GET; an empty answer where what is asked for does not exist."""
        try:
            response = self._http.get(f"{self._url}/api/2.0/mlflow/{path}", params=parameters)
            body: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise DependencyDown("MLflow", self._url, str(error) or type(error).__name__) from error
        if response.is_success:
            return body
        if body.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise DependencyDown("MLflow", self._url, f"HTTP status {response.status_code}")


class RequestRepository:
    """Reads with the reader's role, writes with the writer's; blocks; raises StoreUnavailable."""

    def __init__(self, reading: Database, writing: Database) -> None:
        self._reading = reading
        self._writing = writing

    def add(self, action: str, actor: str, model_name: str, values: dict[str, str | None]) -> int:
        """Returns its id. The token makes it one request, should the statement run twice."""
        given = [values.get("version"), values.get("data"), values.get("override")]
        (row,) = self._writing.rows(
            """INSERT INTO promotion_requests (token, actor, action, model_name, version, data, override)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (token) DO UPDATE SET token = excluded.token RETURNING id""",
            [str(uuid.uuid4()), actor, action, model_name, *given],
        )
        return int(row["id"])

    def get(self, request_id: int) -> dict[str, Any] | None:
        found = self._reading.rows(f"SELECT {SHOWN} FROM promotion_requests WHERE id = %s", [request_id])
        return found[0] if found else None

    def latest_by_version(self, model_name: str) -> dict[str, dict[str, Any]]:
        """The newest finished promotion of each version."""
        rows = self._reading.rows(
            f"""SELECT DISTINCT ON (version) {SHOWN} FROM promotion_requests
            WHERE model_name = %s AND action = 'promote' AND finished_at IS NOT NULL ORDER BY version, id DESC""",
            [model_name],
        )
        return {str(row["version"]): row for row in rows}


class TrialRepository:
    """Reads only; blocks; raises StoreUnavailable."""

    def __init__(self, reading: Database) -> None:
        self._reading = reading

    def counts(self, champion: str, challenger: str, threshold: float, since: datetime) -> list[dict[str, Any]]:
        """Payments with both scores that arrived since then, by who flags them."""
        values = {"champion": champion, "version": challenger, "threshold": threshold, "since": since}
        return self._reading.rows(TRIAL, values)
