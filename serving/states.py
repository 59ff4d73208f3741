"""User states as detection reads them: one record per call, from Feast's online store."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from feature_repo import layouts, state
from feature_repo.errors import StoreUnavailable, VigilError
from feature_repo.settings import Settings
from feature_repo.state import States

log = logging.getLogger("vigil.serving.states")

VIEW = "user_activity"
NOBODY = "nobody"
OPEN_WAIT_S = 1.0  # what a caller waits for Feast to be imported before it hears 503


class FeastStates:
    """See detect.StateReader. Opens in a thread of its own: importing Feast takes seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened = threading.Event()
        self._store: Any = None
        self._lock = threading.Lock()
        threading.Thread(target=self._open, name="vigil-feast", daemon=True).start()

    @property
    def ready(self) -> bool:
        return self._opened.is_set()

    def read(self, user_id: str, user_hash: np.uint64) -> States:
        if not self._opened.wait(OPEN_WAIT_S):
            raise self._down("still opening")
        owner = np.array([user_hash], np.uint64)
        record = self._ask(user_id)
        if record is None:
            return state.empty(owner)
        return layouts.read([record], owner)

    def _ask(self, user_id: str) -> bytes | None:
        """The user's record. A view Feast does not know is looked up anew: it may have been applied since."""
        from feast.errors import FeastObjectNotFoundException

        question = {"features": [f"{VIEW}:{self._field}"], "entity_rows": [{"user_id": user_id}]}
        try:
            try:
                answer = self._store.get_online_features(**question)
            except FeastObjectNotFoundException:
                with self._lock:
                    self._store.refresh_registry()
                answer = self._store.get_online_features(**question)
        except (FeastObjectNotFoundException, FileNotFoundError) as error:
            raise self._down(f"{error}; feast apply has not run") from error
        record: bytes | None = answer.to_dict()[self._field][0]
        return record

    def _open(self) -> None:
        with _unimportable("torch"):
            from feature_repo import definitions
            from feature_repo.online_store import STATE_FIELD

            self._field = STATE_FIELD
            self._store = definitions.store(self._settings)
            try:
                with suppress(VigilError):  # what is wrong is told to whoever asks
                    self._ask(NOBODY)  # the first question takes Feast seconds where others wait beside it
            finally:
                self._opened.set()
        log.info("Feast is open")

    def _down(self, cause: str) -> StoreUnavailable:
        return StoreUnavailable("the feature store", str(self._settings.home), cause)


@contextmanager
def _unimportable(name: str) -> Iterator[None]:
    """Feast imports torch wherever it finds it, for tensors nobody asks for here: 490 MB and 4 s a worker."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say "not importable"
    try:
        yield
    finally:
        del sys.modules[name]
