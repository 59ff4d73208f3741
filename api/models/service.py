"""Lists versions, writes requests down, tells what became of them. The lifecycle worker does the work."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from api.errors import ChampionMoved, NothingOnTrial, RequestUnknown, VersionNotLoaded, VersionUnknown
from api.models.repository import RegistryRepository, RequestRepository, TrialRepository
from api.models.schemas import (
    Accepted,
    Cell,
    Gate,
    Models,
    ModelVersion,
    PromotionBody,
    RequestDetail,
    RollbackBody,
    Trial,
    VersionDetail,
)

PATH = "/models/requests"


class ModelsService:
    """`threshold_of` is ModelService.threshold_of."""

    def __init__(
        self,
        registry: RegistryRepository,
        requests: RequestRepository,
        trials: TrialRepository,
        threshold_of: Callable[[str], float | None],
        model_name: str,
        now: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._requests = requests
        self._trials = trials
        self._threshold_of = threshold_of
        self._name = model_name
        self._now = now

    def models(self) -> Models:
        aliases = self._registry.aliases(self._name)
        gates = self._requests.latest_by_version(self._name)
        versions = [presented(found, aliases, gates) for found in self._registry.versions(self._name)]
        return Models(model_name=self._name, aliases=aliases, versions=versions)

    def version(self, version: str) -> VersionDetail:
        """A version by its number or an alias. Raises VersionUnknown."""
        models = self.models()
        wanted = models.aliases.get(version, version)
        for found in models.versions:
            if found.version == wanted:
                return VersionDetail(**found.model_dump(), metrics=self._registry.metrics(found.run_id))
        raise VersionUnknown

    def trial(self, hours: int) -> Trial:
        """Blocks. Raises NothingOnTrial, VersionNotLoaded, StoreUnavailable."""
        aliases = self._registry.aliases(self._name)
        champion, challenger = aliases.get("champion"), aliases.get("challenger")
        if champion is None or challenger is None:
            raise NothingOnTrial
        threshold = self._threshold_of(challenger)
        if threshold is None:
            raise VersionNotLoaded(challenger)
        since = self._now() - timedelta(hours=hours)
        rows = self._trials.counts(champion, challenger, threshold, since)
        cells = {(row["champion"], row["challenger"]): row for row in rows}

        def cell(champion_flags: bool, challenger_flags: bool) -> Cell:
            row = cells.get((champion_flags, challenger_flags), {"payments": 0, "reported": 0})
            return Cell(payments=row["payments"], reported=row["reported"])

        return Trial(
            champion=champion,
            challenger=challenger,
            threshold=threshold,
            since=since,
            both=cell(True, True),
            only_champion=cell(True, False),
            only_challenger=cell(False, True),
            neither=cell(False, False),
            labelled=sum(row["labelled"] for row in rows),
        )

    def promote(self, version: str, body: PromotionBody, actor: str) -> Accepted:
        """Raises VersionUnknown for what is neither a version nor an alias now."""
        values = {"version": self._resolved(version), "data": body.data, "override": body.override}
        return self._accepted(self._requests.add("promote", actor, self._name, values))

    def challenge(self, version: str, actor: str) -> Accepted:
        """Raises VersionUnknown."""
        return self._accepted(self._requests.add("challenger", actor, self._name, {"version": self._resolved(version)}))

    def end_challenge(self, actor: str) -> Accepted:
        return self._accepted(self._requests.add("challenger", actor, self._name, {}))

    def rollback(self, body: RollbackBody, actor: str) -> Accepted:
        """One from a named champion is written down with the version it leads to. Raises ChampionMoved."""
        values: dict[str, str | None] = {}
        if body.from_version is not None:
            aliases = self._registry.aliases(self._name)
            if aliases.get("champion") != body.from_version:
                raise ChampionMoved
            values = {"version": aliases.get("previous")}
        return self._accepted(self._requests.add("rollback", actor, self._name, values))

    def request(self, request_id: int) -> RequestDetail:
        """Raises RequestUnknown."""
        row = self._requests.get(request_id)
        if row is None:
            raise RequestUnknown
        return RequestDetail(**row, state=_state(row))

    def _resolved(self, version: str) -> str:
        aliases = self._registry.aliases(self._name)
        known = {str(found["version"]) for found in self._registry.versions(self._name)}
        if version not in known and version not in aliases:
            raise VersionUnknown
        return aliases.get(version, version)

    def _accepted(self, request_id: int) -> Accepted:
        return Accepted(id=request_id, url=f"{PATH}/{request_id}")


def presented(found: dict[str, Any], aliases: dict[str, str], gates: dict[str, dict[str, Any]]) -> ModelVersion:
    """MLflow's words for a version in ours."""
    version = str(found["version"])
    tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
    gate = gates.get(version)
    return ModelVersion(
        version=version,
        aliases=sorted(alias for alias, named in aliases.items() if named == version),
        recipe=tags.get("recipe", ""),
        feature_set_id=tags.get("feature_set_id", ""),
        artifact_sha256=tags.get("artifact_sha256", ""),
        run_id=found.get("run_id", ""),
        created_at=datetime.fromtimestamp(int(found["creation_timestamp"]) / 1_000, UTC),
        gate=None if gate is None else _gate(gate),
    )


def _state(row: dict[str, Any]) -> Literal["waiting", "working", "finished"]:
    if row["finished_at"]:
        return "finished"
    return "working" if row["started_at"] else "waiting"


def _gate(row: dict[str, Any]) -> Gate:
    checks = (row["report"] or {}).get("checks", [])
    return Gate(
        request=row["id"],
        outcome=row["outcome"],
        failed=[check["name"] for check in checks if check["passed"] is False],
        override=row["override"],
        judged_at=row["finished_at"],
    )
