"""How G and D are run: in which precision, memory layout, and compiled or not."""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng, Sampler
from drs_fast.gan import GAN

GAIN = 1.02  # a variant must be so much faster to be kept
ROUNDS = 5
CLOSE = 0.05  # of the logits' standard deviation: what a variant may change them by
FLIP_ROWS = 10_000


def channels_last(gan: GAN) -> GAN:
    """Weights and images with the channels innermost; the modules given are not touched."""

    def variant(function: Any) -> Any:
        if not isinstance(function, torch.nn.Module):
            raise ValueError(f"G and D must be modules, got {type(function).__name__}")
        return copy.deepcopy(function).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    return gan.changed(variant)


def compiled(gan: GAN) -> GAN:
    """G and D through torch.compile."""
    return gan.changed(lambda function: torch.compile(function, dynamic=False))


VARIANTS: dict[str, Callable[[GAN], GAN]] = {"channels_last": channels_last, "compile": compiled}


def check(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of variants, or one name; ValueError for others."""
    names = (names,) if isinstance(names, str) else names
    for name in names:
        if name not in VARIANTS:
            raise ValueError(f"tune takes {', '.join(VARIANTS)}, got {name!r}")
    return tuple(name for name in VARIANTS if name in names)


def applied(gan: GAN, names: tuple[str, ...]) -> GAN:
    """The GAN with these variants."""
    for name in names:
        gan = VARIANTS[name](gan)
    return gan


def fastest(
    gan: GAN, names: tuple[str, ...], say: Callable[[str], Any]
) -> tuple[GAN, tuple[str, ...]]:
    """Tries one variant after another on burn-in rows; the GAN with those that are faster."""
    if not names:
        return gan, ()
    rng, kept = Rng(0, BURN_IN_ROW), []
    z, y = ops.latents(gan, rng, gan.block), ops.labels(gan, rng, gan.block)
    for name in names:
        try:
            variant = VARIANTS[name](gan)
            gain = _gain(gan, variant, z, y)
        except Exception as error:  # of any compiler, or of a model that cannot be copied
            reason = (str(error) or repr(error)).splitlines()[0]
            say(f"{name}: not used ({reason})")
            continue
        say(f"{name}: {gain:.2f} times the speed of G and D, {'' if gain >= GAIN else 'not '}kept")
        if gain >= GAIN:
            gan = variant
            kept.append(name)
    return gan, tuple(kept)


def _gain(gan: GAN, variant: GAN, z: Tensor, y: Tensor | None) -> float:
    expected, found = (one.logits(z, y)[1].double() for one in (gan, variant))
    finite = torch.isfinite(expected)
    distance = float((found - expected)[finite].abs().max())
    if not distance <= CLOSE * float(expected[finite].std()):
        raise ValueError(f"it changes logits by up to {distance:.3g}")
    seconds: dict[GAN, list[float]] = {gan: [], variant: []}
    for _ in range(ROUNDS):
        for one, times in seconds.items():
            _wait(z.device)
            start = time.perf_counter()
            one.logits(z, y)
            _wait(z.device)
            times.append(time.perf_counter() - start)
    return statistics.median(seconds[gan]) / statistics.median(seconds[variant])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flip_rate(gan: GAN, sampler: Sampler, state: Any, rng: Rng, size: int) -> float:
    """Share of burn-in rows that are accepted in this precision and not in fp32, or only there."""
    exact = gan.on(precision="fp32")
    flips = rows = 0
    while rows < FLIP_ROWS:
        here = rng.at(BURN_IN_ROW + rows)
        z, y = ops.latents(gan, here, size), ops.labels(gan, here, size)
        batches = [sampler.step(one, state, z, y, here)[1] for one in (gan, exact)]
        mine, theirs = (batch.ids[: int(batch.count)] for batch in batches)
        flips += len(mine) + len(theirs) - 2 * int(torch.isin(mine, theirs).sum())
        rows += size
    return flips / rows
