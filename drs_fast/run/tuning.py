"""How G and D are run: their weights, memory layout, and whether they are compiled.

Only what was asked for is applied. Nothing here measures time, because equal commands must give
equal bytes; `drs_fast.run.auto` does, before a run begins.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.gan import GAN
from drs_fast.run import folding

AUTO = ("auto",)
CLOSE = 0.05  # largest change of a logit by a variant, in standard deviations of the logits
ROUNDINGS = 2.0  # or so many times the change by bf16 itself, which rounds a variant elsewhere
LEAST_ROWS = 256  # rows to compare logits on


def folded(gan: GAN) -> GAN:
    """Folds BatchNorm into the layer before it, and computes normalised weights once."""
    counts = []

    def variant(function: Any) -> Any:
        network = _copied(function)
        counts.append(folding.fold(network))
        return network

    gan = gan.changed(variant)
    if not any(counts):
        raise ValueError(
            "no BatchNorm was found that alone gets what a linear layer or convolution returns, "
            "and no spectral or weight norm"
        )
    return gan


def cast(gan: GAN) -> GAN:
    """Stores the weights of layers in the precision that autocast gives them at every call."""
    if gan.precision != "bf16":
        raise ValueError(f"it needs precision='bf16', got {gan.precision!r}")
    counts = []

    def variant(function: Any) -> Any:
        network = _copied(function)
        counts.append(folding.cast(network, torch.bfloat16))
        return network

    gan = gan.changed(variant)
    if not any(counts):
        raise ValueError("no linear layer or convolution was found")
    return gan


def channels_last(gan: GAN) -> GAN:
    """Stores weights and images with channels innermost. Works on copies of the modules."""

    def variant(function: Any) -> Any:
        return _copied(function).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    return gan.changed(variant)


def _copied(function: Any) -> torch.nn.Module:
    if not isinstance(function, torch.nn.Module):
        raise ValueError(f"G and D must be modules, got {type(function).__name__}")
    return copy.deepcopy(function)


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


CAST, COMPILE = "cast", "compile"
VARIANTS: dict[str, Callable[[GAN], GAN]] = {
    "fold": folded,
    CAST: cast,
    "channels_last": channels_last,
    COMPILE: compiled,
}


def check(names: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names of variants as a tuple; a single name will do. ValueError for unknown names."""
    names = (names,) if isinstance(names, str) else names
    if tuple(names) == AUTO:
        return AUTO
    for name in names:
        if name not in VARIANTS:
            raise ValueError(f"tune must be auto, or from {', '.join(VARIANTS)}, got {name!r}")
    return tuple(name for name in VARIANTS if name in names)


def sets(variants: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """All sets of these variants but the empty one, the smallest first."""
    every = tuple(variants)
    return (names for k in range(len(every)) for names in combinations(every, k + 1))


def applied(gan: GAN, names: tuple[str, ...]) -> GAN:
    """The GAN with these variants; ValueError if G or D fails, or their logits change too much."""
    if not names:
        return gan
    gan.row()  # so that an error of the untuned G or D is not blamed on tuning
    rows = max(gan.block, LEAST_ROWS)
    tuned, found = made(gan, names, rows)
    expected = seen(gan, rows)
    check_close(names, moved(expected, found), limit(gan, expected))
    return tuned


def made(gan: GAN, names: tuple[str, ...], rows: int) -> tuple[GAN, Tensor]:
    """The GAN with these variants, and its logits of burn-in rows; ValueError if G or D fails."""
    tuned = gan
    try:
        for name in names:
            tuned = VARIANTS[name](tuned)
        return tuned, seen(tuned, rows)
    except Exception as error:  # from any compiler, or a model that cannot be copied
        cause = error.__cause__ or error
        reason = (str(cause) or repr(cause)).splitlines()[0]
        raise ValueError(
            f"tune={names!r} cannot be applied here: {reason}; leave it out"
        ) from error


def limit(gan: GAN, expected: Tensor) -> float:
    """How far a variant may move these logits of untuned G and D, in standard deviations."""
    if gan.precision == "fp32":
        return CLOSE
    exact = seen(gan.on(precision="fp32"), len(expected))
    return max(CLOSE, ROUNDINGS * moved(exact, expected))


def check_close(names: tuple[str, ...], change: float, most: float) -> None:
    """ValueError unless the change of the logits is small enough."""
    if not change <= most:
        what = f"tune={names!r}" if names else "another batch size"
        raise ValueError(
            f"{what} must not change logits by more than {most:.3g} of their standard "
            f"deviation, but changes them by {change:.3g}; leave it out"
        )


def change(gan: GAN, tuned: GAN) -> float:
    """Largest change of a finite logit over burn-in rows, in their standard deviations."""
    rows = max(gan.block, LEAST_ROWS)
    return moved(seen(gan, rows), seen(tuned, rows))


def seen(gan: GAN, rows: int) -> Tensor:
    """Logits of burn-in rows, (rows,) float64."""
    rng = Rng(0, BURN_IN_ROW)
    return gan.logits(ops.latents(gan, rng, rows), ops.labels(gan, rng, rows))[1].double()


def moved(expected: Tensor, found: Tensor) -> float:
    """Largest change of a finite logit, in standard deviations of those expected."""
    finite = torch.isfinite(expected)
    if not finite.any():
        return 0.0
    deviation = expected[finite].std(correction=0).clamp_min(torch.finfo(torch.float64).tiny)
    return float((found - expected)[finite].abs().max() / deviation)
