"""Reads files of weights and samples; if a file cannot be read, says what it is instead."""

import hashlib
import io
import pickle
import pickletools
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from drs_fast.core.arguments import describe, told

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
NUMBERS = re.compile(r"[fiu][1248]|b1|c8|c16")  # NumPy's names of dtypes
MOST_GLOBALS = 8  # that an error names


def read(
    file: Path, what: str, *, allow: Sequence[Any] = (), trust_sha256: str | None = None
) -> Any:
    """The content of a .npy, .npz, .safetensors or torch file, as tensors; nothing in it is run.

    what: "weights" or "samples". allow: classes that a pickle may hold besides tensors.
    trust_sha256: of a file whose code is to be run. ValueError says why a file cannot be read.
    """
    if problem := fault(file):
        raise ValueError(f"no {what} at {file}: {problem}")
    if trust_sha256 is not None:
        return _trusted(file, trust_sha256)
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
        return _numpy(file) if found == NUMPY else _torch(file, what, allow)


def located(path: Path, folders: Sequence[Path]) -> Path:
    """The file of a relative path: in the current folder, or in the first of these that has it.

    An absolute path in any case, so that an error says where it was looked for.
    """
    places = [folder / path for folder in (Path.cwd(), *folders)]
    return next((place for place in places if fault(place) != ABSENT), places[0])


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


def _torch(file: Path, what: str, allow: Sequence[Any]) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(allow)):
            warnings.simplefilter("ignore")  # about how it was pickled
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _check_whole(file)
        held = _needed(file, str(error))
        named = f", such as {held[0]}" if held else ""
        advice = f"{TRUST}{CONVERTED[what]}"
        if what == "weights":
            advice += _admitted(file, held)
        raise _Refused(f"holds more than tensors{named}: {advice}") from error


def _needed(file: Path, message: str) -> list[str]:
    """What a pickle needs besides tensors, by name."""
    if zipfile.is_zipfile(file):
        held = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        return [*held, *_dtypes(file)] if "numpy.dtype" in held else held
    found = GLOBAL.search(message)
    return [] if found is None else [found[1]]


def _dtypes(file: Path) -> list[str]:
    """The classes of the NumPy dtypes that a pickle makes, which it does not name."""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        given = [value for _, value, _ in pickletools.genops(archive.read(name))]
    found = {value for value in given if isinstance(value, str) and NUMBERS.fullmatch(value)}
    return sorted(f"numpy.dtypes.{type(np.dtype(value)).__name__}" for value in found)


def _admitted(file: Path, held: Sequence[str]) -> str:
    """What to write to read it nevertheless."""
    lines = []
    if 0 < len(held) <= MOST_GLOBALS:
        lines.append(
            ". If these are classes that only hold data, import and admit them: "
            f"drs.weights({file.name!r}, allow=[{', '.join(held)}])"
        )
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    lines.append(
        f'. To run its code all the same: trust_sha256="{sha256}", which is the sha256 of '
        "this very file: whatever it carries then runs as you, so compare it with what its author "
        "published"
    )
    return "".join(lines)


def _trusted(file: Path, sha256: str) -> Any:
    """The content of a pickle whose code is run, if the file is the one that is trusted."""
    if not isinstance(sha256, str):
        raise ValueError(f"trust_sha256 must be a file's sha256 as a string, got {sha256!r}")
    data = file.read_bytes()  # once, so that what is run is what was compared
    here = hashlib.sha256(data).hexdigest()
    if here != sha256.lower():
        raise ValueError(
            f"{file} has the sha256 {here}, and trust_sha256 says {sha256}: it is another file "
            "than the one that you trust, and nothing of it was run; download that one again"
        )
    try:
        if zipfile.is_zipfile(file) or _is_legacy(data):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
        return pickle.loads(data)
    except MemoryError:
        raise
    except Exception as error:
        lacking = "; put the folder of its project on sys.path first"
        advice = lacking if isinstance(error, (ImportError, AttributeError)) else ""
        raise ValueError(f"{file} could not be loaded: {told(error)}{advice}") from error


def _is_legacy(data: bytes) -> bool:
    """Whether it is a file of torch.save from before it wrote archives."""
    if not data.startswith(b"\x80"):
        return False
    return any(argument == LEGACY[0] for _, argument, _ in pickletools.genops(data))


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
