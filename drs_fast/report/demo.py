"""Samples two built-in GANs, and draws pictures."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.core.sampler import Described
from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN
from drs_fast.report import histograms, pictures, report, style
from drs_fast.report.pictures import Panel, Square
from drs_fast.run.generate import generate
from drs_fast.samplers.drs import DRS
from drs_fast.store import Samples, open_run
from drs_fast.zoo import gaussians25, load

SEED = 0
GRID = Square((-2.5, 2.5), (-2.5, 2.5), bins=200)


def run(
    out: Path,
    *,
    quiet: bool = False,
    gaussians: int = 1_000_000,
    digits: int = 5_000,
    say: Callable[[str], object] = lambda line: None,
) -> list[Path]:
    """Writes samples of both GANs to directories under `out`, and pictures and reports of them.

    Returns the pictures, and then the pages of the reports. quiet: show no progress. say: called
    with each line of what is being done. RuntimeError without matplotlib.
    """
    style.check()
    out.mkdir(parents=True, exist_ok=True)
    say(
        f"Draws {gaussians:,} samples of 25gaussians and {digits:,} of digits with DRS, then "
        f"pictures\nof both, in {out}/. That takes about half a minute on two cores that are free."
    )
    say(
        f"\n{'model':<12}{'samples':>11}{'proposals':>12}{'acceptance':>12}{'samples/s':>15}"
        f"{'seconds':>9}"
    )
    paths, pages = [], []
    for name, n, draw in (("25gaussians", gaussians, _modes), ("digits", digits, _digits)):
        gan = load(name)
        samples = _generate(gan, out / name, n, quiet, say)
        start = time.perf_counter()
        # Two threads that wait for each other on cores that others use need ten times as long.
        with one_thread():
            raw = _raw(gan, n)
            paths.append(draw(out / f"{name}.png", samples, *raw))
            paths.append(_scores(out / f"{name}-scores.png", samples))
            pages.append(report.write(out / name, gan=gan).page)
        say(f"{'':<12}{'and as many raw samples, pictures, a report':<50}{_since(start):>9}")
    say(f"\nLook at {pages[0]}\nand at the pictures. Then try your own GAN:\n")
    say("  drs-fast doctor mygan.py:make     what is wrong with it, and what to do")
    say("  drs-fast generate mygan.py:make -n 10000 --out run\n")
    return [*paths, *pages]


def _generate(
    gan: GAN, directory: Path, n: int, quiet: bool, say: Callable[[str], object]
) -> Samples:
    before = len(open_run(directory)) if (directory / "manifest.json").exists() else 0
    start = time.perf_counter()
    samples = generate(
        gan, DRS(), n, seed=SEED, out=directory, save=("x", "logit"), progress=not quiet
    )
    took, seconds = _since(start), time.perf_counter() - start
    proposals = samples.manifest["proposals"]
    rate = f"{(n - before) / seconds:,.0f}" if n > before else "there already"
    acceptance = f"{n / max(1, proposals):.2%}"
    say(f"{gan.name:<12}{n:>11,}{proposals:>12,}{acceptance:>12}{rate:>15}{took:>9}")
    return samples


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:.1f}"


def _raw(gan: GAN, n: int) -> tuple[Tensor, Tensor]:
    """x and logit of n proposals, starting at the burn-in rows."""
    parts = [
        gan.logits(ops.latents(gan, Rng(SEED, BURN_IN_ROW + row), min(gan.block, n - row)))
        for row in range(0, n, gan.block)
    ]
    x, logit = zip(*parts, strict=True)
    return torch.cat(x), torch.cat(logit)


def _modes(path: Path, samples: Samples, raw: Tensor, logit: Tensor) -> Path:
    edges = torch.linspace(*GRID.x, GRID.bins + 1, dtype=torch.float64, device="cpu")
    below = torch.special.ndtr((edges[:, None] - gaussians25.AXIS) / gaussians25.STD)
    marginal = below.diff(dim=0).mean(dim=1) / edges.diff()
    panels = [
        Panel(
            f"{name}, n = {len(x):,}\n{gaussians25.quality(x)[0]:.2%} within 4 sd of a centre",
            GRID.density(x),
        )
        for name, x in (("raw generator", raw), ("accepted", samples.x[:]))
    ]
    inside = -math.expm1(-8.0)  # share of a normal in the plane within 4 sd
    title = f"real density, from its formula\n{inside:.2%} within 4 sd of a centre"
    panels.append(Panel(title, marginal[:, None] * marginal))
    return pictures.densities(path, panels, GRID)


def _digits(path: Path, samples: Samples, raw: Tensor, logit: Tensor) -> Path:
    thresholds = _described(samples).thresholds
    if thresholds is None:
        raise RuntimeError(f"{samples.path} holds no thresholds")
    p = ops.probability(logit, **thresholds.of_rows(None))
    order = p.argsort(descending=True, stable=True)
    panels = [
        Panel(
            f"the {len(rows)} {name} to be accepted\n"
            f"acceptance probability {float(p[rows].min()):.2g} to {float(p[rows].max()):.2g}",
            -raw[rows],  # dark ink on white
        )
        for name, rows in (("most likely", order[:64]), ("least likely", order[-64:]))
    ]
    return pictures.grids(path, panels, f"{len(raw):,} raw digits")


def _described(samples: Samples) -> Described:
    return report.described(samples, report.state_of(samples))


def _scores(path: Path, samples: Samples) -> Path:
    found = report.scores(samples, _described(samples))
    if found is None:
        raise RuntimeError(f"{samples.path} holds no scores")
    return histograms.scores(path, *found, report.heading(samples))
