"""Which models this worker serves: follows the registry's aliases, without ever stopping to serve.

A new champion is fetched and checked beside the old one, then takes its place in one assignment. The
version before it stays loaded, so that a batch pinned to it can finish. A bad artefact is refused and the
old one keeps serving; so it does while the registry is away.

The challenger is loaded beside them with the same checks and scores what it is asked to; it decides nothing. A
bad one is refused, and what was challenger before is let go: rows never carry a version no alias names.
"""

import json
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from feature_repo.errors import (
    ArtifactCorrupt,
    DependencyDown,
    FeatureSetMismatch,
    ModelLoading,
    ModelVersionMismatch,
    VigilError,
)
from serving import artifact
from serving.artifact import Artifact
from serving.source import CHALLENGER, CHAMPION, Registered, Source

SHA256 = re.compile("[0-9a-f]{64}")  # also the artefact's file name in the cache

log = logging.getLogger("vigil.serving.registry")


@dataclass(frozen=True)
class Held:
    """The models in memory at one moment. A request takes one `Held` and uses nothing newer."""

    champion: Artifact | None = None
    previous: Artifact | None = None
    challenger: Artifact | None = None

    @property
    def loaded(self) -> tuple[Artifact, ...]:
        """Each once: after a rollback the challenger may be the version that served before."""
        models = (self.champion, self.previous, self.challenger)
        return tuple({id(model): model for model in models if model is not None}.values())

    def get(self, version: str | None = None) -> Artifact:
        """That version, or the champion. Raises ModelLoading while there is none, ModelVersionMismatch."""
        if self.champion is None:
            raise ModelLoading
        if version is None:
            return self.champion
        for model in self.loaded:
            if model.version == version:
                return model
        raise ModelVersionMismatch(version, [model.version for model in self.loaded])


@dataclass(frozen=True)
class Refusal:
    """The version the alias names and why it does not serve."""

    registered: Registered
    error: VigilError


class Registry:
    """`refresh` is called by one thread, `held` is read by any."""

    def __init__(self, source: Source, cache: Path) -> None:
        self._source = source
        self._cache = Cache(cache)
        self.held = Held()
        self.refusal: Refusal | None = None  # of the champion
        self.challenger_refusal: Refusal | None = None
        self.reachable = False

    def refresh(self) -> bool:
        """Ask the registry once and follow it; True where other models are held afterwards.

        Blocks while an artefact is fetched and checked. Raises nothing: what is wrong is kept in
        `reachable` and `refusal`, and the models held stay.
        """
        before = self.held
        try:
            wanted = self._source.named(CHAMPION)
            self.reachable = True
            if wanted is not None:
                self._follow(wanted)
            if self.held.champion is not None:
                self._follow_challenger(self._source.named(CHALLENGER))
        except DependencyDown as error:
            if self.reachable or before.champion is None:
                log.warning("registry away, serving what is loaded: %s", error)
            self.reachable = False
            if self.held.champion is None:
                self._serve_last_good()
        return self.held is not before

    def _follow(self, wanted: Registered) -> None:
        held = self.held
        if held.champion is not None and _same(held.champion, wanted):
            self.refusal = None
            return
        if self.refusal is not None and self.refusal.registered == wanted:
            return  # refused before; nothing about it has changed
        try:
            model = self._load(wanted)
        except (ArtifactCorrupt, FeatureSetMismatch) as error:
            self.refusal = Refusal(wanted, error)
            log.error("version %s refused (%s): %s", wanted.version, error.code, error)
            if held.champion is None:
                self._serve_last_good()
            return
        challenger = None if model is held.challenger else held.challenger  # promoted
        self.held = Held(champion=model, previous=held.champion, challenger=challenger)
        self.refusal = None
        self._cache.remember(wanted)
        self._cache.keep(self.held.loaded)
        log.info("serving version %s (%s)", model.version, model.sha256[:12])

    def _follow_challenger(self, wanted: Registered | None) -> None:
        """After the champion, which it must not delay by more than its loading takes."""
        held = self.held
        assert held.champion is not None, "there is none to challenge"
        if wanted is None or _same(held.champion, wanted):  # just promoted: the alias is about to go
            self.challenger_refusal = None
            self._challenge_with(None)
            return
        if held.challenger is not None and _same(held.challenger, wanted):
            self.challenger_refusal = None
            return
        if self.challenger_refusal is not None and self.challenger_refusal.registered == wanted:
            return
        self._challenge_with(None)
        try:
            self._challenge_with(self._load(wanted))
            self.challenger_refusal = None
        except (ArtifactCorrupt, FeatureSetMismatch) as error:
            self.challenger_refusal = Refusal(wanted, error)
            log.error("challenger %s refused (%s): %s", wanted.version, error.code, error)

    def _challenge_with(self, model: Artifact | None) -> None:
        if model is self.held.challenger:
            return
        self.held = replace(self.held, challenger=model)
        self._cache.keep(self.held.loaded)
        log.info("challenger is %s", "none" if model is None else f"version {model.version} ({model.sha256[:12]})")

    def _load(self, wanted: Registered) -> Artifact:
        """The model from memory, from the cache or from the registry, checked. Blocks."""
        for model in self.held.loaded:
            if _same(model, wanted):
                return model
        if not SHA256.fullmatch(wanted.sha256):
            raise ArtifactCorrupt(f"version {wanted.version}", "the registry holds no sha256 for it")
        kept = self._cache.path(wanted.sha256)
        try:
            return artifact.load(kept, wanted.sha256, wanted.version)
        except (OSError, VigilError):
            pass  # never fetched, or spoilt on disk: the registry has the original
        part = kept.with_suffix(f".{os.getpid()}.part")
        try:
            self._source.fetch(wanted, part)
            model = artifact.load(part, wanted.sha256, wanted.version)
            part.replace(kept)  # only what passed every check is kept
            return model
        finally:
            part.unlink(missing_ok=True)

    def _serve_last_good(self) -> None:
        """With nothing in memory: the champion this machine served last, if its artefact is still sound."""
        last = self._cache.last_good()
        if last is None:
            return
        try:
            model = artifact.load(self._cache.path(last.sha256), last.sha256, last.version)
        except (ArtifactCorrupt, FeatureSetMismatch, OSError) as error:
            log.error("the last good version %s is not usable any more: %s", last.version, error)
            return
        self.held = Held(champion=model)
        log.warning("serving version %s from the local cache", model.version)


class Cache:
    """Artefacts on disk by their hash, and which of them served last. Shared by the workers of a machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._note = folder / "last_good.json"
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.onnx"

    def last_good(self) -> Registered | None:
        try:
            note = json.loads(self._note.read_text())
            return Registered(version=str(note["version"]), sha256=str(note["sha256"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no note, or one that was never finished: there is nothing to fall back to

    def remember(self, registered: Registered) -> None:
        """Note the version as the last good one."""
        part = self._note.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"version": registered.version, "sha256": registered.sha256}))
        part.replace(self._note)

    def keep(self, models: tuple[Artifact, ...]) -> None:
        """Drop the artefacts of all others."""
        kept = {model.sha256 for model in models}
        for file in self._folder.glob("*.onnx"):
            if file.stem not in kept:
                file.unlink(missing_ok=True)


def _same(model: Artifact, registered: Registered) -> bool:
    return (model.version, model.sha256) == (registered.version, registered.sha256)
