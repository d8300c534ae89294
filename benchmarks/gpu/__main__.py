"""Builds, tests and times on a GPU, against what people write instead.

python -m benchmarks.gpu [--stage build,tests,...] [--output FILE] [--quick]
"""

import argparse
import dataclasses
import faulthandler
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.timing import describe, environment
from benchmarks.gpu.clock import Clock, HostClock
from benchmarks.gpu.stages import STAGES, Machine, deadlines
from benchmarks.gpu.table import TARGETS
from drs_fast.backends import triton as backend

RESULTS = Path(__file__).parents[1] / "results" / "gpu.json"
USUAL = [name for name in STAGES if name != "tune"]
SECONDS, KILLED_S = 455.0, 475.0  # shared out among the stages; stop, whatever runs


def stages(words: str) -> list[str]:
    """The stages named, in the order in which they run."""
    named = words.split(",")
    unknown = [name for name in named if name not in STAGES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"must be of {', '.join(STAGES)}, got {', '.join(map(repr, unknown))}"
        )
    return [name for name in STAGES if name in named]


def wrong(report: dict[str, Any]) -> list[str]:
    """The names of all that failed or gave other results than the reference."""
    failed = [
        name
        for name, step in report["steps"].items()
        if step["result"] != "passed" and not step["result"].startswith("skipped")
    ]
    tables = [*report.get("rows", ()), *(report[n] for n in ("other", "tune") if n in report)]
    return [
        *failed,
        *report["failed"],
        *(name for row in tables for name in row["wrong"]),
        *(
            row["model"]
            for stage in ("loop", "cascade")
            for row in report.get(stage, ())
            if "wrong" in row
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--stage", type=stages, default=USUAL, metavar="NAMES",
        help=f"of {','.join(STAGES)}; all but tune by default",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"on a GPU {RESULTS.name}")
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda",
        help="cpu: tiny sizes in Triton's interpreter, to try this program",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    if not on_gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton and the kernels are imported
    reason = backend.refuses(torch.device(options.device))
    if reason is not None:
        hint = "; --device cpu tries this program without a GPU" if on_gpu else ""
        print(reason + hint, file=sys.stderr)
        return 1
    if on_gpu:
        faulthandler.dump_traceback_later(KILLED_S, exit=True)  # even if a kernel never ends
    report = environment()
    triton = importlib.import_module("triton")
    report["versions"] |= {"triton": triton.__version__, "cuda": torch.version.cuda}
    report |= {"targets": {name: list(target) for name, target in TARGETS.items()}}
    report |= {"steps": {}, "failed": {}, "seconds": {}}
    print(describe(report), flush=True)
    clock = Clock() if on_gpu else HostClock()
    report["device"] |= clock.describe()
    print(report["device"], flush=True)

    # An interpreter's times are not worth keeping.
    output = options.output or (RESULTS if on_gpu else None)

    def save() -> None:
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n")

    save()
    machine = Machine(clock, report, save, options.quick)
    for name, end in deadlines(options.stage, SECONDS).items():
        began = time.monotonic()
        try:
            STAGES[name][0](dataclasses.replace(machine, until=start + end))
        except Exception as error:  # the other stages are worth as much
            report["failed"][name] = f"{type(error).__name__}: {error}"
        report["seconds"][name] = round(time.monotonic() - began, 1)
        save()
    for name, step in report["steps"].items():
        if step["result"] != "passed":
            print(f"{name}: {step['result']}")
    for name, failure in report["failed"].items():
        print(f"{name} failed: {failure}")
    faulthandler.cancel_dump_traceback_later()
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report["seconds"].items())
    bad = wrong(report)
    print(f"{spent}; {time.monotonic() - start:.0f} s in all; {len(bad)} failed or wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
