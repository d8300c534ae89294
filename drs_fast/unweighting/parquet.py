"""Parquet tables, read and written in batches."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drs_fast.store import Corrupt
from drs_fast.unweighting.decision import Selection, Tally

BATCH = 2**16  # rows, or fewer if they are wide
BYTES = 2**25  # of a batch, and of the accepted rows that are collected for a row group


class Parquet:
    """A Parquet file. Rows are numbered in the order of the file."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise RuntimeError(
                "Parquet files need pyarrow, which is not installed; "
                "run: pip install 'drs_fast[parquet]'"
            ) from None
        self.path, self._arrow, self._parquet = path, pyarrow, pyarrow.parquet
        with self._undamaged():
            # Otherwise a whole row group would be read at once.
            self._file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
        self.columns: list[str] = self._file.schema_arrow.names

    def check(self, column: str) -> None:
        """ValueError unless the column is of floating-point numbers."""
        kind = self._file.schema_arrow.field(column).type
        if not self._arrow.types.is_floating(kind):
            raise ValueError(f"{column!r} must be float16, float32 or float64, got {kind}")

    def log_weights(self, column: str) -> Iterator[Tensor]:
        """The column in batches."""
        for batch in self._batches(BATCH, [column]):
            yield self._numbers(batch.column(0))

    def write(self, path: Path, selection: Selection) -> Tally:
        """Writes the rows that are kept to another file, and their overweights as a column."""
        schema, tally = self._schema(selection.weight), Tally(selection)
        groups = [self._file.metadata.row_group(i) for i in range(self._file.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        batch = max(1, min(BATCH, BYTES * self._file.metadata.num_rows // max(1, size)))
        largest = max((group.num_rows for group in groups), default=1)
        with (
            self._undamaged(),
            self._parquet.ParquetWriter(
                path, schema, compression=self._compression(selection)
            ) as writer,
        ):
            collected: list[Any] = []
            rows = held = 0
            for part in self._kept(batch, selection, tally):
                collected.append(part)
                rows, held = rows + part.num_rows, held + part.nbytes
                if rows >= largest or held >= BYTES:
                    self._write_group(writer, collected)
                    collected, rows, held = [], 0, 0
            if collected:
                self._write_group(writer, collected)
        return tally

    def _schema(self, weight: str | None) -> Any:
        schema = self._file.schema_arrow
        if weight is None:
            return schema
        return schema.append(self._arrow.field(weight, self._arrow.float64(), nullable=False))

    def _kept(self, size: int, selection: Selection, tally: Tally) -> Iterator[Any]:
        """The rows that are kept of each batch, and their overweights."""
        schema = self._schema(selection.weight)
        for batch in self._batches(size, None):
            if tally.full:
                return
            log_weight = self._numbers(batch.column(selection.log_weight))
            kept = tally.keeps(log_weight)
            mask = self._arrow.array(kept.numpy())
            columns = [self._filtered(column, mask) for column in batch.columns]
            if selection.weight is not None:
                overweight = selection.decision.weight(log_weight[kept])
                columns.append(self._arrow.array(overweight.numpy()))
            if bool(kept.any()):
                yield self._arrow.RecordBatch.from_arrays(columns, schema=schema)

    def _filtered(self, column: Any, mask: Any) -> Any:
        """The column's rows where the mask is true."""
        types = self._arrow.types
        if types.is_string_view(column.type):  # which pyarrow cannot filter
            wide = self._arrow.large_string()
        elif types.is_binary_view(column.type):
            wide = self._arrow.large_binary()
        else:
            return column.filter(mask)
        return column.cast(wide).filter(mask).cast(column.type)

    def _write_group(self, writer: Any, parts: list[Any]) -> None:
        table = self._arrow.Table.from_batches(parts).unify_dictionaries()
        writer.write_table(table, row_group_size=table.num_rows)

    def _compression(self, selection: Selection) -> dict[str, str] | str:
        """The codec of each column, as in the first row group."""
        if self._file.num_row_groups == 0:
            return "snappy"
        group = self._file.metadata.row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
        codecs = {
            chunk.path_in_schema: chunk.compression.replace("UNCOMPRESSED", "NONE")
            for chunk in chunks
        }
        if selection.weight is not None:
            codecs[selection.weight] = codecs[selection.log_weight]
        return codecs

    def _batches(self, size: int, columns: list[str] | None) -> Iterator[Any]:
        with self._undamaged():
            for group in range(
                self._file.num_row_groups
            ):  # pyarrow cannot nest dictionaries across
                yield from self._file.iter_batches(size, [group], columns, use_threads=False)

    @staticmethod
    def _numbers(column: Any) -> Tensor:
        """A column's numbers; NaN where there is none."""
        return torch.from_numpy(np.array(column.to_numpy(zero_copy_only=False)))

    @contextlib.contextmanager
    def _undamaged(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, NotImplementedError):
            raise
        except (self._arrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk, not of the file's content
            raise Corrupt(f"{self.path} is damaged or no Parquet file: {error}") from error
