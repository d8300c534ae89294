"""Calibration fits against scikit-learn's: `python -m benchmarks.speed.calibrators [--json FILE]`.

mhgan calibrates with IsotonicRegression and with LogisticRegression on a logit or on the logs of
both probabilities; scikit-learn itself uses _sigmoid_calibration, with Platt's targets. All get
ready-made features here. Threads are those of OMP_NUM_THREADS.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.calibration import _sigmoid_calibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.common.timing import describe, environment, interleaved
from drs_fast import Rng, ops
from drs_fast.ratio.calibrators import fit
from drs_fast.ratio.held_out import Logits

SAMPLES = 100_000  # real ones, and as many generated
REPEATS = 7
SHIFT = 1.2  # of the real samples' normal; the logits are three times the log ratio
WEAK = 1e9  # of scikit-learn's penalty
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Peer:
    """A fit to scores (n,) and labels, and how far its log ratios may differ from ours."""

    name: str
    method: str
    features: Callable[[Tensor], Tensor]
    fit: Callable[[Array, Array], Any]
    log_ratio: Callable[[Any, Array], Array]
    tolerance: float


def logits(n: int) -> Logits:
    real, generated = (ops.normal(Rng(0, row), n, 1)[:, 0].double() for row in (0, n))
    return Logits(*(3.0 * (SHIFT * x - SHIFT**2 / 2) + 0.7 for x in (real + SHIFT, generated)))


def column(score: Tensor) -> Tensor:
    return score[:, None]


def logs(score: Tensor) -> Tensor:
    return torch.stack([logsigmoid(score), -logsigmoid(-score)], dim=1)


def isotonic(x: Array, real: Array) -> Any:
    """With one more sample of each kind at the ends, like ours."""
    ends = [x.min(), x.max()]
    return IsotonicRegression(out_of_bounds="clip").fit(np.append(x, ends), np.append(real, [1, 0]))


def logistic(**settings: Any) -> Callable[[Array, Array], Any]:
    return lambda x, real: LogisticRegression(C=WEAK, **settings).fit(x, real)


def odds(fitted: Any, x: Array) -> Array:
    return np.asarray(fitted.decision_function(x))


def peers() -> list[Peer]:
    near = 5e-3  # without Platt's targets, and within scikit-learn's stopping rule
    cholesky = logistic(solver="newton-cholesky")
    return [
        Peer(
            "IsotonicRegression", "isotonic", lambda score: score, isotonic,
            lambda fitted, x: torch.logit(torch.from_numpy(fitted.predict(x))).numpy(), 1e-9,
        ),
        Peer("LogisticRegression", "platt", column, logistic(), odds, near),
        Peer("newton-cholesky", "platt", column, cholesky, odds, near),
        Peer(
            "_sigmoid_calibration", "platt", lambda score: score, _sigmoid_calibration,
            lambda fitted, x: -(fitted[0] * x + fitted[1]), 1e-4,
        ),
        Peer("LogisticRegression", "beta", logs, logistic(), odds, near),
        Peer("newton-cholesky", "beta", logs, cholesky, odds, near),
    ]  # fmt: skip


def given(peer: Peer, valid: Logits) -> tuple[Array, Array]:
    """Features, and 1 for real samples."""
    real = np.repeat([1.0, 0.0], [len(valid.real), len(valid.generated)])
    return peer.features(torch.cat(valid)).numpy(), real


def distance(peer: Peer, valid: Logits) -> float:
    """The largest difference of log ratios, in nats."""
    x, real = given(peer, valid)
    prior = math.log(len(valid.real) / len(valid.generated))
    ours = fit(peer.method, valid)(torch.cat(valid)).numpy()
    return float(np.abs(peer.log_ratio(peer.fit(x, real), x) - prior - ours).max())


def compared(peer: Peer, valid: Logits, repeats: int) -> dict[str, Any]:
    """Milliseconds of both, and by what factor ours is faster; an error if the fits differ."""
    apart = distance(peer, valid)
    if not apart <= peer.tolerance:
        raise SystemExit(f"{peer.method}: {peer.name} differs by {apart:.3g} nats")
    x, real = given(peer, valid)
    found = interleaved(
        {"drs_fast": lambda: fit(peer.method, valid), "peer": lambda: peer.fit(x, real)}, repeats
    )
    return {
        "method": peer.method,
        "peer": peer.name,
        "apart": apart,
        "faster": found["peer"].median / found["drs_fast"].median,
        "milliseconds": {name: asdict(timing) for name, timing in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    here = environment()
    here["versions"]["scikit-learn"] = sklearn.__version__
    print(describe(here))
    print(f"{SAMPLES:,} real and as many generated scores; median ms of {REPEATS} fits")
    valid, rows = logits(SAMPLES), []
    for peer in peers():
        row = compared(peer, valid, REPEATS)
        rows.append(row)
        ours, theirs = (row["milliseconds"][name]["median"] for name in ("drs_fast", "peer"))
        print(
            f"{peer.method:9} drs_fast {ours:8.1f}   {peer.name:20} {theirs:8.1f}   "
            f"{row['faster']:5.2f} times   apart {row['apart']:.1e}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({**here, "samples": SAMPLES, "fits": rows}, indent=1))


if __name__ == "__main__":
    main()
