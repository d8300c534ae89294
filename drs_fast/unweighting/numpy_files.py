"""Tables in NumPy's files: a structured array (.npy), or one array per column (.npz)."""

import contextlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from drs_fast.store import Corrupt
from drs_fast.unweighting.arrays import of_numpy
from drs_fast.unweighting.decision import Selection, Tally
from drs_fast.unweighting.npy import Damaged, Header, batches, header_bytes, read_header

OVERWEIGHT = np.dtype("<f8")
Rows = np.ndarray[Any, Any]


class Structured:
    """A .npy file of a structured array (n,), whose fields are the columns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _undamaged(path), path.open("rb") as stream:
            self._header = read_header(stream, str(path))
        names = self._header.dtype.names
        if names is None or len(self._header.shape) != 1:
            raise ValueError(
                f"{path} must hold a structured array (n,), whose fields are columns, got "
                f"{self._header.shape} {self._header.dtype}; save the columns with numpy.savez"
            )
        self.columns = list(names)

    def check(self, column: str) -> None:
        """ValueError unless the column is of floating-point numbers."""
        _check_floats(column, self._header.dtype[column])

    def log_weights(self, column: str) -> Iterator[Tensor]:
        """The column in batches."""
        for rows in self._batches():
            yield of_numpy(rows[column])

    def write(self, path: Path, selection: Selection) -> Tally:
        """Writes the rows that are kept to another file, and their overweights as a field."""
        dtype, tally = self._header.dtype, Tally(selection)
        if selection.weight is not None:
            dtype = _with_field(dtype, selection.weight)
        with path.open("wb") as sink:
            most = self._header.shape[0]
            sink.write(header_bytes(dtype, (0,), most))
            for rows in self._batches():
                if tally.full:
                    break
                log_weight = of_numpy(rows[selection.log_weight])
                kept = tally.keeps(log_weight)
                given = np.zeros(int(kept.sum()), dtype)
                for name in self.columns:
                    given[name] = rows[name][kept.numpy()]
                if selection.weight is not None:
                    given[selection.weight] = selection.decision.weight(log_weight[kept]).numpy()
                sink.write(given.tobytes())
            sink.seek(0)
            sink.write(header_bytes(dtype, (tally.count,), most))
        return tally

    def _batches(self) -> Iterator[Rows]:
        """The rows. Corrupt if another file stands there now."""
        with _undamaged(self.path), self.path.open("rb") as stream:
            if read_header(stream, str(self.path)) != self._header:
                raise Corrupt(f"{self.path} was changed while it was read; run the command again")
            yield from batches(stream, self._header, self._header.batch)


class Archive:
    """A .npz file with an array (n, ...) per column; 0-d arrays in it are copied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _undamaged(path):
            self._archive = zipfile.ZipFile(path)
            self._members = self._archive.infolist()
            headers = {info.filename: self._header(info.filename) for info in self._members}
        self._headers = {name: each for name, each in headers.items() if each is not None}
        self.columns = [info.filename.removesuffix(".npy") for info in self._members]

    def check(self, column: str) -> None:
        """ValueError unless the column is (n,) floats, and all have n rows."""
        header = self._headers.get(f"{column}.npy")
        if header is None:
            raise ValueError(f"{column!r} must be (n,) floats, got what has no rows")
        _check_floats(column, header.dtype, header.shape)
        for name, other in self._headers.items():
            if other.shape[0] != header.shape[0]:
                raise ValueError(
                    f"every array in {self.path} must have {header.shape[0]} rows, as {column!r} "
                    f"has, got {other.shape} for {name.removesuffix('.npy')!r}"
                )

    def log_weights(self, column: str) -> Iterator[Tensor]:
        """The column in batches."""
        name = f"{column}.npy"
        return map(of_numpy, self._batches(name, self._headers[name].batch))

    def write(self, path: Path, selection: Selection) -> Tally:
        """Writes the rows that are kept to another file, and their overweights as an array."""
        tally, name = Tally(selection), f"{selection.log_weight}.npy"
        kept = self._decided(selection.log_weight, tally)
        with zipfile.ZipFile(path, "w") as target:
            for info in self._members:
                with target.open(_named(info.filename, info), "w", force_zip64=True) as sink:
                    if info.filename in self._headers:
                        self._write_rows(sink, info.filename, kept, tally.count)
                    else:
                        with _undamaged(self.path), self._archive.open(info) as source:
                            shutil.copyfileobj(source, sink)
            if selection.weight is not None:
                like = _named(f"{selection.weight}.npy", self._archive.getinfo(name))
                with target.open(like, "w", force_zip64=True) as sink:
                    sink.write(header_bytes(OVERWEIGHT, (tally.count,)))
                    for rows in self._kept(name, kept):
                        sink.write(selection.decision.weight(of_numpy(rows)).numpy().tobytes())
        return tally

    def _decided(self, column: str, tally: Tally) -> Rows:
        """Whether each row is kept, a bit a row up to the last one that is, in bytes."""
        bits = [np.zeros(0, np.uint8)]
        for log_weight in self.log_weights(column):
            if tally.full:
                break
            bits.append(np.packbits(tally.keeps(log_weight).numpy()))
        return np.concatenate(bits)

    def _kept(self, name: str, kept: Rows) -> Iterator[Rows]:
        """The rows of an array that are kept, in batches."""
        row = 0
        for rows in self._batches(name, self._headers[name].batch):
            if row >= 8 * len(kept):
                return
            bits = kept[row // 8 : -(-(row + len(rows)) // 8)]
            mask = np.unpackbits(bits)[row % 8 :][: len(rows)].astype(bool)
            yield rows[: len(mask)][mask]
            row += len(rows)

    def _write_rows(self, sink: IO[bytes], name: str, kept: Rows, count: int) -> None:
        header = self._headers[name]
        sink.write(header_bytes(header.dtype, (count, *header.shape[1:])))
        for rows in self._kept(name, kept):
            sink.write(rows.tobytes())

    def _header(self, name: str) -> Header | None:
        """The header of an array with rows; None for anything else."""
        if not name.endswith(".npy"):
            return None
        with self._archive.open(name) as stream:
            header = self._read(name, stream)
        return header if header.shape else None

    def _read(self, name: str, stream: IO[bytes]) -> Header:
        return read_header(stream, f"{name} in {self.path}")

    def _batches(self, name: str, size: int) -> Iterator[Rows]:
        with _undamaged(self.path), self._archive.open(name) as stream:
            yield from batches(stream, self._read(name, stream), size)


def _check_floats(column: str, dtype: np.dtype[Any], shape: tuple[int, ...] = (0,)) -> None:
    if dtype.kind != "f" or dtype.itemsize > 8 or len(shape) != 1:
        got = dtype if len(shape) == 1 else f"{shape} {dtype}"
        raise ValueError(f"{column!r} must be (n,) float16, float32 or float64, got {got}")


def _with_field(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """The dtype with one more field at its end, and all others where they were."""
    names = list(dtype.names or ())
    fields = [dtype.fields[each] for each in names] if dtype.fields else []
    return np.dtype(
        {
            "names": [*names, name],
            "formats": [*(field[0] for field in fields), OVERWEIGHT],
            "offsets": [*(field[1] for field in fields), dtype.itemsize],
            "itemsize": dtype.itemsize + OVERWEIGHT.itemsize,
        }
    )


def _named(name: str, like: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """A member with no clock in it, compressed as another."""
    made = zipfile.ZipInfo(name)
    made.compress_type, made.external_attr = like.compress_type, like.external_attr
    return made


@contextlib.contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (Damaged, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Corrupt(f"{path} is damaged: {error}") from error
