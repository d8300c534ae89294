"""Checks before measuring: build, tests, sanitizer.

python -m benchmarks.gpu.checks runs every kernel once, for a sanitizer to watch.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.gpu import cub as gpu_cub
from benchmarks.gpu.problems import settings
from benchmarks.speed.ops import Missing
from drs_fast.backends import cuda
from drs_fast.core.compacted import Ring

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/ops/test_gpu.py",
    "tests/ops/test_cuda.py",
    "tests/ops/test_triton.py",
    "tests/run/test_gpu_steps.py",
)
BUILD_S, TEST_S, SANITIZER_S = 90, 200, 45
TAIL = 25  # lines shown of a step that failed
WORKERS = 8


def build() -> dict[str, Any]:
    """Builds the extensions in place, and CUB's peer; returns each result by name."""
    steps: dict[str, Any] = {}
    commands = {"build": ([sys.executable, "setup.py", "build_ext", "--inplace"], BUILD_S, {})}
    try:
        commands["build of CUB's peer"] = (gpu_cub.command(), BUILD_S, {})
    except Missing as missing:
        steps["build of CUB's peer"] = skipped("build of CUB's peer", str(missing))
    return steps | together(commands)


def tests() -> dict[str, Any]:
    """Runs the GPU tests, then every kernel under two tools of the sanitizer."""
    steps = together({"tests": (pytest_command(), TEST_S, {})})
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if sanitizer is None:
        return steps | {"sanitizer": skipped("sanitizer", "compute-sanitizer is not on PATH")}
    # Every tensor gets its own allocation, so that accesses outside it are detected.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    program = [sys.executable, "-m", "benchmarks.gpu.checks"]
    return steps | together(
        {
            tool: (
                [sanitizer, "--tool", tool, "--error-exitcode", "9", *program],
                SANITIZER_S,
                environment,
            )
            for tool in ("memcheck", "racecheck")
        }
    )


def pytest_command() -> list[str]:
    """The command, with options only for installed plugins; others would be errors."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("pytest_timeout") is None:
        command += ["-o", "addopts=-ra -m 'not slow'", "-o", "filterwarnings=default"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(WORKERS)]  # most of the time is spent compiling
    if importlib.util.find_spec("pytest_benchmark") is not None:
        command += ["--benchmark-disable"]  # it warns of xdist, and a warning is an error
    return [*command, *(test for test in TESTS if (ROOT / test).exists())]


def together(commands: dict[str, tuple[list[str], float, dict[str, str]]]) -> dict[str, Any]:
    with ThreadPoolExecutor() as pool:
        running = {name: pool.submit(run, *command) for name, command in commands.items()}
        steps = {name: future.result() for name, future in running.items()}
    for name, step in steps.items():
        show(name, step)
    return steps


def run(command: list[str], limit: float, environment: dict[str, str]) -> dict[str, Any]:
    """Runs a command; ends it and its children after `limit` seconds."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
            result = "passed" if process.returncode == 0 else f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            result = f"stopped after {limit:g} s"
    seconds = round(time.perf_counter() - start, 1)
    tail = output.splitlines()[-1 if result == "passed" else -TAIL :]
    return {"result": result, "seconds": seconds, "tail": tail}


def skipped(name: str, reason: str) -> dict[str, Any]:
    step = {"result": f"skipped: {reason}", "seconds": 0.0, "tail": []}
    show(name, step)
    return step


def show(name: str, step: dict[str, Any]) -> None:
    last = step["tail"][-1] if step["tail"] else ""
    print(f"{name}: {step['result']}, {step['seconds']} s; {last}", flush=True)
    if step["result"] != "passed":
        for line in step["tail"]:
            print(f"  {line}", flush=True)


def every_kernel(device: torch.device, n: int = 5000, d: int = 32) -> None:
    generator = torch.Generator(device).manual_seed(0)
    logit = torch.randn(n, device=device, generator=generator)
    rows = torch.randn(n, d, device=device, generator=generator)
    rng, log_m = drs.Rng(5, 2**32 - 500), 3.0
    arguments: dict[str, Any] = {"rng": rng, "log_m": log_m, "gamma": -1.0}
    ring = drs.ops.ring(logit, rows, rng=rng, capacity=8192, log_m=log_m)
    others = ["cuda"] if cuda.refuses(device) is None else []
    for name in ("triton", *others):
        with drs.backend(name):
            every_op(logit, rows, ring, arguments)
    print(f"{int(ring.cursor)} of {int(ring.row) - rng.row} rows accepted")


def every_op(logit: Tensor, rows: Tensor, ring: Ring, arguments: dict[str, Any]) -> None:
    (n, d), device, rng, log_m = rows.shape, rows.device, arguments["rng"], arguments["log_m"]
    for rows_at_once in (2**31 - 1, 0):  # one launch, then two
        with settings(SINGLE_PASS_ROWS=rows_at_once):
            drs.ops.accept_compact(logit, rows, **arguments)
            drs.ops.accept_latents(logit, d, **arguments)
            drs.ops.accept_append(logit, rows, ring=ring, gamma=-1.0)
    drs.ops.quantile_gamma(logit, 80.0, log_m=log_m)
    drs.ops.accept(logit, rng, log_m=log_m)
    drs.ops.uniform(rng, n, stream=1, device=device)
    drs.ops.normal(rng, n, d, device=device)
    drs.ops.largest(logit)


if __name__ == "__main__":
    every_kernel(torch.device("cuda"))
