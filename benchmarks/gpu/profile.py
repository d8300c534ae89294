"""The top kernels of a step of DRS, by torch.profiler.

python -m benchmarks.gpu.profile MODEL [--batch N] [--device cpu] [--no-graph] [--precision bf16]
"""

import argparse
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity

import drs_fast as drs
from benchmarks.common.timing import describe, environment
from benchmarks.speed.loop_ways import ACCEPTANCE, MODELS, PRECISION
from drs_fast.gan import PRECISIONS
from drs_fast.run.generate import ENDLESS
from drs_fast.run.options import Options
from drs_fast.run.progress import Progress
from drs_fast.run.schedule import Run

SHOWN = 12
STEPS, BEFORE = 16, 8  # steps that are profiled, and those before them
# What needs explaining: model, batch, and whether steps are replayed.
RUNS = (
    ("25gaussians", 65_536, True),
    ("25gaussians", 262_144, True),
    ("DCGAN 32x32", 1024, True),
    ("DCGAN 32x32", 1024, False),
    ("SAGAN 128x128", 256, True),
)
QUICK = (("MLP, width 16", 256, False),)


def profiled(
    name: str,
    batch: int,
    device: str,
    *,
    graph: bool = True,
    precision: str = "fp32",
    steps: int = STEPS,
) -> dict[str, Any]:
    """Microseconds a batch of what runs longest: kernels on a GPU, operators on a CPU."""
    gan = MODELS[name]().on(device, batch)
    options = Options(batch_size=gan.block, patience=10**9, cuda_graph=graph, precision=precision)
    run = Run(gan, drs.samplers.DRS(target_acceptance=ACCEPTANCE), None, options)
    run.begin()
    landed = run.landed(ENDLESS, run.names, Progress(None, enabled=False))
    for _ in range(BEFORE):
        next(landed)
    rows, wall = 0, 0.0
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        start = time.perf_counter()
        for _ in range(steps):
            rows += next(landed).step.size
        if on_gpu:
            torch.cuda.synchronize()
        wall = time.perf_counter() - start
    batches = rows / gan.block
    found = [
        {
            "name": event.key,
            "us": (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / batches,
            "calls": event.count / batches,
        }
        for event in profiler.key_averages()
    ]
    found.sort(key=lambda each: -each["us"])
    return {
        "model": name,
        "batch": gan.block,
        "device": device,
        "graph": graph and on_gpu,
        "precision": precision,
        "wall_us": 1e6 * wall / batches,
        "busy_us": sum(each["us"] for each in found),
        "top": found[:SHOWN],
    }


def show(row: dict[str, Any]) -> None:
    how = "replayed" if row["graph"] else "called"
    print(f"\n{row['model']}, batch {row['batch']:,}, {row['precision']}, {how}; a batch:")
    print(f"{row['wall_us']:12.1f} us pass, {row['busy_us']:.1f} us of them in what follows")
    for each in row["top"]:
        share = each["us"] / row["busy_us"] if row["busy_us"] else 0.0
        print(f"{each['us']:12.1f} us {share:6.1%}{each['calls']:8.2f} calls  {each['name'][:90]}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS)
    parser.add_argument("--no-graph", action="store_true", help="call every step on a GPU")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    precision = options.precision or PRECISION[torch.device(options.device).type]
    print(describe(environment()))
    show(
        profiled(
            options.model, options.batch, options.device, graph=not options.no_graph,
            precision=precision, steps=options.steps,
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
