"""Lines of Elasticsearch's bulk protocol, made of decision documents.

The message on topic `decisions` already is the document, byte for byte. What addresses it (id, revision,
day) are its first three keys, read with one pattern: parsing the whole document would cost ten times
as much as everything else the indexer does with it.
"""

import re

NOT_A_DECISION = "NOT_A_DECISION"

_HEAD = re.compile(
    rb'\{\s*"decision_id"\s*:\s*"([A-Za-z0-9._-]{1,300})"\s*,\s*"revision"\s*:\s*([1-9][0-9]{0,2})\s*,'
    rb'\s*"ingested_at"\s*:\s*"([0-9]{4})-([0-9]{2})-([0-9]{2})T'
)
_ENTRY = b'{"index":{"_index":"decisions-%b.%b.%b","_id":"%b","version":%b,"version_type":"external_gte"}}\n%b\n'


def entry(document: bytes) -> bytes | None:
    """The document with its line of the bulk protocol before it; None where it is no decision.

    The index is the day (UTC) of the broker's timestamp, the id is stable, and the revision is an external
    version: writing a document again, or an older revision of it, changes nothing.
    """
    head = _HEAD.match(document)
    if head is None or b"\n" in document:
        return None
    identity, revision, year, month, day = head.groups()
    return _ENTRY % (year, month, day, identity, revision, document)


def address(entry: bytes) -> tuple[str, int]:
    """Id and revision of the decision that `entry` was made of."""
    head = _HEAD.match(entry, entry.index(b"\n") + 1)
    assert head is not None, "entries are made by entry()"
    return head[1].decode(), int(head[2])
