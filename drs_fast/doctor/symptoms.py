"""Finds what is wrong with generated samples and their logits, by the doctor's numbers."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BadLogits, check_invalid
from drs_fast.doctor.probes import Finding
from drs_fast.doctor.words import number, percent
from drs_fast.gan import GAN
from drs_fast.samplers.common.burn_in import valid

ELEMENTS = 2**22  # numbers in the samples that are kept and compared, at least one block's
CONSTANT = 2.0**-20  # relative to values above 1
FLAT = 0.01  # nats: a smaller sd, and DRS(gamma=0) keeps more than 95 % of normal logits
UNUSABLE = ("no-finite-logits", "constant-logits")


class Chart(NamedTuple):
    """What an examination collects."""

    findings: list[Finding]
    figures: dict[str, float]
    notes: list[str]
    unknown: list[str]  # checks that were not possible, and why


class Sampled(NamedTuple):
    x: Tensor  # the first rows
    y: Tensor | None
    logit: Tensor
    raw: Tensor  # what the discriminator returned


class RealSamples(NamedTuple):
    x: Tensor
    y: Tensor | None


def of_samples(x: Tensor) -> Iterator[Finding]:
    if not x.is_floating_point():
        return
    bad = ~torch.isfinite(x.flatten(1)).all(dim=1)
    if bool(bad.any()):
        yield Finding(
            "nan-samples",
            f"{int(bad.sum()):,} of {len(x):,} samples hold NaN or infinite values",
            "look for overflow in G, half precision, or NaN in its weights",
        )
    elif float((x - x[:1]).abs().max()) <= CONSTANT * max(1.0, float(x.abs().max())):
        yield Finding(
            "ignores-latents",
            f"all {len(x):,} samples are equal",
            "check that G uses z and that its weights are loaded",
        )


def of_logits(gan: GAN, sampled: Sampled, figures: dict[str, float]) -> Iterator[Finding]:
    logit, raw = sampled.logit, sampled.raw
    n, good = len(logit), valid(logit)
    finite = good[torch.isfinite(good)]
    figures["rows"] = n
    figures["invalid_share"] = 1.0 - len(good) / n
    figures["minus_infinity_share"] = (len(good) - len(finite)) / n
    outside = float(((raw < 0.0) | (raw > 1.0)).double().mean())
    if gan.link == "probability" and outside:
        yield Finding(
            "logit-as-probability",
            f"link='probability', but {percent(outside)} of D's values are outside [0, 1]",
            "D returns logits: use link='logit'",
        )
    try:
        check_invalid(n - len(good), n)
    except BadLogits as error:
        yield Finding(
            "invalid-logits",
            f"{n - len(good):,} of {n:,} logits are NaN or +inf",
            str(error).partition("; ")[2],
        )
    if not len(finite):
        yield Finding(
            "no-finite-logits",
            f"none of {n:,} logits is finite",
            "check D's weights and its input range",
        )
        return
    low, high = float(finite.min()), float(finite.max())
    figures |= {"logit_min": low, "logit_mean": float(finite.mean()), "logit_max": high}
    figures["logit_sd"] = float(finite.std(correction=0))
    if high - low <= CONSTANT * max(1.0, abs(high)):
        yield Finding(
            "constant-logits",
            f"all logits are {number(high)}",
            "D ignores its input, or is saturated: check its weights and its activation",
        )
        return
    if gan.energy:
        yield Finding(
            "no-ratio",
            f"a {gan.link} critic's score is not a density ratio, so rejection has no law",
            "make it one with drs.calibrate or drs.keep_train, or use an energy sampler (ddls)",
        )
    elif figures["logit_sd"] < FLAT and len(finite) == len(good):
        accepted = float(torch.exp(good.double() - high).mean())
        yield Finding(
            "flat-logits",
            f"D hardly tells samples apart: the sd of its logits is "
            f"{number(figures['logit_sd'])}, and DRS(gamma=0) keeps "
            f"{percent(accepted)} of the samples",
            "D may be untrained, without its weights, or scaled down, or G's samples may hardly "
            "differ: check both, then drs.keep_train; if both are sound, G is nearly perfect",
        )
    yield from _saturation(gan, sampled)
    if len(set(finite.tolist())) >= 10:  # by chance once in 2^160
        for dtype in (torch.bfloat16, torch.float16):
            if torch.equal(finite.to(dtype).float(), finite):
                yield Finding(
                    "low-precision",
                    f"every logit is a {str(dtype).removeprefix('torch.')} number",
                    "compute D's last layers in float32: ties at the top lose the ranking",
                )
                break


def _saturation(gan: GAN, sampled: Sampled) -> Iterator[Finding]:
    """More than 1 % of logits at the largest value, so that a percentile up to 99 is among ties.

    Equal samples may have equal logits, so only different samples count. And a ratio may be a step
    function, so the other logits must differ.
    """
    logit, raw, n = sampled.logit, sampled.raw, len(sampled.logit)
    if gan.link == "probability":
        ends = int(((raw == 0.0) | (raw == 1.0)).sum())
        if ends > 0.01 * n:
            yield Finding(
                "saturated",
                f"{percent(ends / n)} of D's probabilities are exactly 0 or 1",
                "return the value before the sigmoid, with link='logit'",
            )
            return
    top = logit == ops.largest(logit).to(logit.dtype)
    alike = sampled.x[top[: len(sampled.x)]]
    different = len(set(map(tuple, alike.flatten(1).tolist())))
    others = logit[~top & torch.isfinite(logit)]
    if int(top.sum()) > 0.01 * n and different > 2 and len(set(others.tolist())) > len(others) / 2:
        yield Finding(
            "saturated",
            f"{percent(int(top.sum()) / n)} of the logits equal the largest, "
            f"{number(float(logit[top][0]))}",
            "D cannot rank its best samples: return its score before any clamp, sigmoid or tanh",
        )


def of_weights(
    gan: GAN, sampled: Sampled, real: RealSamples | None, chart: Chart
) -> Iterator[Finding]:
    """Expected acceptance with one log_m for all, and classes that are left behind."""
    logit, y, n = sampled.logit, sampled.y, len(sampled.logit)
    log_m = ops.largest(logit)
    for name, level in (("gamma_0", None), ("p80", 80.0), ("p95", 95.0)):
        gamma = (
            torch.zeros_like(log_m)
            if level is None
            else ops.quantile_gamma(logit, level, log_m=log_m)
        )
        accepted = ops.probability(logit, log_m=log_m, gamma=gamma)
        chart.figures[f"acceptance_{name}"] = float(accepted.mean())
        if y is not None:
            shares = [float(accepted[y == k].mean()) for k in range(gan.labels or 0) if k in y]
            chart.figures[f"acceptance_{name}_lowest_class"] = min(shares)
    weight = torch.softmax(valid(logit).double(), dim=0)
    chart.figures["effective_share"] = 1.0 / (float(weight.square().sum()) * n)
    # True logits of sd 3 look like this by chance in one of 1,000 draws of 4,096 rows.
    if float(weight.max()) > 10.0 / 11.0:
        yield Finding(
            "starved",
            f"one of {n:,} samples weighs ten times as much as all others together: gamma = 0 "
            f"accepts {number(chart.figures['acceptance_gamma_0'])} of the proposals or fewer",
            "use a percentile or target_acceptance; drs.calibrate an overconfident D; "
            "if G is far from the data, train it further",
        )
    if y is not None:
        yield from _classes(gan, logit, y, None if real is None else real.y, chart)


def _classes(
    gan: GAN, logit: Tensor, y: Tensor, real: Tensor | None, chart: Chart
) -> Iterator[Finding]:
    """Classes whose largest logit is below the median of the others.

    A class that is rare among the real samples is excused, because D may be about p(x, y).
    """
    classes = gan.labels or 0
    # If classes were alike, all rows of one would be below the others' median once in 2^rows.
    enough = 14 + math.ceil(math.log2(classes))
    few = [k for k in range(classes) if int((y == k).sum()) < enough]
    if few:
        chart.unknown.append(
            f"whether D rejects a class: {len(few)} of {classes} classes have fewer than {enough} "
            f"rows; raise n, {len(logit):,}"
        )
    ways = [logit]
    if real is not None:
        frequent, made = (torch.bincount(label, minlength=classes) + 0.5 for label in (real, y))
        ways.append(logit - (frequent / made)[y].log())
    weak = [
        k
        for k in range(classes)
        if k not in few
        and len(few) + 1 < classes
        and all(float(way[y == k].max()) < float(way[y != k].median()) for way in ways)
    ]
    if weak:
        yield Finding(
            "weak-class",
            f"in class{'es' if len(weak) > 1 else ''} {', '.join(map(str, weak[:10]))} the largest "
            "logit is below the median of the other classes",
            "compare how G and D number the labels (both from 0?), and look at samples of it. A "
            "class's share follows D; DRS(classes='within') keeps the shares you ask for",
        )
