"""A history folded once more as `vigil replay --online` folds it, to begin a rebuild from."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo import kernel
from feature_repo.errors import BadConfiguration
from feature_repo.hashing import events_of, partitions_of
from feature_repo.settings import Settings
from feature_repo.snapshot import no_snapshot
from feature_repo.state import States
from pipelines.history import data_folder
from pipelines.replay import Users, batches, in_our_currency


class History:
    """A data set's payments as states, read when first asked for.

    Every method may raise BadConfiguration and DataInvalid.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self._settings = settings

    def states(self, partition: int) -> Iterator[tuple[pa.Array, States]]:
        """Users of a partition and their records, outside Kafka as replay leaves them."""
        users, _ = self._folded
        ids, states = users.all()
        mine = self._partitions(ids) == partition
        yield ids.filter(pa.array(mine)), states[mine]

    def users(self) -> Users:
        """All of them, to fold on into: this history is not to be asked again."""
        users, _ = self._folded
        return users

    def last_arrival(self, partition: int) -> int:
        """Of the partition's users, microseconds since 1970; 0 where the history has nothing of them."""
        _, arrivals = self._folded
        return int(arrivals[partition])

    @cached_property
    def _folded(self) -> tuple[Users, npt.NDArray[np.int64]]:
        folder = data_folder(self._settings, self.name)
        if not (folder / "history.parquet").is_file():
            raise BadConfiguration(f"no history in {folder}", remedy="vigil import, or vigil export --with-history")
        users, last = Users(), np.zeros(self._settings.partitions, np.int64)
        for payments, arrivals, _ in batches(folder, self.name):
            np.maximum.at(last, self._partitions(payments.column("user_id")), arrivals)
            payments = payments.filter(in_our_currency(payments, self._settings.currency))
            events = events_of(payments, no_snapshot)
            slots = users.place(payments.column("user_id"), events.user)
            kernel.fold(users.states, slots, events, -1, np.full(len(slots), -1, np.int64))
        return users, last

    def _partitions(self, ids: pa.Array) -> npt.NDArray[np.int32]:
        return partitions_of(ids, self._settings.partitions, murmur2=self._settings.murmur2)
