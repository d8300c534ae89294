"""Exports of images against each library's own writing loop on as many threads.

The loop has the numbers in memory, checks nothing and writes nothing durably; the export reads the
shards of a run, compares their sha256 and syncs what it writes. Both are timed until a sync ends.

python -m benchmarks.speed.export [--images N] [--formats F,F,...] [--threads T] [--rounds R]
    [--stored uint8|float32] [--json FILE] [--quick]
"""

import argparse
import io
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from torch import Tensor

import drs_fast as drs
from benchmarks.common.timing import describe, environment
from drs_fast.exporting.format import IMAGES_A_FILE
from drs_fast.exporting.formats import FORMATS

SHAPE = (3, 64, 64)
WAVES = 24
TARGET = 0.7


def gan(*, grain: float = 0.04) -> drs.GAN:
    """Pictures of waves with a fixed grain, which PNG compresses about as well as photographs."""
    rows = torch.arange(float(math.prod(SHAPE[1:])))
    waves = torch.stack(
        [
            torch.cos((1 + k % 5) * rows % 64 / 10 + (1 + k % 7) * (rows // 64) / 20 + channel)
            for k in range(WAVES)
            for channel in range(SHAPE[0])
        ]
    ).reshape(WAVES, -1)
    texture = drs.ops.normal(drs.Rng(1), 1, waves.shape[1], device="cpu")

    def generator(z: Tensor) -> Tensor:
        return torch.tanh(z @ waves / WAVES + grain * texture).reshape(-1, *SHAPE)

    return drs.GAN(generator, lambda x: x[:, :, ::8, ::8].mean(dim=(1, 2, 3)), WAVES)


@dataclass(frozen=True)
class Numbers:
    """What a bare loop writes: images (n, height, width, channels) of uint8, and two columns."""

    x: np.ndarray[Any, Any]
    ids: np.ndarray[Any, Any]
    logit: np.ndarray[Any, Any]

    def parts(self) -> list["Numbers"]:
        cuts = range(0, len(self.ids), IMAGES_A_FILE)
        return [Numbers(*(a[i : i + IMAGES_A_FILE] for a in self.arrays)) for i in cuts]

    @property
    def arrays(self) -> tuple[np.ndarray[Any, Any], ...]:
        return self.x, self.ids, self.logit


def bare_parquet(folder: Path, made: Numbers, threads: ThreadPoolExecutor) -> None:
    def write(part: Numbers) -> None:
        size = math.prod(SHAPE)
        x = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part.x.reshape(-1)), size)
        columns = {"ids": part.ids, "logit": part.logit, "x": x}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{part.ids[0]}.parquet")

    list(threads.map(write, made.parts()))


def bare_npz(folder: Path, made: Numbers, threads: ThreadPoolExecutor) -> None:
    np.savez(folder / "out.npz", arr_0=made.x, ids=made.ids, logit=made.logit)


def bare_npy(folder: Path, made: Numbers, threads: ThreadPoolExecutor) -> None:
    names = [folder / f"{name}.npy" for name in ("x", "ids", "logit")]
    list(threads.map(np.save, names, made.arrays))


def bare_webdataset(folder: Path, made: Numbers, threads: ThreadPoolExecutor) -> None:
    import webdataset

    def write(part: Numbers) -> None:
        with webdataset.TarWriter(str(folder / f"{part.ids[0]}.tar")) as sink:
            for i, (x, row, logit) in enumerate(zip(*part.arrays, strict=True)):
                line = {"ids": int(row), "logit": float(logit)}
                sink.write({"__key__": f"{i:010d}", "png": x, "json": line})

    list(threads.map(write, made.parts()))


def bare_imagefolder(folder: Path, made: Numbers, threads: ThreadPoolExecutor) -> None:
    def write(part: Numbers) -> None:
        inner = folder / str(part.ids[0])
        inner.mkdir()
        for x, row in zip(part.x, part.ids, strict=True):
            Image.fromarray(x).save(inner / f"{row}.png")

    list(threads.map(write, made.parts()))


def bare_hf(folder: Path, made: Numbers, threads: ThreadPoolExecutor) -> None:
    def encoded(x: np.ndarray[Any, Any]) -> dict[str, bytes | None]:
        file = io.BytesIO()
        Image.fromarray(x).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    def write(part: Numbers) -> None:
        columns = {"ids": part.ids, "logit": part.logit, "image": [encoded(x) for x in part.x]}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{part.ids[0]}.parquet")

    list(threads.map(write, made.parts()))


BARE: dict[str, Callable[[Path, Numbers, ThreadPoolExecutor], None]] = {
    "parquet": bare_parquet,
    "npz": bare_npz,
    "npy": bare_npy,
    "webdataset": bare_webdataset,
    "imagefolder": bare_imagefolder,
    "hf": bare_hf,
}


def seconds(call: Callable[[Path], Any], place: Path | None) -> float:
    """The seconds until everything is on the disk."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        os.sync()
        start = time.perf_counter()
        call(Path(folder))
        os.sync()
        return time.perf_counter() - start


def measured(
    run: Path, formats: list[str], threads: int, rounds: int, place: Path | None
) -> dict[str, Any]:
    """By format, the seconds of both in turn, and the median ratio."""
    samples = drs.open(run)
    x = samples.x[:] if samples.x.dtype == torch.uint8 else (samples.x[:] * 127.5 + 127.5).byte()
    images = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))
    made = Numbers(images, samples.ids[:].numpy(), samples.logit[:].numpy())
    del x
    found: dict[str, Any] = {}
    for name in formats:
        target = "out.npz" if name == "npz" else "out"

        def bare(folder: Path, name: str = name) -> None:
            with ThreadPoolExecutor(threads) as pool:
                BARE[name](folder, made, pool)

        def ours(folder: Path, name: str = name, target: str = target) -> None:
            whole = "uint8" if name in ("parquet", "npy") else None
            drs.export(run, folder / target, name, images=whole, threads=threads)

        calls = {"bare": bare, "ours": ours}
        times: dict[str, list[float]] = {key: [] for key in calls}
        for k in range(rounds):
            for key in list(calls)[:: 1 if k % 2 else -1]:
                times[key].append(seconds(calls[key], place))
        pairs = zip(times["bare"], times["ours"], strict=True)
        found[name] = {"ratio": statistics.median(a / b for a, b in pairs), **times}
        show(name, found[name], len(made.ids))
    return found


def show(name: str, found: dict[str, Any], images: int) -> None:
    bare, ours = (statistics.median(found[key]) for key in ("bare", "ours"))
    print(
        f"{name}: {found['ratio']:.2f} of the bare loop (target {TARGET}); bare {bare:.2f} s, "
        f"export {ours:.2f} s, {images / ours:,.0f} images/s",
        flush=True,
    )


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stored", choices=("uint8", "float32"), default="uint8")
    parser.add_argument("--place", type=Path, help="folder on the disk to write to")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few samples, to try it")
    options = parser.parse_args(words)
    images, rounds = (64, 1) if options.quick else (options.images, options.rounds)
    there = environment()
    print(f"{describe(there)}; {options.threads} threads, {images:,} images", flush=True)
    with tempfile.TemporaryDirectory(dir=options.place) as folder:
        run = Path(folder) / "run"
        sampler = drs.samplers.DRS(burn_in=512, target_acceptance=0.5)
        kept = "uint8" if options.stored == "uint8" else None
        drs.generate(gan(), sampler, images, out=run, images=kept, batch_size=512)
        formats = options.formats.split(",")
        found = measured(run, formats, options.threads, rounds, options.place)
    if options.json:
        facts = {"images": images, "threads": options.threads, "stored": options.stored}
        report = {**there, **facts, "target": TARGET, "found": found}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
