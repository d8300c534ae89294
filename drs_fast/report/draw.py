"""Which pictures of a run can be drawn, and why others cannot."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast.core.sampler import Described
from drs_fast.gan import GAN
from drs_fast.report import facts, histograms, images, pictures, proposals
from drs_fast.report.balance import Balance
from drs_fast.report.pictures import Panel, Square
from drs_fast.store import Samples

BEST = 64


class Picture(NamedTuple):
    """A picture, what it shows in a few words, and how to read it in a sentence or two."""

    path: Path
    title: str
    caption: str


def everything(
    samples: Samples, said: Described, balanced: Balance | str, folder: Path, gan: GAN | None
) -> tuple[list[Picture], list[str]]:
    """Draws the pictures; returns them, the telling ones first, and why others are missing."""
    title = facts.heading(samples, gan)
    of_samples, reasons = _samples(samples, folder, title)
    of_proposals = _proposals(samples, said, gan, folder, title)
    of_numbers, lacking = _numbers(samples, said, balanced, folder, title)
    return [*of_proposals, *of_samples, *of_numbers], [*lacking, *reasons]


def _numbers(
    samples: Samples, said: Described, balanced: Balance | str, folder: Path, title: str
) -> tuple[list[Picture], list[str]]:
    drawn: list[Picture] = []
    reasons: list[str] = []
    found = facts.scores(samples, said)
    if found is None:
        begun = "state_sha256" in samples.manifest
        lacking = "the sampler's state does not hold logits, log_m and gamma"
        reasons.append(f"scores: {lacking if begun else 'burn-in has not ended'}")
    else:
        path = histograms.scores(folder / "scores.png", *found, title)
        caption = (
            "Left: the score of the proposals that burn-in looked at. Right: the probability with "
            "which each of them is accepted, which is the sigmoid of its score."
        )
        drawn.append(Picture(path, "Scores and acceptance probabilities", caption))
    accepted = facts.accepted_logits(samples)
    groups = {
        f"{name}, {len(logit):,}": logit
        for name, logit in (("raw (burn-in)", said.logits), ("accepted", accepted))
        if logit is not None and bool(torch.isfinite(logit).any())
    }
    if accepted is None:
        reasons.append(f"accepted logits: {_absence(samples, 'logit')}")
    if groups:
        path = histograms.logits(folder / "logits.png", groups, title)
        caption = "What the discriminator says of what G proposes, and of what was kept."
        drawn.append(Picture(path, "Logits before and after", caption))
    if said.bounded is not None:
        _, logit, bound, chance, _ = said.bounded
        path = pictures.bounds(folder / "bounds.png", logit, bound, chance, title)
        caption = (
            "Each point is a row. Where its bound is below its logit, the row may be lost although "
            "it would have been accepted."
        )
        drawn.append(Picture(path, "The bound against the logit", caption))
        if isinstance(balanced, str):
            reasons.append(f"balance: {balanced}")
        else:
            path = pictures.balance(folder / "balance.png", balanced, title)
            caption = f"How the bound shifts the share of each {balanced.group}."
            drawn.append(Picture(path, f"What the bound does to each {balanced.group}", caption))
    return drawn, reasons


def _samples(samples: Samples, folder: Path, title: str) -> tuple[list[Picture], list[str]]:
    path = folder / "samples.png"
    if "x" not in samples.columns or len(samples) == 0:
        return [], [f"samples: {_absence(samples, 'x')}"]
    shape = tuple(samples.x.shape)
    if _points(shape):
        x = samples.x[: facts.READ]
        x = x[torch.isfinite(x).all(dim=1)]
        if len(x) == 0:
            return [], ["samples: none is finite"]
        square = Square.around(x)
        panel = square.panel(f"accepted samples, n = {len(x):,}", x)
        drawn = pictures.densities(path, [panel], square, title)
        return [Picture(drawn, "Samples", "Where the samples of the run lie.")], []
    if not _images(shape):
        return [], [
            f"samples: x must be (n, 2), (n, H, W), (n, 1, H, W) or (n, 3, H, W) to draw, got "
            f"{shape}"
        ]
    logit = facts.accepted_logits(samples)
    panels = _best_and_worst(samples, logit)
    many = "Those with the highest and the lowest logits." if logit is not None else "The first."
    made = [Picture(pictures.grids(path, panels, title), "Samples", many)]
    labels = samples.manifest.get("labels")
    if labels and "y" in samples.columns:
        some = slice(0, 200 * min(labels, images.CLASSES))
        by_class = folder / "classes.png"
        images.by_class(by_class, samples.x[some], samples.y[some], labels, title)
        made.append(Picture(by_class, "Samples by class", "The first samples of each class."))
    return made, []


def _proposals(
    samples: Samples, said: Described, gan: GAN | None, folder: Path, title: str
) -> list[Picture]:
    """Accepted beside rejected rows, and images on the way from one to the other."""
    if said.thresholds is None or gan is None or len(samples) == 0:
        return []
    shape = (len(samples), *gan.row().shape[1:])
    if not (_points(shape) or _images(shape)):
        return []
    most = proposals.POINTS if _points(shape) else proposals.IMAGES
    found = proposals.of_run(samples, gan, said.thresholds, most)
    path = folder / "proposals.png"
    head = "Accepted and rejected"
    if _points(shape):
        return [Picture(_two(path, found, title), head, _first(found))]
    images.kinds(path, found, title)
    caption = (
        f"{_first(found)} Sorted by the probability of being accepted, whose mean stands beside "
        "each row."
    )
    made = [Picture(path, head, caption)]
    strips = proposals.strips(gan, found, said.thresholds)
    if strips is not None:
        path = images.strips(folder / "interpolation.png", strips, title)
        caption = (
            "Images of latents between two rows of the run. Under each is the probability that it "
            "would be accepted."
        )
        made.append(Picture(path, "From accepted to rejected", caption))
    return made


def _first(found: proposals.Proposals) -> str:
    kept = int(found.accepted.sum())
    return f"Of the first {len(found.x):,} proposals of the run, {kept:,} were accepted."


def _two(path: Path, found: proposals.Proposals, title: str) -> Path:
    x, finite = found.x, torch.isfinite(found.x).all(dim=1)
    square = Square.around(x[finite])
    kinds = {"accepted": found.accepted & finite, "rejected": ~found.accepted & finite}
    panels = [
        square.panel(f"{int(rows.sum()):,} {name}", x[rows], of=len(x))
        for name, rows in kinds.items()
        if bool(rows.any())
    ]
    return pictures.densities(path, panels, square, title)


def _best_and_worst(samples: Samples, logit: Tensor | None) -> list[Panel]:
    if logit is None:
        return [Panel("first accepted samples", samples.x[:BEST])]
    order = logit.argsort(descending=True, stable=True)
    best, worst = order[:BEST], order[-BEST:]
    return [
        Panel(
            f"{len(rows)} {name} logits\n{float(logit[rows].min()):.2f} to "
            f"{float(logit[rows].max()):.2f}",
            samples.x[rows],
        )
        for name, rows in (("highest", best), ("lowest", worst))
    ]


def _points(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] == 2


def _images(shape: tuple[int, ...]) -> bool:
    return 0 not in shape and (len(shape) == 3 or (len(shape) == 4 and shape[1] in (1, 3)))


def _absence(samples: Samples, column: str) -> str:
    return "there are none yet" if column in samples.columns else f"{column} was not saved"
