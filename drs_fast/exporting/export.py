"""Exports the samples of a run to files of other programs, on several threads."""

import warnings
from os import PathLike
from pathlib import Path

import torch

from drs_fast import __version__
from drs_fast.core.arguments import flag, integer, one_of
from drs_fast.core.threads import one_thread
from drs_fast.exporting import asked, place
from drs_fast.exporting.engine import Bar, Engine
from drs_fast.exporting.format import rows_a_file
from drs_fast.exporting.formats import FORMATS
from drs_fast.exporting.place import Exported
from drs_fast.exporting.source import Source
from drs_fast.run.pages import kept
from drs_fast.run.weighed import open_run

RUN = (  # what the metadata repeats of the run's manifest
    *("model", "model_sha256", "sampler", "seed", "n", "law", "log_m", "gamma", "eps", "weighing"),
    *("labels", "label_weights", "batch_size", "device", "precision", "tune", "images"),
    *("rng_version", "state_sha256", "version"),
)


def export(
    run: str | PathLike[str],
    to: str | PathLike[str],
    format: str,
    *,
    n: int | None = None,
    save: tuple[str, ...] | None = None,
    images: str | None = None,
    value_range: tuple[float, float] | None = None,
    rows_per_file: int | None = None,
    threads: int | None = None,
    check: bool = True,
    progress: bool = False,
) -> Exported:
    """Writes the samples of a run to files that other programs read.

    format: "parquet", "npz", "npy", "webdataset", "imagefolder" or "hf". to: a folder; for npz a
    file, for parquet either. The same call goes on after the last finished file of a folder.
    n: the first so many samples; None for all of a complete run.
    save: columns among x, z, logit and weight; ids and labels always come. None: those of the run.
    images: "uint8" makes whole numbers of x where the format would not; value_range: the numbers
    that become 0 and 255, by default (-1, 1). A run of uint8 stays as it is.
    rows_per_file: by default 10,000 images, or 1,000,000 rows of a table.
    threads: by default as many as PyTorch has; each takes less than 150 MB of memory.
    check: whether the sha256 of every shard is compared before it is read.

    Conflict if the run is unfinished, or `to` holds something else; Corrupt if the run is damaged.
    """
    one_of("format", format, tuple(FORMATS))
    kind, target = FORMATS[format], Path(to).absolute()
    asked.check_target(kind, format, target)
    samples = open_run(run)
    rows = asked.rows(samples, n)
    columns = asked.columns(samples, kind, format, save)
    x = samples.x if "x" in columns else None
    shown = asked.shown(x, kind, format)
    rule = asked.images(x, shown, images, value_range)
    source = Source(samples, columns, rows, rule, checked=flag("check", check))
    each = rows_a_file(source)
    if rows_per_file is not None:
        each = integer("rows_per_file", rows_per_file, 1)
    facts = {
        "format": format,
        "drs_fast": __version__,
        "pictures": shown,
        "rows_per_file": each,
        **source.facts,
        **({} if check else {"checked": False}),
        "run": {key: samples.manifest.get(key) for key in RUN},
    }
    made = kind(source, facts, each)
    workers = integer("threads", torch.get_num_threads() if threads is None else threads, 1)
    bar = Bar(rows, enabled=flag("progress", progress))
    bar.note = f"to {format}"
    with bar, one_thread(), kept():
        engine = Engine(made, source, bar, workers)
        single = bool(kind.suffix) and target.suffix == kind.suffix
        done = place.to_file(engine, target) if single else place.to_folder(engine, target)
    told = rule and rule.warning(source.outside, rows)
    if told:
        warnings.warn(told, stacklevel=2)
    return done
