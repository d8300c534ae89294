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
from drs_fast.unweighting.decision import Selection
from drs_fast.unweighting.npy import Damaged, Header, batches, header_bytes, read_header

OVERWEIGHT = np.dtype("<f8")
Rows = np.ndarray[Any, Any]


class Structured:
    """A .npy file of a structured array (n,), whose fields are the columns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as (_, self._header):
            pass
        names = self._header.dtype.names
        if names is None or len(self._header.shape) != 1:
            raise ValueError(
                f"{path} must hold a structured array (n,), whose fields are columns, got "
                f"{self._header.shape} {self._header.dtype}; save the columns with numpy.savez"
            )
        self.columns = list(names)

    def log_weights(self, column: str) -> Iterator[Tensor]:
        """The column in batches; ValueError unless it is of floating-point numbers."""
        _check_floats(column, self._header.dtype[column])
        with self._opened() as (stream, header):
            for rows in batches(stream, header, header.batch):
                yield of_numpy(rows[column])

    def write(self, path: Path, selection: Selection) -> None:
        """Writes the rows that are kept to another file, and their overweights as a field."""
        dtype = self._header.dtype
        if selection.weight is not None:
            dtype = _with_field(dtype, selection.weight)
        with self._opened() as (stream, header), path.open("wb") as sink:
            sink.write(header_bytes(dtype, (selection.count,)))
            every = batches(stream, header, header.batch)
            log_weights = self.log_weights(selection.log_weight)
            count = 0
            for rows, weights in _kept(every, log_weights, selection):
                given = np.zeros(len(rows), dtype)
                for name in self.columns:
                    given[name] = rows[name]
                if selection.weight is not None:
                    given[selection.weight] = weights
                sink.write(given.tobytes())
                count += len(rows)
        _check_unchanged(self.path, count, selection)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], Header]]:
        with _undamaged(self.path), self.path.open("rb") as stream:
            yield stream, read_header(stream, str(self.path))


class Archive:
    """A .npz file with an array (n, ...) per column; 0-d arrays in it are copied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _undamaged(path):
            self._archive = zipfile.ZipFile(path)
            self._members = self._archive.infolist()
            headers = {info.filename: self._header(info.filename) for info in self._members}
        self._headers = {name: each for name, each in headers.items() if each is not None}
        self.columns = [name.removesuffix(".npy") for name in self._headers]

    def log_weights(self, column: str) -> Iterator[Tensor]:
        """The column in batches; ValueError unless it is (n,) floats, and all have n rows."""
        header = self._headers[f"{column}.npy"]
        _check_floats(column, header.dtype, header.shape)
        for name, other in self._headers.items():
            if other.shape[0] != header.shape[0]:
                raise ValueError(
                    f"every array in {self.path} must have {header.shape[0]} rows, as {column!r} "
                    f"has, got {other.shape} for {name.removesuffix('.npy')!r}"
                )
        return map(of_numpy, self._batches(f"{column}.npy", header.batch))

    def write(self, path: Path, selection: Selection) -> None:
        """Writes the rows that are kept to another file, and their overweights as an array."""
        with zipfile.ZipFile(path, "w") as target:
            for info in self._members:
                if info.filename in self._headers:
                    self._write_rows(target, info, selection)
                else:
                    with (
                        _undamaged(self.path),
                        self._archive.open(info) as source,
                        target.open(_named(info.filename, info), "w") as sink,
                    ):
                        shutil.copyfileobj(source, sink)
            if selection.weight is not None:
                name = f"{selection.log_weight}.npy"
                like = self._archive.getinfo(name)
                header = self._headers[name]
                every = self._batches(name, header.batch)
                with target.open(_named(f"{selection.weight}.npy", like), "w") as sink:
                    sink.write(header_bytes(OVERWEIGHT, (selection.count,)))
                    log_weights = self.log_weights(selection.log_weight)
                    for _, weights in _kept(every, log_weights, selection):
                        sink.write(weights.tobytes())

    def _write_rows(
        self, target: zipfile.ZipFile, info: zipfile.ZipInfo, selection: Selection
    ) -> None:
        header = self._headers[info.filename]
        every = self._batches(info.filename, header.batch)
        same = self._batches(f"{selection.log_weight}.npy", header.batch)
        count = 0
        with target.open(_named(info.filename, info), "w", force_zip64=True) as sink:
            sink.write(header_bytes(header.dtype, (selection.count, *header.shape[1:])))
            for rows, _ in _kept(every, map(of_numpy, same), selection):
                sink.write(rows.tobytes())
                count += len(rows)
        _check_unchanged(self.path, count, selection)

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


def _kept(
    every: Iterator[Rows], log_weights: Iterator[Tensor], selection: Selection
) -> Iterator[tuple[Rows, Rows]]:
    """The rows that are kept of each batch, and their overweights; ends at the last row kept."""
    row, decision = 0, selection.decision
    for rows, log_weight in zip(every, log_weights, strict=True):
        kept = decision.keeps(log_weight, row)
        yield rows[kept.numpy()], decision.weight(log_weight[kept]).numpy()
        row += len(rows)
        if row >= decision.stop:
            return


def _check_floats(column: str, dtype: np.dtype[Any], shape: tuple[int, ...] = (0,)) -> None:
    if dtype.kind != "f" or dtype.itemsize > 8 or len(shape) != 1:
        got = dtype if len(shape) == 1 else f"{shape} {dtype}"
        raise ValueError(f"{column!r} must be (n,) float16, float32 or float64, got {got}")


def _check_unchanged(path: Path, count: int, selection: Selection) -> None:
    if count != selection.count:
        raise Corrupt(f"{path} was changed while it was read; run the command again")


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
