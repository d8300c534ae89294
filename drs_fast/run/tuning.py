"""How G and D are run: their precision, memory layout, and whether they are compiled.

Only what was asked for is applied. Nothing here measures time, because equal commands must give
equal bytes.
"""

import copy
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.gan import GAN

CLOSE = 0.05  # largest change of a logit by a variant, in standard deviations of the logits
LEAST_ROWS = 256  # rows to compare logits on


def channels_last(gan: GAN) -> GAN:
    """Stores weights and images with channels innermost. Works on copies of the modules."""

    def variant(function: Any) -> Any:
        if not isinstance(function, torch.nn.Module):
            raise ValueError(f"G and D must be modules, got {type(function).__name__}")
        return copy.deepcopy(function).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    return gan.changed(variant)


def compiled(gan: GAN) -> GAN:
    """Compiles G and D with torch.compile, each as one graph, with no kernels chosen by timing."""
    options: dict[str, Any] = {"deterministic": True}
    if "deterministic" not in torch._inductor.list_options():
        if gan.device.type != "cpu":
            raise ValueError(
                "tune='compile' on a GPU needs PyTorch 2.10 or later, which can be told not "
                f"to choose kernels by timing, got {torch.__version__}; update PyTorch"
            )
        options = {}

    def variant(function: Any) -> Any:
        return torch.compile(_of_its_own(function), fullgraph=True, dynamic=False, options=options)

    return gan.changed(variant)


def _of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called from a code object of its own.

    torch.compile counts its compilations per code object, and stops compiling after eight shapes
    of one class of modules.
    """

    def run(*given: Any) -> Any:
        return function(*given)

    return FunctionType(run.__code__.replace(), run.__globals__, closure=run.__closure__)


VARIANTS: dict[str, Callable[[GAN], GAN]] = {"channels_last": channels_last, "compile": compiled}


def check(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of variants as a tuple; a single name will do. ValueError for unknown names."""
    names = (names,) if isinstance(names, str) else names
    for name in names:
        if name not in VARIANTS:
            raise ValueError(f"tune must be from {', '.join(VARIANTS)}, got {name!r}")
    return tuple(name for name in VARIANTS if name in names)


def applied(gan: GAN, names: tuple[str, ...]) -> GAN:
    """The GAN with these variants; ValueError if G or D fails, or their logits change too much."""
    if not names:
        return gan
    gan.row()  # so that an error of the untuned G or D is not blamed on tuning
    tuned, what = gan, f"tune={names!r}"
    try:
        for name in names:
            tuned = VARIANTS[name](tuned)
        tuned.row()
    except Exception as error:  # from any compiler, or a model that cannot be copied
        cause = error.__cause__ or error
        reason = (str(cause) or repr(cause)).splitlines()[0]
        raise ValueError(f"{what} cannot be applied here: {reason}; leave it out") from error
    moved = change(gan, tuned)
    if not moved <= CLOSE:
        raise ValueError(
            f"{what} must not change logits by more than {CLOSE} of their standard deviation, but "
            f"changes them by {moved:.3g}; leave it out"
        )
    return tuned


def change(gan: GAN, tuned: GAN) -> float:
    """Largest change of a finite logit over burn-in rows, in their standard deviations."""
    rng, rows = Rng(0, BURN_IN_ROW), max(gan.block, LEAST_ROWS)
    z, y = ops.latents(gan, rng, rows), ops.labels(gan, rng, rows)
    expected, found = (one.logits(z, y)[1].double() for one in (gan, tuned))
    finite = torch.isfinite(expected)
    if not finite.any():
        return 0.0
    deviation = expected[finite].std(correction=0).clamp_min(torch.finfo(torch.float64).tiny)
    return float((found - expected)[finite].abs().max() / deviation)
