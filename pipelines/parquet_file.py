"""Parquet files of payments, written in row groups and appearing whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 131_072
# Columns of few values; a dictionary of all ids would only be a second copy of them.
_REPEATING = [
    *("user_id", "merchant", "location", "payment_method", "currency", "merchant_category", "channel", "device_id"),
    *("mechanism", "reason"),
]


class Rows:
    """Collects record batches and writes them in row groups of ROW_GROUP, so that small batches cost nothing."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self.writer = writer
        self.schema = schema
        self.waiting: list[pa.RecordBatch] = []
        self.count = 0
        self._waiting_rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.waiting.append(batch)
        self.count += batch.num_rows
        self._waiting_rows += batch.num_rows
        if self._waiting_rows >= ROW_GROUP:
            self._write(self._waiting_rows // ROW_GROUP * ROW_GROUP)

    def close(self) -> None:
        self._write(self._waiting_rows)

    def _write(self, rows: int) -> None:
        """The first `rows` of what waits; the rest keeps waiting."""
        table = pa.Table.from_batches(self.waiting, self.schema)
        self.writer.write_table(table.slice(0, rows).combine_chunks(), row_group_size=ROW_GROUP)
        self.waiting = table.slice(rows).to_batches()
        self._waiting_rows -= rows


@contextmanager
def written(path: Path, schema: pa.Schema) -> Iterator[Rows]:
    """Rows for `path`, which is replaced when the block ends well and untouched when it does not."""
    partial = path.with_name(path.name + ".partial")
    repeating = [name for name in _REPEATING if name in schema.names]
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd", use_dictionary=repeating) as writer:
            rows = Rows(writer, schema)
            yield rows
            rows.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomically(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet writer whose file appears under its name only when everything is in it."""
    partial = path.with_suffix(f".{uuid4().hex}.partial")  # two may write it at once, each the whole of it
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd", use_dictionary=False) as writer:
            yield writer
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
