"""The place of a run: a directory that holds nothing or the same run, and has room for the rest."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from drs_fast.core.words import counted
from drs_fast.store.folder import make_directory
from drs_fast.store.format import MANIFEST, Conflict
from drs_fast.store.manifest import Manifest, read_manifest

SPARE_BYTES = 2**20
UNSET = {"images": None}  # of a spec, where a run was not asked for it


def made(path: str | PathLike[str]) -> Path:
    """The directory of this path, made if need be. Conflict if the path is something else."""
    directory = Path(path).absolute()
    try:
        str(directory).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"a directory with a name in UTF-8 was expected, got {str(path)!r}; choose another"
        ) from None
    try:
        if not (directory / MANIFEST).exists():
            make_directory(directory)
    except (FileExistsError, NotADirectoryError):
        raise Conflict(f"{directory} is not a directory; choose another directory") from None
    return directory


def manifest_before(directory: Path, spec: Mapping[str, Any], n: int) -> Manifest | None:
    """The manifest so far; None if there is nothing yet.

    Conflict if it is of another spec or a larger n, or if there are other files.
    """
    if not (directory / MANIFEST).exists():
        others = sorted(set(os.listdir(directory)) - {f"{MANIFEST}.tmp"})
        if others:
            raise Conflict(
                f"{directory} holds other files ({', '.join(others[:3])}) but no {MANIFEST}; "
                "choose another directory"
            )
        return None
    manifest = read_manifest(directory)
    spec = {**UNSET, **spec}
    here, there = _flat(spec), _flat({key: manifest.get(key) for key in spec})
    differing = [
        f"  {key}: there {there.get(key, 'null')}, here {here.get(key, 'null')}"
        for key in sorted({*here, *there})
        if here.get(key) != there.get(key)
    ]
    if differing:
        raise Conflict(
            "\n".join([f"{directory} holds another run:", *differing])
            + "\nchoose another directory or repeat the settings"
        )
    if n < manifest["n"]:
        raise Conflict(
            f"{directory} is a run of {counted(manifest['n'], 'sample')}, got a request for {n:,}; "
            "choose another directory"
        )
    return manifest


def _flat(spec: Mapping[str, Any]) -> dict[str, str]:
    """Keys, with JSON values; keys of an inner dict as "outer.inner"."""
    flat: dict[str, str] = {}
    for key, value in spec.items():
        inner = value if isinstance(value, dict) else None
        parts = {key: value} if inner is None else {f"{key}.{k}": v for k, v in inner.items()}
        flat.update({name: json.dumps(part, sort_keys=True) for name, part in parts.items()})
    return flat


def check_space(directory: Path, missing: int, bytes_per_sample: int) -> None:
    """OSError (ENOSPC) if the disk cannot hold the missing samples."""
    needed = missing * bytes_per_sample
    free = shutil.disk_usage(directory).free
    if needed > 0 and needed + SPARE_BYTES > free:
        raise OSError(
            errno.ENOSPC,
            f"{counted(missing, 'sample')} need{'s' if missing == 1 else ''} "
            f"{needed + SPARE_BYTES:,} bytes, but {free:,} are free",
            str(directory),
        )
