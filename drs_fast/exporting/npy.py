"""NumPy's plain files, one a column, which `numpy.load(..., mmap_mode="r")` maps into memory."""

from pathlib import Path

import numpy as np

from drs_fast.exporting.format import Format, Part, Pieces
from drs_fast.exporting.synced import Synced
from drs_fast.unweighting.npy import header_bytes


class Npy(Format):
    """A folder with x.npy, ids.npy and so on, and the metadata in _export.json."""

    def parts(self, target: Path) -> list[Part]:
        return [self._whole(f"{self._main}.npy")]

    def last(self) -> list[Part]:
        others = (name for name in self.source.rows if name != self._main)
        return [Part(f"{name}.npy", 0, self.source.n, shows=False) for name in others]

    def write(self, path: Path, part: Part, pieces: Pieces) -> None:
        name = part.name.removesuffix(".npy")
        row = self.source.rows[name]
        with Synced(path) as file:
            file.write(header_bytes(np.dtype(row.dtype), (self.source.n, *row.shape)))
            for piece in pieces(name):
                file.write(piece[name].reshape(-1).data)

    @property
    def _main(self) -> str:
        return "x" if "x" in self.source.rows else "ids"
