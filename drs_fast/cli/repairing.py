"""What `drs-fast verify --repair` did, and what to type now."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drs_fast import samplers, store
from drs_fast.core import Sampler
from drs_fast.core.words import counted
from drs_fast.run import advice
from drs_fast.samplers.common.rejection import RejectionSampler
from drs_fast.squeeze import Squeeze
from drs_fast.store.format import STATE
from drs_fast.store.manifest import Manifest


def repaired(directory: str) -> list[str]:
    """Repairs the run; what was wrong, what was deleted, and how it is made again, in lines."""
    before = set(os.listdir(directory)) if os.path.isdir(directory) else set()
    there = store.recorded(directory)
    dropped = [f"dropped: {line}" for line in store.repair(directory)]
    if not dropped:
        return [f"nothing to repair in {directory}: every sha256 matches"]
    manifest = store.open_run(directory).manifest
    gone, left = sorted(before - set(os.listdir(directory))), store.recorded(directory)
    if gone:
        dropped.append(f"deleted {counted(len(gone), 'file')}: {', '.join(gone)}")
    again = []
    if len(left) < len(there):
        rows = (len(there) - len(left)) * manifest["chunk_rows"]
        lost = f"{counted(sum(there) - sum(left), 'sample')}, from {counted(rows, 'row')} at most"
        again.append(f"{counted(len(there) - len(left), 'shard')} ({lost})")
    if not (Path(directory) / STATE).exists():
        again.append("the sampler's state (burn-in)")
    if not again:
        return [*dropped, "nothing has to be made again"]
    return [
        *dropped,
        f"to be made again: {'; '.join(again)}",
        f"by: {command(manifest, directory)}",
    ]


def command(manifest: Manifest, directory: str) -> str:
    """The line that makes the rest of a run, as far as its manifest knows it."""
    sampler = _sampler(manifest["sampler"])
    settings: Mapping[str, Any] = manifest
    named = {key: settings[key] for key in ("seed", "batch_size", "precision") if key in settings}
    named["save"] = tuple(name for name in manifest["save"] if name != "y")
    named |= {key: settings[key] for key in ("images",) if key in settings}
    model = shlex.quote(manifest["model"])
    line, _ = advice.calls(model, sampler, manifest["n"], named, save=False)
    line = line.replace("--out run", f"--out {shlex.quote(directory)}", 1)
    return line if sampler is not None else f"{line}, with the sampler that made it"


def _sampler(facts: Mapping[str, Any]) -> Sampler | None:
    """The sampler of a manifest; None where it is not one of the command line."""
    name, given = facts["name"], dict(facts)
    for key in ("name", "law_version", "functions_sha256", "data_sha256"):
        given.pop(key, None)
    if name == Squeeze.__name__:
        inner = _sampler(given.pop("sampler"))
        given = {**Squeeze.later, **given}
        return Squeeze(inner, **given) if isinstance(inner, RejectionSampler) else None
    return samplers.get(name.lower())(**given) if name.lower() in samplers.NAMES else None
