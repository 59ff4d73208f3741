"""A user's own file, Parquet or CSV (also gzipped), read in batches whatever its size. CSV columns come as text."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from feature_repo.errors import BadConfiguration

BATCH_ROWS = 65_536
BLOCK_BYTES = 1 << 23
_DELIMITERS = ";\t|"

Broken = Callable[[int, str], None]  # told each CSV row that cannot be split: its number from 1, and why


class TableFile:
    """Raises BadConfiguration where the file is no table, here or while its batches are read."""

    def __init__(self, path: Path, delimiter: str = ",", encoding: str = "utf8") -> None:
        if not path.is_file():
            raise BadConfiguration(f"{path} is no file")
        self.path = path
        self.rows: int | None = None  # of a CSV unknown
        self._delimiter, self._encoding = delimiter, encoding
        self._bytes_read = 0
        self._parquet = path.name.endswith((".parquet", ".pq"))
        with self._readable():
            if self._parquet:
                with pq.ParquetFile(path) as file:
                    self.names, self.rows = list(file.schema_arrow.names), int(file.metadata.num_rows)
            else:
                with path.open("rb") as source:
                    self.names = list(self._reader(source, {}, lambda _: "skip").schema.names)
        self._check_names()

    def rows_in_all(self, read: int) -> int | None:
        """Of a CSV estimated from how far `read` rows have brought us."""
        if self.rows is not None or not self._bytes_read:
            return self.rows
        return max(read, round(read * self.path.stat().st_size / self._bytes_read))

    def batches(self, broken: Broken) -> Iterator[pa.RecordBatch]:
        """Of at most BATCH_ROWS rows."""
        with self._readable():
            yield from self._parquet_batches() if self._parquet else self._csv_batches(broken)

    def _parquet_batches(self) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)

    def _csv_batches(self, broken: Broken) -> Iterator[pa.RecordBatch]:
        def skipped(row: Any) -> str:
            broken((row.number or 1) - 1, f"the row has {row.actual_columns} values, the header {row.expected_columns}")
            return "skip"

        with self.path.open("rb") as source:
            for batch in self._reader(source, dict.fromkeys(self.names, pa.string()), skipped):
                self._bytes_read = source.tell()
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS)

    def _reader(self, source: Any, types: dict[str, pa.DataType], skipped: Callable[[Any], str]) -> Any:
        raw = pa.PythonFile(source, mode="r")
        return csv.open_csv(
            pa.CompressedInputStream(raw, "gzip") if self.path.name.endswith(".gz") else raw,
            read_options=csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, encoding=self._encoding),
            parse_options=csv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=skipped
            ),
            convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""]),
        )

    def _check_names(self) -> None:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise BadConfiguration(f"{self.path} has more than one column {', '.join(twice)}")
        found = [mark for mark in _DELIMITERS if len(self.names) == 1 and mark in self.names[0]]
        if found:
            raise BadConfiguration(
                f"{self.path} has one column only, {self.names[0]!r}", remedy=f"--delimiter {found[0]!r}"
            )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, UnicodeError, LookupError, OSError) as error:
            remedy = "--encoding latin-1, or whatever it was written in" if "UTF8" in str(error) else ""
            raise BadConfiguration(f"{self.path} cannot be read as Parquet or CSV: {error}", remedy=remedy) from error
