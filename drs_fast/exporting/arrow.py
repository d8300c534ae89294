"""Arrow tables of pieces, which `parquet` and `hf` write."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from drs_fast.exporting.source import Array, Row

KEY = b"drs_fast"  # of the facts, in a file's metadata


def kind(row: Row) -> Any:
    """A number, or a list of as many as the shape has."""
    number = pyarrow.from_numpy_dtype(row.dtype)
    return number if row.shape == () else pyarrow.list_(number, row.size)


def field(name: str, row: Row) -> Any:
    """A column, whose metadata has the shape of one row."""
    shape = {} if row.shape == () else {b"shape": json.dumps(list(row.shape)).encode()}
    return pyarrow.field(name, kind(row), nullable=False, metadata=shape)


def column(rows: Array) -> Any:
    """Rows (n, ...) as a column of numbers or of lists of fixed size."""
    numbers = pyarrow.array(rows.reshape(-1))
    if rows.ndim == 1:
        return numbers
    return pyarrow.FixedSizeListArray.from_arrays(numbers, rows[0].size)


def write(path: Path, schema: Any, batches: Any) -> None:
    """Writes batches of columns, each as a row group."""
    # Numbers that hardly repeat gain nothing from a dictionary; bytes would take four without one.
    repeated = [each.name for each in schema if not _of_floats(each.type)]
    with pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=repeated) as writer:
        for columns in batches:
            table = pyarrow.Table.from_pydict(columns, schema)
            writer.write_table(table, row_group_size=table.num_rows)


def _of_floats(kind: Any) -> bool:
    inner = kind.value_type if pyarrow.types.is_fixed_size_list(kind) else kind
    return bool(pyarrow.types.is_floating(inner))
