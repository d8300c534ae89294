"""All samplers on real handwritten digits, compared in the feature space of a small classifier.

python -m benchmarks.quality.digits [--only WAY ...] [--json FILE] [--picture FILE]

Frechet distance, precision and recall compare with real images on which neither the GAN nor the
classifier was trained. Class balance is that of the classifier's predictions.
"""

from dataclasses import replace
from typing import Any

import torch

import drs_fast as drs
from benchmarks.common import features, ways
from benchmarks.common.ways import WAYS, Samples, Way
from benchmarks.quality import comparison
from benchmarks.quality.comparison import COSTS, Row
from drs_fast.gan import GAN
from drs_fast.samplers import DCD, DOT, DGFlow
from drs_fast.training.fitting import Draws
from drs_fast.zoo import digits

SAMPLES = 2_000
# Their critics are networks for 2-D toys.
LEFT_OUT = ("RSGAN + DRS", "WGAN + head + DRS")


def in_classifier_space(gan: GAN, seed: int) -> GAN:
    """Uses the features of a classifier, as in the paper; the judge has other weights."""
    return drs.density_ratio(gan, features.classifier(1).body, seed=seed)


IMAGES = {
    "DGflow": Way(DGFlow()),
    "DOT": Way(DOT(lipschitz="pairs", burn_in=200)),
    "DCD": Way(DCD(), ways.contrasted),
    **{
        name: replace(WAYS[name], prepare=in_classifier_space)
        for name in ("DRE-F-SP + RS", "DRE-F-SP + MH", "DRE-F-SP + SIR")
    },
}
COLUMNS = {
    "frechet": ("Frechet", "{:.2f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "imbalance": ("class imbalance", "{:.3f}"),
}


def verdicts(found: dict[str, list[dict[str, float]]]) -> dict[str, bool]:
    """Whether every sampler of the data's law lowers the Frechet distance, seed by seed."""
    judged = {}
    for name, runs in found.items():
        way = WAYS.get(name)
        if way is None or way.sampler.law.split(",")[0] != "data":
            continue
        lower = sum(
            run["frechet"] < raw["frechet"] for run, raw in zip(runs, found["raw"], strict=True)
        )
        judged[f"{name}: lower Frechet distance on {lower} of {len(runs)} seeds"] = (
            lower >= 0.8 * len(runs)
        )
    return judged


def main(arguments: list[str] | None = None) -> int:
    options = comparison.parser(__doc__, SAMPLES).parse_args(arguments)
    torch.set_num_threads(options.threads)
    known = WAYS | IMAGES
    chosen = {name: known[name] for name in options.only or WAYS if name not in LEFT_OUT}
    gan = drs.load("digits")
    training, held_out = digits.split()
    space = features.Space(held_out)
    comparison.introduce("digits", options.n, options.seeds)
    for way in chosen.values():
        ways.check(gan, way.sampler)
    print(comparison.header(COLUMNS | COSTS), flush=True)

    def show(name: str, row: Row) -> None:
        print(comparison.line(name, row, COLUMNS | COSTS), flush=True)

    def real(n: int, seed: int) -> Samples:
        return Samples(training[Draws(seed).integers(n, len(training))])

    rows, first, found = comparison.runs(
        gan,
        chosen,
        options.n,
        options.seeds,
        options.fits,
        lambda samples: space.quality(samples.x),
        real,
        show,
    )
    judged = verdicts(found)
    comparison.judge(judged)
    facts: dict[str, Any] = {
        "n": options.n,
        "seeds": options.seeds,
        "fits": options.fits or options.seeds,
    }
    if options.json:
        report = {"digits": {"model_sha256": gan.sha256(), "rows": rows}}
        comparison.write(options.json, report, judged, facts)
    if options.picture:
        comparison.tiles(options.picture, first)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
