"""A folder of PNG files with metadata.jsonl, which `load_dataset("imagefolder")` reads."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from drs_fast.exporting import pictures
from drs_fast.exporting.format import Format, Part, Pieces
from drs_fast.exporting.source import Piece

METADATA = "metadata.jsonl"


class ImageFolder(Format):
    """Folders 00000, 00001, ... of pictures; metadata.jsonl has their ids, logits and so on."""

    pictures = "always"
    holds = ("x", "logit", "weight")

    def name(self, number: int, count: int) -> str:
        return f"{number:05d}"

    def last(self) -> list[Part]:
        return [Part(METADATA, 0, self.source.n, shows=False)]

    def made(self, piece: Piece) -> Any:
        return pictures.encoded(piece["x"]) if "x" in piece else piece

    def write(self, path: Path, part: Part, pieces: Pieces) -> None:
        if part.name == METADATA:
            self._write_metadata(path, pieces)
            return
        path.mkdir()
        try:
            row = part.start
            for files in pieces("x"):
                for data in files:
                    (path / _file(row)).write_bytes(data)
                    row += 1
            if sys.platform != "win32":
                os.sync()  # thousands of small files, one by one, would take ten times as long
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def _write_metadata(self, path: Path, pieces: Pieces) -> None:
        row = 0
        with path.open("w", encoding="utf8") as file:
            for piece in pieces(*(name for name in self.source.rows if name != "x")):
                for numbers in zip(*(rows.tolist() for rows in piece.values()), strict=True):
                    folder = self.name(row // self.rows_per_file, 0)
                    line = {"file_name": f"{folder}/{_file(row)}"}
                    file.write(
                        json.dumps({**line, **dict(zip(piece, numbers, strict=True))}) + "\n"
                    )
                    row += 1


def _file(row: int) -> str:
    return f"{row:010d}.png"
