"""How long the command takes to answer, against Python alone and against `import torch`.

python -m benchmarks.speed.start [--json FILE] [--rounds N]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common.timing import describe, environment

ROUNDS = 5
COMMAND = ("-m", "drs_fast")
PYTHON, TORCH = "python -c pass", "python -c 'import torch'"
WAYS = {
    PYTHON: ("-c", "pass"),
    TORCH: ("-c", "import torch"),
    "python -c 'import drs_fast'": ("-c", "import drs_fast"),
    "drs-fast --help": (*COMMAND, "--help"),
    "drs-fast --version": (*COMMAND, "--version"),
    "drs-fast verify --help": (*COMMAND, "verify", "--help"),
    "drs-fast status DIR": (*COMMAND, "status", "DIR"),
    "drs-fast generate --help": (*COMMAND, "generate", "--help"),
}


def seconds(words: tuple[str, ...], run: str) -> float:
    """What one process takes; RuntimeError if it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *(run if word == "DIR" else word for word in words)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr}")
    return time.perf_counter() - start


def measured(rounds: int) -> dict[str, float]:
    """The quickest of all rounds, in which the ways take turns."""
    best = dict.fromkeys(WAYS, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        words = ("generate", "25gaussians", "-n", "100", "--out", run, "--quiet")
        seconds((*COMMAND, *words), run)
        for _ in range(rounds):
            for name, way in WAYS.items():
                best[name] = min(best[name], seconds(way, run))
    return best


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    found = measured(options.rounds)
    report = {"environment": environment(), "seconds": found}
    print(describe(report["environment"]))
    print(f"{'':28}  seconds  x python  x torch")
    for name, took in found.items():
        print(f"{name:28}  {took:7.2f}  {took / found[PYTHON]:8.1f}  {took / found[TORCH]:7.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
