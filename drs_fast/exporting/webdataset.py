"""WebDataset: tar files of a fixed number of samples, each of a few members with one key."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from drs_fast.exporting import pictures
from drs_fast.exporting.format import Format, Part, Pieces
from drs_fast.exporting.source import LABEL, Array, Piece

ARRAYS = ("x", "z")


class WebDataset(Format):
    """A folder of 00000.tar, 00001.tar, ..., and the metadata in _export.json.

    A sample has png (or x.npy, if it is no picture), z.npy, cls with its label, and json with ids,
    logit, label and weight. Its key is its place in the run.
    """

    pictures = "where possible"

    def name(self, number: int, count: int) -> str:
        return f"{number:05d}.tar"

    def made(self, piece: Piece) -> Any:
        made: dict[str, list[bytes]] = {}
        if self.facts["pictures"]:
            made["png"] = pictures.encoded(piece["x"])
        else:
            made["x.npy"] = _arrays(piece["x"])
        if "z" in piece:
            made["z.npy"] = _arrays(piece["z"])
        numbers = {name: rows.tolist() for name, rows in piece.items() if name not in ARRAYS}
        if LABEL in numbers:
            made["cls"] = [str(label).encode() for label in numbers[LABEL]]
        lines = (
            dict(zip(numbers, row, strict=True)) for row in zip(*numbers.values(), strict=True)
        )
        made["json"] = [json.dumps(line).encode() for line in lines]
        return made

    def write(self, path: Path, part: Part, pieces: Pieces) -> None:
        row = part.start
        with path.open("wb", buffering=2**20) as file:
            for made in pieces(*self.source.rows):
                for members in zip(*made.values(), strict=True):
                    for ending, data in zip(made, members, strict=True):
                        entry = tarfile.TarInfo(f"{row:010d}.{ending}")
                        entry.size = len(data)
                        file.write(entry.tobuf(tarfile.USTAR_FORMAT))
                        file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
                    row += 1
            file.write(bytes(2 * tarfile.BLOCKSIZE))
            file.write(bytes(-file.tell() % tarfile.RECORDSIZE))


def _arrays(rows: Array) -> list[bytes]:
    found = []
    for row in rows:
        file = io.BytesIO()
        np.save(file, row)
        found.append(file.getvalue())
    return found
