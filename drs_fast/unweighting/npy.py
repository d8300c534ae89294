"""One array in NumPy's format, read and written in batches: from a file or out of an archive."""

import ast
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

BYTES = 2**24  # of a batch
MAGIC = b"\x93NUMPY"
LINE = 64  # a header's length is a multiple of this


class Damaged(Exception):
    """The bytes are not an array in this format, or end too early."""


@dataclass(frozen=True)
class Header:
    """What stands before the numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    columns_first: bool

    @property
    def batch(self) -> int:
        """Rows of a batch of at most BYTES; the same for any number of rows."""
        row = self.dtype.itemsize * math.prod(self.shape[1:])
        rows = min(2**16, BYTES // max(1, row))
        return max(1, rows - rows % 8)  # whole bytes, of a bit a row


def read_header(stream: IO[bytes], name: str) -> Header:
    """Reads to the first number. name: the array's, for errors."""
    if _exactly(stream, len(MAGIC)) != MAGIC:
        raise Damaged("it is no array in NumPy's format")
    major, _ = _exactly(stream, 2)
    (length,) = struct.unpack(
        "<H" if major == 1 else "<I", _exactly(stream, 2 if major == 1 else 4)
    )
    text = _exactly(stream, length).decode("latin1" if major < 3 else "utf8")
    try:
        found = ast.literal_eval(text)
        dtype = np.lib.format.descr_to_dtype(found["descr"])
        header = Header(dtype, tuple(map(int, found["shape"])), bool(found["fortran_order"]))
    except Exception as error:  # of literal_eval or NumPy, whose errors share no base class
        raise Damaged(f"its header cannot be read: {error}") from error
    if dtype.hasobject:
        raise ValueError(
            f"{name} holds Python objects, which are not read; save it with another dtype"
        )
    return header


def header_bytes(dtype: np.dtype[Any], shape: tuple[int, ...], most: int = 0) -> bytes:
    """A header, as NumPy writes it, and as long as that of `most` rows if there are fewer."""
    described = np.lib.format.dtype_to_descr(dtype)
    text, longest = (
        f"{{'descr': {described!r}, 'fortran_order': False, 'shape': {(rows, *shape[1:])!r}, }}"
        for rows in (shape[0], max(most, shape[0]))
    )
    old = longest.isascii() and len(longest) < 2**15
    encoded, size = text.ljust(len(longest)).encode("utf8"), 2 if old else 4
    padding = -(len(MAGIC) + 2 + size + len(encoded) + 1) % LINE
    length = struct.pack("<H" if old else "<I", len(encoded) + padding + 1)
    return MAGIC + bytes([1 if old else 3, 0]) + length + encoded + b" " * padding + b"\n"


def batches(stream: IO[bytes], header: Header, size: int) -> Iterator[np.ndarray[Any, Any]]:
    """The rows after the header, `size` at a time. Arrays stored by columns are read at once."""
    rest = header.shape[1:]
    row = header.dtype.itemsize * math.prod(rest)
    if header.columns_first and rest:
        data = _exactly(stream, row * header.shape[0])
        whole = np.frombuffer(data, header.dtype).reshape(header.shape, order="F")
        yield from (whole[at : at + size] for at in range(0, len(whole), size))
    else:
        for at in range(0, header.shape[0], size):
            n = min(size, header.shape[0] - at)
            yield np.frombuffer(_exactly(stream, row * n), header.dtype).reshape(n, *rest)
    if stream.read(1):  # which also makes an archive compare the checksum
        raise Damaged("it goes on after its last row")


def _exactly(stream: IO[bytes], n: int) -> bytes:
    data = stream.read(n)
    if len(data) != n:
        raise Damaged("it ends too early")
    return data
