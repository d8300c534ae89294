"""NumPy's archive, as the evaluator of ADM (guided-diffusion) reads it.

Source: Dhariwal and Nichol, Diffusion models beat GANs on image synthesis (2021),
github.com/openai/guided-diffusion, evaluations/README.md.
"""

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from drs_fast.exporting.format import Format, Part, Pieces
from drs_fast.exporting.pictures import last_channel
from drs_fast.exporting.source import LABEL, Array, Piece
from drs_fast.exporting.synced import Synced
from drs_fast.unweighting.npy import header_bytes

METADATA = "metadata"
ADM = {"x": "arr_0", LABEL: "arr_1"}  # its names
COLOURS = 3


class Npz(Format):
    """One file: arr_0 of uint8 (n, height, width, 3), arr_1 the labels, others by their names.

    Grey pictures come three times, because the evaluator knows no others.
    """

    suffix = ".npz"
    folder = False
    pictures = "always"

    def parts(self, target: Path) -> list[Part]:
        return [self._whole(target.name)]

    def made(self, piece: Piece) -> Any:
        if "x" in piece:
            x = last_channel(piece["x"])
            grey = x.shape[-1] == 1
            piece = {"x": np.repeat(x, COLOURS, axis=-1) if grey else x}
        return piece

    def write(self, path: Path, part: Part, pieces: Pieces) -> None:
        with Synced(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, row in self.source.rows.items():
                shape = row.shape
                if name == "x":
                    shape = (*shape[-2:], COLOURS)
                batches = (piece[name] for piece in pieces(name))
                head = header_bytes(np.dtype(row.dtype), (self.source.n, *shape))
                _add(archive, ADM.get(name, name), head, batches)
            text = io.BytesIO()
            np.save(text, np.array(json.dumps(self.facts)))
            archive.writestr(zipfile.ZipInfo(f"{METADATA}.npy"), text.getvalue())

    def facts_in(self, path: Path) -> object:
        try:
            with np.load(path) as archive:
                return json.loads(str(archive[METADATA])) if METADATA in archive else None
        except (ValueError, TypeError, EOFError, zipfile.BadZipFile):
            return None  # another file


def _add(archive: zipfile.ZipFile, name: str, header: bytes, batches: Iterable[Array]) -> None:
    """Adds an array, with no clock in its entry."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as sink:
        sink.write(header)
        for rows in batches:
            sink.write(np.ascontiguousarray(rows).data)
