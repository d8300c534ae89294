"""Compares rejection with a bound of the latent to the same rejection without one.

python -m benchmarks.speed.squeeze [--only MODEL ...] [--by BOUNDS] [--seconds S] [--json FILE]
                                   [--weights FOLDER]

Every total includes burn-in and search. The rates are of runs of 1,000,000 samples, or of
their first --seconds.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.common import features, gans, metrics, trained
from benchmarks.common.runs import Differs, lost, timed
from benchmarks.common.timing import describe, environment
from drs_fast.core.rows import BURN_IN_ROW
from drs_fast.gan import GAN
from drs_fast.report import balance
from drs_fast.samplers import DRS, OBRS
from drs_fast.squeeze import Squeeze
from drs_fast.squeeze.bounds.bound import above
from drs_fast.squeeze.proposals import Proposals
from drs_fast.squeeze.stages import Stages
from drs_fast.squeeze.state import SqueezeState
from drs_fast.zoo import digits

WAYS = {
    "gamma 0": DRS(gamma=0.0),
    "p95": DRS(percentile=95.0),
    "p80": DRS(percentile=80.0),
    "OBRS 10 %": OBRS(budget=0.1),
}
MODELS = ("digits, plain", "digits", "25gaussians", "mnist, plain", "mnist", "MLP")
SIZES = (10_000, 1_000_000)
FEATURES = 1_000  # samples that distances are measured on
WARM_UP_S = 3.0
CHECKED = 32_768  # rows for what is lost by class or mode


def likeness_of(gan: GAN) -> float:
    """The correlation of the logits of z and of 0.9 z + sqrt(1 - 0.81) z', another latent."""
    z, other = (drs.ops.latents(gan, drs.Rng(seed, BURN_IN_ROW), 4096) for seed in (0, 1))
    logits = [gan.logits(rows)[1] for rows in (z, 0.9 * z + (1.0 - 0.81) ** 0.5 * other)]
    return float(torch.corrcoef(torch.stack(logits))[0, 1])


def compared(
    gan: GAN,
    squeeze: Squeeze,
    seconds: float,
    quality: Callable[[Tensor], float] | None,
    group: Callable[[Tensor], Tensor] | None,
) -> dict[str, Any]:
    """Both ways; Differs unless squeezed samples are among the others."""
    sampler = squeeze.sampler
    timed(gan, sampler, SIZES[-1], WARM_UP_S)
    squeezed = timed(gan, squeeze, SIZES[-1], seconds)
    state = squeezed.run.state
    plain = dataclasses.replace(squeezed, before=0.0)  # the same code, if no bound is used
    if state.used:
        plain = timed(gan, sampler, SIZES[-1], seconds, sampler.restored(state.unbounded))
    start = time.perf_counter()
    own = sampler.init(gan, drs.Rng(0))
    burn_in = time.perf_counter() - start
    share, of = lost(squeezed, plain, f"{gan.name}, {sampler}")
    found: dict[str, Any] = {
        "used": state.used,
        "remark": squeeze.remark(state),
        "calls": plain.run.calls / len(plain.samples["ids"]),
        "calls_by_own_burn_in": 1.0 / float(own.acceptance),  # it seldom sees the largest logit
        "squeezed_calls": squeezed.run.calls / len(squeezed.samples["ids"]),
        "search_calls": int(state.spent),
        "search_s": squeezed.before,
        "seen_lost": share,
        "compared": of,
        "seconds": {n: burn_in + plain.total(n) for n in SIZES},
        "squeezed_seconds": {n: squeezed.total(n) for n in SIZES},
        "measured": [len(plain.samples["ids"]), len(squeezed.samples["ids"])],
    }
    if state.used:
        found |= squeeze.measured(state, squeezed.run.tallies)
    if state.networks and not len(state.low) and group is not None:
        found["lost_by_group"] = lost_by_group(gan, squeeze, state, group)
    if quality is not None:
        found["distance"] = [quality(t.samples["x"][:FEATURES]) for t in (plain, squeezed)]
    return found


def lost_by_group(
    gan: GAN, squeeze: Squeeze, state: SqueezeState, group: Callable[[Tensor], Tensor]
) -> dict[str, list[float]]:
    """Shares of the accepted mass by class or mode, and the share of each that networks lose.

    Estimated from new rows, chosen with known probabilities, as in the search.
    """
    thresholds = squeeze.sampler.restored(state.unbounded)
    decides = squeeze.sampler.rejection(gan, thresholds)._replace(free=False)
    proposals = Proposals(decides, drs.Rng(1))
    stages = Stages(decides, state, drs.Rng(1))
    seen, _ = proposals.found(stages.networks[1], CHECKED)
    bounds = [
        above(network, margin, seen.z, None)
        for network, margin in zip(stages.networks, stages.margins, strict=True)
        if margin < float("inf")
    ]
    accepted = proposals.accepted(seen)
    passed = proposals.accepted(seen, torch.stack(bounds).amin(dim=0))
    found = balance.of_rows("group", group(gan.samples(seen.z)), accepted, passed, seen.chosen)
    return {"mass": found.share.tolist(), "lost": found.lost.tolist()}


def line(name: str, found: dict[str, Any]) -> str:
    gains = (found["seconds"][n] / found["squeezed_seconds"][n] for n in SIZES)
    loss = "not used"
    if found["used"]:
        low, high = found["lost_mass_interval"]
        loss = f"{found['lost_mass']:.3%} ({low:.3%} to {high:.3%})"
    cells = (
        name,
        f"{found['calls']:.4g}",
        f"{found['squeezed_calls']:.4g}",
        loss,
        f"{found['search_s']:.1f}",
        *(f"{gain:.3g}" for gain in gains),
        f"{max(found['lost_by_group']['lost']):.2%}" if "lost_by_group" in found else "",
        " / ".join(f"{value:.3f}" for value in found.get("distance", ())),
    )
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "| | calls a sample | squeezed | lost mass | search s | times faster at 10,000 | at 1,000,000 "
    "| lost of one group | distance |\n|---|--:|--:|---|--:|--:|--:|--:|--:|"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=MODELS, metavar="MODEL", help="; ".join(MODELS)
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seconds", type=float, default=30.0, help="of one run, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, default=Path("weights"), metavar="FOLDER")
    parser.add_argument("--tolerance", type=float, default=Squeeze.tolerance)
    parser.add_argument("--by", default="latent", metavar="BOUNDS", help="as of drs.Squeeze")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    space = features.Space(digits.split()[1])

    def frechet(x: Tensor) -> float:
        return space.quality(x)["frechet"]

    def digit(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return space.network(x).argmax(dim=1)

    judges: dict[str, tuple[Any, Any]] = {
        "digits": (frechet, digit),
        "digits, plain": (frechet, digit),
        "25gaussians": (
            lambda x: metrics.w1(x, FEATURES),
            lambda x: metrics.nearest(x, metrics.CENTRES)[1],
        ),
    }
    loads = {name: functools.partial(trained.load, name, options.weights) for name in trained.GANS}
    loads["MLP"] = gans.mlp  # random weights: a smooth logit
    here = environment()
    print(describe(here))
    asked = {name: getattr(options, name) for name in ("tolerance", "by", "seconds")}
    report: dict[str, Any] = {**here, **asked, "measured": {}}
    for model in options.only or MODELS:
        gan = loads[model]() if model in loads else drs.load(model)
        quality, group = judges.get(model, (None, None))
        likeness = likeness_of(gan)
        rows: dict[str, Any] = {}
        report["measured"][model] = {"likeness": likeness, "rows": rows}
        print(f"\n{model}: logits of z and 0.9 z + 0.44 z' correlate by {likeness:.2f}\n\n{HEADER}")
        for name in options.ways:
            squeeze = Squeeze(WAYS[name], options.tolerance, by=options.by)
            try:
                rows[name] = compared(gan, squeeze, options.seconds, quality, group)
            except Differs as error:
                raise SystemExit(error) from error
            print(line(name, rows[name]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
