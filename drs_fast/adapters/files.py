"""What files of weights and of samples hold; and where one cannot be read, what it is instead."""

import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

NUMPY, SAFETENSORS, TORCH = "a NumPy array", "a safetensors file", "a file of torch.save"
SUFFIXES = {NUMPY: ".npy", SAFETENSORS: ".safetensors", TORCH: ".pt"}
SIGNS = {  # first bytes: what such a file is
    b"\x93NUMPY": NUMPY,
    b"PK\x03\x04": TORCH,
    b"\x80": TORCH,
    b"version https://git-lfs": "a Git LFS pointer, which only names a file; git lfs pull gets it",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
PAGE = "a web page, which came in place of the file; download the file itself, logged in if need be"
HEAD = 1024  # bytes that tell what a file is
LONGEST_HEADER = 10**8  # bytes, of safetensors
LEGACY = 0x1950A86A20F9469CFC6C, 5  # of torch's files before zip: first number, and pickles in all
AGAIN = "copy or download it again"
TRUST = (
    "to load it would run code, which could be anyone's. Where you trust it, convert it once: load "
    "it with its own project, then safetensors.torch.save_file(model.state_dict(), 'w.safetensors')"
)


def read(file: Path, what: str) -> Any:
    """What a .npy, .safetensors or torch file holds, in tensors; nothing in it is run.

    what: "weights" or "samples". ValueError says why it cannot be read.
    """
    if not file.is_file():
        state = "that is a directory; name a file" if file.is_dir() else "there is no such file"
        raise ValueError(f"no {what} at {file}: {state}")
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    if not head:
        raise ValueError(f"{file} is empty; {AGAIN}")
    wanted = next((kind for kind, end in SUFFIXES.items() if end == file.suffix), TORCH)
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
    try:
        if found == SAFETENSORS:
            return load_file(file)
        return _numpy(file) if found == NUMPY else _torch(file)
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


class _Refused(Exception):
    """A file that is whole, and holds what is not read."""


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
            return "a TorchScript program; load it by torch.jit.load, in the function of a model"
        if not any(name.endswith("/data.pkl") for name in names):
            return (
                f"an archive of {', '.join(names[:3]) or 'nothing'}; unpack it, and name one file"
            )
    return found


def _numpy(file: Path) -> Tensor:
    try:
        array = np.load(file, allow_pickle=False)
    except ValueError as error:
        if "Object arrays" in str(error):
            raise _Refused("holds Python objects, and numbers are needed") from error
        raise
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as error:
        raise _Refused(
            f"holds numbers that PyTorch has not, {array.dtype}; save float32"
        ) from error


def _torch(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how it was pickled
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _check_whole(file)
        raise _Refused(f"holds more than tensors: {TRUST}") from error


def _check_whole(file: Path) -> None:
    """An error unless all of its pickles are there, and are what was saved."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            archive.read(name)  # BadZipFile where its checksum is another
        return
    with file.open("rb") as stream:
        first = [argument for _, argument, _ in pickletools.genops(stream)]
        for _ in range(LEGACY[1] - 1 if LEGACY[0] in first else 0):
            for _ in pickletools.genops(stream):
                pass
