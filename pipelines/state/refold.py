"""A stretch of the log folded once more, as the road folded it."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo import kernel
from feature_repo.hashing import events_of, partitions_of
from feature_repo.parser import ParseOptions, parse
from feature_repo.settings import Settings
from feature_repo.snapshot import no_snapshot
from pipelines import log
from pipelines.replay import Users, in_our_currency
from streaming.ledger import Ledger
from streaming.placement import Stretch


def refold(
    settings: Settings, ledger: Ledger, users: Users, stretch: Stretch, reached: Callable[[int], None] = lambda _: None
) -> int:
    """Fold its payments into `users`; how many there were. `reached` hears the offsets. Raises DependencyDown.

    What the stream looked merchants up in plays no part: features use it, states do not.
    """
    payments = 0
    for offsets, values, ingested in log.records(settings, stretch.partition, stretch.first, stretch.until):
        payable = ~np.isin(offsets, ledger.buried(stretch.partition, int(offsets[0]), int(offsets[-1]) + 1))
        parsed = parse(values.filter(pa.array(payable)), ingested[payable], ParseOptions.of(settings))
        ids = parsed.payments.column("user_id")
        here = partitions_of(ids, stretch.partitions, murmur2=settings.murmur2) == stretch.partition
        mine = pc.and_(pa.array(here), in_our_currency(parsed.payments, settings.currency))
        payable_offsets = offsets[payable][parsed.rows[mine.to_numpy(zero_copy_only=False)]]
        some = parsed.payments.filter(mine)
        events = events_of(some, no_snapshot)
        slots = users.place(some.column("user_id"), events.user)
        kernel.fold(users.states, slots, events, stretch.partition, payable_offsets)
        payments += len(payable_offsets)
        reached(int(offsets[-1]) + 1)
    return payments
