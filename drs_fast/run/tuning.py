"""How G and D are run: in which precision, memory layout, and compiled or not.

What is given is applied; nothing here reads the clock, because equal commands give equal bytes.
"""

import copy
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng, Sampler
from drs_fast.gan import GAN

CLOSE = 0.05  # of the logits' standard deviation: what variants may change them by
LEAST_ROWS = 256  # that logits are compared on
FLIP_ROWS = 10_000


def channels_last(gan: GAN) -> GAN:
    """Weights and images with the channels innermost; the modules given are not touched."""

    def variant(function: Any) -> Any:
        if not isinstance(function, torch.nn.Module):
            raise ValueError(f"G and D must be modules, got {type(function).__name__}")
        return copy.deepcopy(function).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    return gan.changed(variant)


def compiled(gan: GAN) -> GAN:
    """G and D through torch.compile, each as one graph, without kernels chosen by the clock."""
    options: dict[str, Any] = {"deterministic": True}
    if "deterministic" not in torch._inductor.list_options():
        if gan.device.type != "cpu":
            raise ValueError(
                "on a GPU this needs PyTorch 2.10 or later, whose compiler can be told not to "
                f"choose kernels by their speed, got {torch.__version__}"
            )
        options = {}

    def variant(function: Any) -> Any:
        return torch.compile(_of_its_own(function), fullgraph=True, dynamic=False, options=options)

    return gan.changed(variant)


def _of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function called from code that no other has.

    torch.compile counts what it compiled by code object, and after eight shapes of one class of
    modules it would go on uncompiled.
    """

    def run(*given: Any) -> Any:
        return function(*given)

    return FunctionType(run.__code__.replace(), run.__globals__, closure=run.__closure__)


VARIANTS: dict[str, Callable[[GAN], GAN]] = {"channels_last": channels_last, "compile": compiled}


def check(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of variants, or one name; ValueError for others."""
    names = (names,) if isinstance(names, str) else names
    for name in names:
        if name not in VARIANTS:
            raise ValueError(f"tune takes {', '.join(VARIANTS)}, got {name!r}")
    return tuple(name for name in VARIANTS if name in names)


def applied(gan: GAN, names: tuple[str, ...]) -> GAN:
    """The GAN with these variants; ValueError where G and D do not run so, or give other logits."""
    if not names:
        return gan
    gan.row()  # an error of G and D as they are is not one of tuning
    tuned, what = gan, f"tune={names!r}"
    try:
        for name in names:
            tuned = VARIANTS[name](tuned)
        tuned.row()
    except Exception as error:  # of any compiler, or of a model that cannot be copied
        cause = error.__cause__ or error
        reason = (str(cause) or repr(cause)).splitlines()[0]
        raise ValueError(f"{what} cannot be applied here: {reason}; leave it out") from error
    moved = change(gan, tuned)
    if not moved <= CLOSE:
        raise ValueError(
            f"{what} may change logits by up to {CLOSE} of their standard deviation, and changes "
            f"them by {moved:.3g}; leave it out"
        )
    return tuned


def change(gan: GAN, tuned: GAN) -> float:
    """How far finite logits of burn-in rows move at most, in their standard deviations."""
    rng, rows = Rng(0, BURN_IN_ROW), max(gan.block, LEAST_ROWS)
    z, y = ops.latents(gan, rng, rows), ops.labels(gan, rng, rows)
    expected, found = (one.logits(z, y)[1].double() for one in (gan, tuned))
    finite = torch.isfinite(expected)
    if not finite.any():
        return 0.0
    deviation = expected[finite].std(correction=0).clamp_min(torch.finfo(torch.float64).tiny)
    return float((found - expected)[finite].abs().max() / deviation)


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
