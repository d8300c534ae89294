"""What is wrong with generated samples and their logits, by the doctor's numbers."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BadLogits, check_invalid
from drs_fast.gan import GAN
from drs_fast.ratio.burn_in import valid
from drs_fast.ratio.probes import Finding

ELEMENTS = 2**22  # of samples that are kept and compared, at least a block's
CONSTANT = 2.0**-20  # relative to values above 1
UNUSABLE = ("no-finite-logits", "constant-logits")


class Chart(NamedTuple):
    """What an examination fills in."""

    findings: list[Finding]
    figures: dict[str, float]
    notes: list[str]


class Sampled(NamedTuple):
    x: Tensor  # the first rows
    y: Tensor | None
    logit: Tensor
    raw: Tensor  # what the discriminator returned


def of_samples(x: Tensor) -> Iterator[Finding]:
    if not x.is_floating_point():
        return
    bad = ~torch.isfinite(x.flatten(1)).all(dim=1)
    if bool(bad.any()):
        yield Finding(
            "nan-samples",
            f"{int(bad.sum()):,} of {len(x):,} samples hold NaN or infinite values",
            "look for overflow in G, for half precision, and for weights that hold NaN",
        )
    elif float((x - x[:1]).abs().max()) <= CONSTANT * max(1.0, float(x.abs().max())):
        yield Finding(
            "ignores-latents",
            f"all {len(x):,} samples are the same",
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
            f"link='probability', but {outside:.2%} of D's values are outside [0, 1]",
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
            "check D's weights and the range of its input",
        )
        return
    low, high = float(finite.min()), float(finite.max())
    figures |= {"logit_min": low, "logit_mean": float(finite.mean()), "logit_max": high}
    figures["logit_sd"] = float(finite.std(correction=0))
    if high - low <= CONSTANT * max(1.0, abs(high)):
        yield Finding(
            "constant-logits",
            f"all logits are {high:.6g}",
            "D does not look at its input, or is saturated: check its weights and its activation",
        )
        return
    if gan.link == "logit" and low >= 0.0 and high <= 1.0:
        yield Finding(
            "probability-as-logit",
            f"link='logit', but all values are in [0, 1], from {low:.4g} to {high:.4g}",
            "use link='probability', or remove D's sigmoid",
        )
    if gan.energy:
        yield Finding(
            "no-ratio",
            f"a {gan.link} critic's score is no density ratio, so rejection has no law",
            "make one with drs.calibrate or drs.keep_train, or use a sampler of energies (ddls)",
        )
    yield from _saturation(gan, sampled)
    if len(set(finite.tolist())) >= 10:  # by chance, one in 2^160
        for dtype in (torch.bfloat16, torch.float16):
            if torch.equal(finite.to(dtype).float(), finite):
                yield Finding(
                    "low-precision",
                    f"every logit is a {str(dtype).removeprefix('torch.')} number",
                    "compute D's last layers in float32: ties at the top lose the ranking",
                )
                break


def _saturation(gan: GAN, sampled: Sampled) -> Iterator[Finding]:
    """More than 1 % at the largest value: a percentile up to 99 falls among equals.

    Equal samples may have equal logits, so different samples are asked for.
    """
    logit, raw, n = sampled.logit, sampled.raw, len(sampled.logit)
    if gan.link == "probability":
        ends = int(((raw == 0.0) | (raw == 1.0)).sum())
        if ends > 0.01 * n:
            yield Finding(
                "saturated",
                f"{ends / n:.2%} of D's probabilities are exactly 0 or 1",
                "take the value before the sigmoid, with link='logit'",
            )
            return
    top = logit == ops.largest(logit).to(logit.dtype)
    alike = sampled.x[top[: len(sampled.x)]]
    different = len(set(map(tuple, alike.flatten(1).tolist())))
    if int(top.sum()) > 0.01 * n and different > 2:
        yield Finding(
            "saturated",
            f"{int(top.sum()) / n:.2%} of the logits equal the largest, {float(logit[top][0]):.5g}",
            "D cannot rank its best samples: take its score before any clamp, sigmoid or tanh",
        )


def of_weights(gan: GAN, sampled: Sampled, chart: Chart) -> Iterator[Finding]:
    """Expected acceptance, within each class, and classes that fall behind."""
    logit, y, n = sampled.logit, sampled.y, len(sampled.logit)
    own = [(0, logit)] if y is None else [(k, logit[y == k]) for k in range(gan.labels or 0)]
    classes = [(k, valid(group)) for k, group in own if bool(torch.isfinite(group).any())]
    percents = {"acceptance_gamma_0": None, "acceptance_p80": 80.0, "acceptance_p95": 95.0}
    for name, percent in percents.items():
        shares = [_acceptance(group, percent) for _, group in classes]
        chart.figures[name] = (
            sum(share * len(group) for share, (_, group) in zip(shares, classes, strict=True)) / n
        )
        if y is not None:
            worst = min(range(len(shares)), key=shares.__getitem__)
            chart.figures[f"{name}_lowest_class"] = shares[worst]
    weight = torch.cat([_weights(group) for _, group in classes])
    chart.figures["effective_share"] = float(weight.sum() ** 2 / weight.square().sum()) / n
    if float(weight.max()) > float(weight.sum()) / 2.0:
        yield Finding(
            "starved",
            f"one of {n:,} samples outweighs all the others together: gamma = 0 would accept "
            f"{chart.figures['acceptance_gamma_0']:.2g} of the proposals or fewer",
            "use a percentile or target_acceptance; drs.calibrate an overconfident D; "
            "if G is far from the data, train it on",
        )
    if y is not None:
        yield from _classes(gan, classes, logit, y, chart)


def _acceptance(logit: Tensor, percent: float | None) -> float:
    log_m = ops.largest(logit)
    gamma = (
        torch.zeros_like(log_m)
        if percent is None
        else ops.quantile_gamma(logit, percent, log_m=log_m)
    )
    return float(ops.probability(logit, log_m=log_m, gamma=gamma).mean())


def _weights(logit: Tensor) -> Tensor:
    """exp(logit), of mean 1."""
    return len(logit) * torch.softmax(logit.double(), dim=0)


def _classes(
    gan: GAN, classes: list[tuple[int, Tensor]], logit: Tensor, y: Tensor, chart: Chart
) -> Iterator[Finding]:
    # Were the classes alike, all rows of one would be below the others' median in 1 of 2^rows.
    enough = 14 + math.ceil(math.log2(gan.labels or 1))
    few = [k for k in range(gan.labels or 0) if int((y == k).sum()) < enough]
    if few:
        chart.notes.append(
            f"{len(few)} of {gan.labels} classes have fewer than {enough} rows and are not "
            f"compared; raise n, {len(logit):,}"
        )
    weak = [
        k
        for k, group in classes
        if k not in few
        and len(logit[y != k])
        and float(group.max()) < float(logit[y != k].median())
    ]
    if weak:
        yield Finding(
            "weak-class",
            f"in class{'es' if len(weak) > 1 else ''} {', '.join(map(str, weak[:10]))} the largest "
            "logit is below the median of the other classes",
            "compare the order of G's and D's labels (both from 0?), and look at samples of it; "
            "every class is accepted by its own log_m, so its share stays",
        )
