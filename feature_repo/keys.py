"""Names of user states and snapshots in Redis, the same for the Spark job, Feast and every tool.

The Kafka partition is the key's hash tag, so all states of a partition lie in one slot of a Redis Cluster
and can be read and written together with the partition's fence.
"""

from collections.abc import Iterable

from feature_repo.errors import GrowthUnfinished, PlacementDiffers

GROWING = "growing"  # noted in the partitioner's place while states are on their way to other partitions


def state_prefix(partition: int) -> bytes:
    """What every state key of a Kafka partition starts with."""
    return b"vigil:{%d}:s:" % partition


def state_key(user_id: str, partition: int) -> bytes:
    """The key of one user's state record; `partition` is hashing.partitions_of that user."""
    return state_prefix(partition) + user_id.encode()


def state_keys(user_ids: Iterable[str], partition: int) -> list[bytes]:
    """The keys of users of one Kafka partition."""
    prefix = state_prefix(partition)
    return [prefix + user_id.encode() for user_id in user_ids]


def state_owner(key: bytes) -> tuple[int, str]:
    """Kafka partition and user of a state key."""
    partition, _, user = key.removeprefix(b"vigil:{").partition(b"}:s:")
    return int(partition), user.decode()


def states_pattern(partition: int | None = None) -> bytes:
    """What SCAN finds the state keys of a Kafka partition by, or those of all."""
    return b"vigil:{*}:s:*" if partition is None else state_prefix(partition) + b"*"


def fence_key(partition: int) -> bytes:
    """Holds the attempt that may write states of this partition."""
    return b"vigil:{%d}:fence" % partition


def folded_key(partition: int) -> bytes:
    """Holds the offset up to which (exclusive) the partition's payments are folded into its states."""
    return b"vigil:{%d}:folded_until" % partition


def placement_key(partition: int) -> bytes:
    """Says by what number of partitions and which partitioner users were placed, where the stream has run."""
    return b"vigil:{%d}:placement" % partition


def check_placement(noted: bytes | None, placement: str) -> None:
    """What `placement_key` holds against the settings'. Raises GrowthUnfinished, PlacementDiffers."""
    if noted is None or noted.decode() == placement:
        return
    partitions, partitioner = noted.decode().split()
    if partitioner == GROWING:
        raise GrowthUnfinished(int(partitions))
    raise PlacementDiffers(placement, noted.decode())


CURRENT_SNAPSHOT = b"vigil:merchants:current"  # holds the id of the current snapshot of merchants


def snapshot_key(snapshot_id: str) -> bytes:
    """Holds a snapshot's bytes."""
    return b"vigil:merchants:" + snapshot_id.encode()
