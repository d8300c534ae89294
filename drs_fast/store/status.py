"""How far a run is, from its records and the sizes of its files."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from drs_fast.core.words import counted
from drs_fast.store.folder import being_written
from drs_fast.store.format import MANIFEST, Conflict, has_size, read_records, workers
from drs_fast.store.manifest import read_manifest


@dataclass(frozen=True)
class Status:
    """What is there of a run of n samples; n is None before it has a manifest.

    live: whether somebody writes to it.
    """

    n: int | None
    samples: int
    chunks: int
    complete: bool
    live: bool

    @classmethod
    def of(cls, path: str | PathLike[str]) -> "Status":
        """Conflict if the directory is not a run."""
        directory = Path(path)
        live = being_written(directory)
        if not (directory / MANIFEST).exists():
            if live or (directory / f"{MANIFEST}.tmp").exists():
                return cls(None, 0, 0, False, live)
            if not directory.is_dir() or not any(directory.iterdir()):
                where = "an empty folder" if directory.is_dir() else "not there"
                raise Conflict(f"no run yet: {path} is {where}; drs-fast generate begins one there")
            raise Conflict(f"{path} is not a run: it holds no {MANIFEST}")
        manifest = read_manifest(directory)
        records, problems = read_records(directory, manifest.get("chunk_rows"))
        records = {k: record for k, record in records.items() if has_size(directory, record)}
        samples = sum(record.count for record in records.values())
        whole = not problems and not workers(directory) and samples == manifest["n"]
        complete = manifest["complete"] and whole
        return cls(manifest["n"], min(samples, manifest["n"]), len(records), complete, live)

    def __str__(self) -> str:
        if self.n is None:
            return "a run that has just begun"
        how = "complete" if self.complete else "being written" if self.live else "nobody writes"
        there = f"{self.samples:,} of {counted(self.n, 'sample')}"
        return f"{there} in {counted(self.chunks, 'chunk')}: {how}"
