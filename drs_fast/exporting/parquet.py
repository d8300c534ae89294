"""Parquet: a column each, x and z as lists of fixed size."""

import json
from pathlib import Path
from typing import Any

from drs_fast.exporting.format import Format, Part, Pieces
from drs_fast.exporting.source import Piece


class Parquet(Format):
    """One file, or a folder of files; the metadata of a list's column has the shape of its rows."""

    suffix = ".parquet"
    needs = ("pyarrow",)

    def parts(self, target: Path) -> list[Part]:
        if target.suffix == self.suffix:
            return [self._whole(target.name)]
        return super().parts(target)

    def name(self, number: int, count: int) -> str:
        return f"part-{number:05d}-of-{count:05d}.parquet"

    def made(self, piece: Piece) -> Any:
        from drs_fast.exporting import arrow

        return {name: arrow.column(rows) for name, rows in piece.items()}

    def write(self, path: Path, part: Part, pieces: Pieces) -> None:
        import pyarrow

        from drs_fast.exporting import arrow

        fields = [arrow.field(name, row) for name, row in self.source.rows.items()]
        schema = pyarrow.schema(fields, {arrow.KEY: json.dumps(self.facts).encode()})
        arrow.write(path, schema, pieces(*self.source.rows))

    def facts_in(self, path: Path) -> object:
        import pyarrow.parquet

        from drs_fast.exporting import arrow

        try:
            found = pyarrow.parquet.read_schema(path).metadata or {}
        except pyarrow.ArrowException:
            return None
        return json.loads(found.get(arrow.KEY, b"null"))
