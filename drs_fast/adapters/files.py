"""Reads files of weights and samples; if a file cannot be read, says what it is instead."""

import pickle
import pickletools
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from drs_fast.core.arguments import describe

NUMPY, SAFETENSORS, TORCH = "a NumPy array", "a safetensors file", "a file of torch.save"
ARCHIVE = "an archive of NumPy arrays"
SUFFIXES = {NUMPY: ".npy", ARCHIVE: ".npz", SAFETENSORS: ".safetensors", TORCH: ".pt"}
SIGNS = {  # first bytes: what such a file is
    b"\x93NUMPY": NUMPY,
    b"PK\x03\x04": TORCH,
    b"\x80": TORCH,
    b"version https://git-lfs": "a Git LFS pointer without the data; run git lfs pull",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
PAGE = "a web page instead of the file; download the file itself, logged in if need be"
HEAD = 1024  # bytes that identify a file
LONGEST_HEADER = 10**8  # bytes, for safetensors
LEGACY = 0x1950A86A20F9469CFC6C, 5  # torch's files before zip: first number, and number of pickles
ABSENT = "there is no such file"
OTHERS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
AGAIN = "copy or download it again"
TRUST = (
    "loading it would run code, which could be anyone's. If you trust it, convert it once: load "
)
CONVERTED = {  # by what is wanted
    "weights": "it with its own project, then safetensors.torch.save_file(model.state_dict(), "
    "'w.safetensors')",
    "samples": "it with its own project, then numpy.save('x.npy', samples as an array of numbers)",
}
GLOBAL = re.compile(r"GLOBAL (\S+)")  # what torch.load says it refuses


def read(file: Path, what: str) -> Any:
    """The content of a .npy, .npz, .safetensors or torch file, as tensors; nothing in it is run.

    what: "weights" or "samples". ValueError says why a file cannot be read.
    """
    if problem := fault(file):
        raise ValueError(f"no {what} at {file}: {problem}")
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    if not head:
        raise ValueError(f"{file} is empty; {AGAIN}")
    wanted = next((kind for kind, end in SUFFIXES.items() if end == file.suffix), TORCH)
    with _blamed(file):
        found = _kind(file, head)
    if found is None:
        raise ValueError(
            f"{file} is damaged or of an unknown kind: its {file.stat().st_size:,} bytes do not "
            f"begin like {wanted}; {AGAIN}"
        )
    if found != wanted:
        end = SUFFIXES.get(found)
        fix = "" if end is None else f"; name it {file.with_suffix(end).name}"
        raise ValueError(f"{file} is not {wanted} but {found}{fix}")
    with _blamed(file):
        if found == SAFETENSORS:
            return load_file(file)
        if found == ARCHIVE:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: _tensor(_array(arrays.__getitem__, name)) for name in arrays}
        return _numpy(file) if found == NUMPY else _torch(file, what)


@contextmanager
def _blamed(file: Path) -> Iterator[None]:
    """Turns whatever a damaged file raises into an error that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except _Refused as error:
        raise ValueError(f"{file} {error}") from error
    except Exception as error:
        size = file.stat().st_size
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"{file} is damaged or cut off at {size:,} bytes ({reason}); {AGAIN}"
        ) from error


def fault(file: Path) -> str | None:
    """What is there instead of a file, in words; None if it is a file."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return "it is a link to a file that is not there" if file.is_symlink() else ABSENT
    except OSError as error:  # such as a circle of links, or a name that is too long
        return f"it cannot be read: {error.strerror}"
    if stat.S_ISREG(mode):
        return None
    found = next((words for test, words in OTHERS if test(mode)), "a socket")
    return f"it is {found}; name a file"


class _Refused(Exception):
    """The file is whole, but holds something that is not read."""


def _kind(file: Path, head: bytes) -> str | None:
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGES):
        return PAGE
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < LONGEST_HEADER:
        return SAFETENSORS
    found = next((kind for sign, kind in SIGNS.items() if head.startswith(sign)), None)
    if found == TORCH and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return "a TorchScript program; load it with torch.jit.load, in a model's function"
        if names and all(name.endswith(".npy") for name in names):
            return ARCHIVE
        if not any(name.endswith("/data.pkl") for name in names):
            return f"an archive of {', '.join(names[:3]) or 'nothing'}; unpack it and name one file"
    return found


def _numpy(file: Path) -> Tensor:
    try:
        return _tensor(_array(np.load, file))
    except MemoryError:
        np.load(file, mmap_mode="r")  # ValueError if the file is shorter than its header says
        raise


def _array(load: Callable[[Any], Any], source: Any) -> Any:
    try:
        return load(source)
    except ValueError as error:
        if "Object arrays" in str(error):
            raise _Refused("holds Python objects, but numbers are needed") from error
        raise


def _tensor(array: Any) -> Tensor:
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as error:
        raise _Refused(
            f"holds numbers of a type that PyTorch lacks, {array.dtype}; save it as float32"
        ) from error


def _torch(file: Path, what: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how it was pickled
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _check_whole(file)
        held = GLOBAL.search(str(error))
        named = f", such as {held[1]}" if held else ""
        raise _Refused(f"holds more than tensors{named}: {TRUST}{CONVERTED[what]}") from error


def content(found: Any) -> str:
    """What a file holds, in words."""
    if isinstance(found, dict):
        names = ", ".join(repr(name) for name in list(found)[:4])
        return f"a dict of {len(found)}: {names}{', ...' if len(found) > 4 else ''}"
    if isinstance(found, (list, tuple)):
        return f"a {type(found).__name__} of {len(found)}"
    return f"a tensor {describe(found)}" if isinstance(found, Tensor) else describe(found)


def _check_whole(file: Path) -> None:
    """Raises an error unless all of its pickles are there and unchanged."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            archive.read(name)  # BadZipFile if its checksum differs
        return
    with file.open("rb") as stream:
        first = [argument for _, argument, _ in pickletools.genops(stream)]
        for _ in range(LEGACY[1] - 1 if LEGACY[0] in first else 0):
            for _ in pickletools.genops(stream):
                pass
