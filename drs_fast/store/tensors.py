"""Tensors on disk: a file's contents are checked before they are used."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from drs_fast.core.columns import COLUMNS
from drs_fast.core.words import counted
from drs_fast.store import kinds
from drs_fast.store.format import MANIFEST, STATE, Altered, Corrupt, read_bytes
from drs_fast.store.manifest import COPY, Found, Manifest, differing, settled

# PyTorch's names of safetensors' dtypes; all others keep their own.
DTYPES = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}

Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name


class Tensors:
    """An open safetensors file. Corrupt if it is damaged, or not a file.

    layout: dtype and shape of each of its tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise Corrupt(f"{path} is missing or not a file; run `drs-fast verify` for details")
        try:
            file: Any = safe_open(path, framework="pt")
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            self.layout: Layout = {
                name: (DTYPES.get(rows.get_dtype(), rows.get_dtype()), tuple(rows.get_shape()))
                for name, rows in slices.items()
            }
        except OSError:  # no permission, or a disk that is away: that says nothing of the bytes
            raise
        except Exception as error:  # its errors share no base class, and damage may raise any
            raise self._unreadable(error) from None
        self._file = file

    def tensor(self, name: str) -> Tensor:
        """A tensor that shares memory with the file."""
        try:
            return cast(Tensor, self._file.get_tensor(name))
        except OSError:
            raise
        except Exception as error:
            raise self._unreadable(error) from None

    @property
    def metadata(self) -> dict[str, str]:
        return self._file.metadata() or {}

    @property
    def rows(self) -> Layout:
        """The dtype and shape of one row of each tensor."""
        return {name: (dtype, shape[1:]) for name, (dtype, shape) in self.layout.items()}

    def _unreadable(self, error: Exception) -> Corrupt:
        return Corrupt(f"{self.path} cannot be read: {error}; run `drs-fast verify` for details")


def pieces(
    tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> list[memoryview]:
    """A safetensors file of these tensors, in pieces: the header, then each tensor's own memory.

    Nothing is copied unless a tensor is strided or on a device. A large copy in a thread of the
    writer would start a second team of OpenMP threads, and from then on the threads of both teams
    would sleep between any two operations.
    """
    rows = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # The library orders the tensors and names their dtypes; only their sizes are put in here.
    empty = safetensors.torch.save({name: t.new_empty(0) for name, t in rows.items()}, metadata)
    header = json.loads(empty[8 : 8 + int.from_bytes(empty[:8], "little")])
    order = [name for name in header if name in rows]
    end = 0
    for name in order:
        start, end = end, end + rows[name].nbytes
        header[name].update(shape=list(rows[name].shape), data_offsets=[start, end])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    memory = (rows[name].reshape(-1).view(torch.uint8).numpy().data for name in order)
    return [memoryview(len(text).to_bytes(8, "little") + text), *memory]


def open_shard(path: Path, count: int, *, or_more: bool = False) -> Tensors:
    """Opens a shard; Corrupt unless it holds columns of count rows, ids among them.

    or_more: accept more rows too, if all columns have the same number.
    """
    shard = Tensors(path)
    sizes = {shape[0] if shape else -1 for _, shape in shard.layout.values()}
    if "ids" not in shard.layout or (
        min(sizes) < count or len(sizes) > 1 if or_more else sizes != {count}
    ):
        raise Corrupt(
            f"{path} must hold ids and {counted(count, 'row')} of each tensor, got "
            f"{described(shard.layout)}"
        )
    for name, (found, shape) in shard.layout.items():
        column = COLUMNS.get(name)
        if column is None or column.dtype is None:
            continue
        dtype = str(column.dtype).removeprefix("torch.")
        if (found, len(shape)) != (dtype, column.dimensions):
            raise Corrupt(
                f"{path} must hold {dtype} {name} of {column.dimensions} dimensions, "
                f"got {found} {shape}"
            )
    return shard


def check_rows(shard: Tensors, rows: Layout, elsewhere: str, advice: str) -> None:
    """Corrupt unless rows of the shard have the same layout as elsewhere."""
    if shard.rows != rows:
        raise Corrupt(
            f"{shard.path} holds rows of {described(shard.rows)}, {elsewhere} {described(rows)}; "
            f"{advice}"
        )


def described(layout: Layout) -> str:
    """A layout in words: names, dtypes and shapes."""
    return ", ".join(f"{name} {dtype} {shape}" for name, (dtype, shape) in sorted(layout.items()))


def read_state(directory: Path, manifest: Manifest) -> tuple[dict[str, Tensor], Found]:
    """The sampler's state, and the facts about it that the manifest repeats.

    Corrupt if the file is damaged; Altered if it matches its sha256, yet was never written so, or
    not together with this manifest.
    """
    path = directory / STATE
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise Corrupt(f"{path} is missing") from None
    if hashlib.sha256(data).hexdigest() != manifest.get("state_sha256"):
        raise Corrupt(f"{path} does not match the sha256 in the manifest")
    try:
        file = Tensors(path)
        tensors = {name: file.tensor(name).clone() for name in file.layout}
        facts = json.loads(file.metadata.get("facts", "null"))
    except (ValueError, RecursionError, Corrupt) as error:
        raise Altered(f"{path} matches its sha256 but is not a state: {error}; {COPY}") from None
    if not isinstance(facts, dict):
        raise Altered(f"{path} matches its sha256 but holds no facts; {COPY}")
    numbers = {
        name: tensor.tolist()
        for name, tensor in tensors.items()
        if name in facts or not tensor.ndim
    }
    problems = kinds.wrong(Found, facts) or differing(facts, numbers)
    if problems:
        raise Altered(f"{path}: {'; '.join(problems)}; {COPY}")
    lacking = sorted(facts.keys() - manifest.keys() - Found.__annotations__.keys())
    if lacking:  # a process died between a new state and the manifest that goes with it
        raise Corrupt(f"{directory / MANIFEST} lacks what {STATE} holds ({', '.join(lacking)})")
    law = {"law": manifest["law"]} if settled(manifest) else {}
    problems = differing(manifest, {**facts, **law})
    if problems:
        raise Altered(f"{directory / MANIFEST} and {STATE} differ: {'; '.join(problems)}; {COPY}")
    return tensors, cast(Found, facts)
