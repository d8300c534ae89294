"""What an interruption leaves of a run, and how the next call takes it up within a shard."""

from os import PathLike
from pathlib import Path

from drs_fast.core.words import counted
from drs_fast.run import keeping
from drs_fast.run.collected import Rows
from drs_fast.run.progress import Progress
from drs_fast.run.schedule import Run
from drs_fast.run.shards import Shards
from drs_fast.store import Conflict, Corrupt, Status
from drs_fast.store.format import STATE
from drs_fast.store.parts import Part


def left(out: str | PathLike[str], run: Run, made: Shards | None) -> str:
    """What an interruption leaves of a run, in words. made: what writes its shards."""
    try:
        status = Status.of(out)
    except (Conflict, Corrupt, OSError):
        return "nothing had been written yet"
    if status.complete:
        return f"the run in {out} is complete"
    if status.n is None or not (Path(out) / STATE).exists():
        return "burn-in had not ended, so nothing is kept; the same command begins again"
    parted, loose = (0, 0) if made is None else (made.parted, made.loose)
    kept = f"{status.samples + parted:,} of {counted(status.n, 'sample')} are in {out}"
    if run.sampler.sequential:
        return f"{kept}, but with adapt='batch' it cannot be resumed; choose another directory"
    is_lost = f"{counted(loose, 'sample')} accepted since {'is' if loose == 1 else 'are'} lost"
    every = f"what a shard has is kept every {keeping.SECONDS:.0f} s of work"
    lost = f", and {is_lost}, because {every}" if loose else ""
    return f"{kept}{lost}; the same command resumes"


def restored(run: Run, shards: Shards, part: Part | None, example: Rows, bar: Progress) -> int:
    """Rows of a chunk that need not be tried again, because an earlier call has kept them."""
    if part is None or part.n != run.n:
        return 0
    like = {name: (row.dtype, row.shape[1:]) for name, row in example.items()}
    if like != {name: (rows.dtype, rows.shape[1:]) for name, rows in part.tensors.items()}:
        return 0
    tensors = {name: rows.to(run.gan.device) for name, rows in part.tensors.items()}
    count = len(tensors["ids"])
    if run.accepted + count >= run.n:
        return 0
    shards.begin(part._replace(tensors=tensors))
    run.had(count, part.counters)
    if run.quota is not None:
        run.quota.had(tensors["y"])
    bar.skip(count)
    return part.counters["rows"]
