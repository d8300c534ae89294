"""How G and D are run: their weights, memory layout, and whether they are compiled.

Only what was asked for is applied. Nothing here measures time, because equal commands must give
equal bytes; `drs_fast.run.auto` does, before a run begins.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.gan import GAN
from drs_fast.gan.precision import AUTOCAST
from drs_fast.gan.row_noise import ROWS
from drs_fast.tune import folding

AUTO = ("auto",)
# Largest change of a logit or sample by a variant, in standard deviations of all of them. A fold
# moved those of a SAGAN by 0.003.
CLOSE = 0.01
ROUNDINGS = 2.0  # or so many times the change by the precision, which rounds a variant elsewhere
MOST = 4.0  # standard deviations, whatever that is: an untrained SAGAN needs 2 to 3 in bf16
LEAST_ROWS = 256  # rows to compare logits on; of samples, the first so many


class Seen(NamedTuple):
    """Samples of the first rows, real numbers (256, ...), and logits of all (rows,), float64."""

    x: Tensor
    logit: Tensor


class Change(NamedTuple):
    """How far samples and logits move, in standard deviations of all of them."""

    x: float
    logit: float


def folded(gan: GAN) -> GAN:
    """Folds BatchNorm into the layer before it, and computes normalised weights once."""
    networks: list[torch.nn.Module] = []

    def variant(function: Any) -> Any:
        networks.append(_copied(function))
        return networks[-1]

    gan = gan.changed(variant)
    rows = min(gan.block, LEAST_ROWS)
    if not folding.fold(networks, lambda: seen(gan.on(block=rows), rows)):
        raise ValueError(
            "no BatchNorm was found that alone gets what a linear layer or convolution returns, "
            "and no spectral or weight norm"
        )
    return gan


def cast(gan: GAN) -> GAN:
    """Stores the weights of layers in the precision that autocast gives them at every call."""
    dtype = AUTOCAST.get(gan.precision)
    if dtype is None:
        raise ValueError(f"it needs precision='bf16' or 'fp16', got {gan.precision!r}")
    counts = []

    def variant(function: Any) -> Any:
        network = _copied(function)
        counts.append(folding.cast(network, dtype))
        return network

    gan = gan.changed(variant)
    if not any(counts):
        raise ValueError("no linear layer or convolution was found")
    return gan


def channels_last(gan: GAN) -> GAN:
    """Stores weights and images with channels innermost. Works on copies of the modules."""

    def variant(function: Any) -> Any:
        network = _copied(function)
        for held in (*network.parameters(), *network.buffers()):
            if held.ndim == 4:  # others have no channels innermost, such as companions of classes
                held.data = held.data.contiguous(memory_format=torch.channels_last)
        return network

    return gan.changed(variant)


def _copied(function: Any) -> torch.nn.Module:
    if not isinstance(function, torch.nn.Module):
        raise ValueError(f"G and D must be modules, got {type(function).__name__}")
    return copy.deepcopy(function)


def compiled(gan: GAN) -> GAN:
    """Compiles G and D with torch.compile, each as one graph, with no kernels chosen by timing."""
    if gan.noise == ROWS:
        raise ValueError(
            'noise="rows" replaces random operators when they are called, and compiled code does '
            "not call them"
        )
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
    """The GAN with these variants; ValueError if G or D fails, or what they return changes."""
    if not names:
        return gan
    gan.row()  # so that an error of the untuned G or D is not blamed on tuning
    rows = max(gan.block, LEAST_ROWS)
    tuned, found = made(gan, names, rows)
    expected = seen(gan, rows)
    check_close(names, moved(expected, found), limit(gan, expected))
    tuned.tuned = names
    return tuned


def made(gan: GAN, names: tuple[str, ...], rows: int) -> tuple[GAN, Seen]:
    """The GAN with these variants, and what it makes of so many rows; ValueError if it fails."""
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


def limit(gan: GAN, expected: Seen) -> Change:
    """How far a variant may move what untuned G and D returned."""
    if gan.precision == "fp32":
        return Change(CLOSE, CLOSE)
    exact = seen(gan.on(precision="fp32"), len(expected.logit))
    pairs = zip(exact, expected, strict=True)
    rounding = (_moved(a, b, a.isfinite() & b.isfinite()) for a, b in pairs)
    return Change(*(max(CLOSE, min(MOST, ROUNDINGS * each)) for each in rounding))


def check_close(names: tuple[str, ...], change: Change, most: Change) -> None:
    """ValueError unless the changes of samples and logits are small enough."""
    by = f"tune={names!r}" if names else "another batch size"
    for what, found, allowed in (
        ("logits", change.logit, most.logit),
        ("samples", change.x, most.x),
    ):
        if not found <= allowed:
            raise ValueError(
                f"{by} must not change {what} by more than {allowed:.3g} of their standard "
                f"deviation, but changes them by {found:.3g}; leave it out"
            )


def change(gan: GAN, tuned: GAN) -> Change:
    """Largest changes over burn-in rows."""
    rows = max(gan.block, LEAST_ROWS)
    return moved(seen(gan, rows), seen(tuned, rows))


def seen(gan: GAN, rows: int) -> Seen:
    """What G and D make of burn-in rows."""
    rng = Rng(0, BURN_IN_ROW)
    x, logit = gan.logits(ops.latents(gan, rng, rows), ops.labels(gan, rng, rows))
    x = x[:LEAST_ROWS]
    return Seen((torch.view_as_real(x) if x.is_complex() else x).double(), logit.double())


def moved(expected: Seen, found: Seen) -> Change:
    """Largest changes of what was expected to be finite, in the rows that were found."""
    rows = len(found.logit)
    pairs = ((expected.x[:rows], found.x), (expected.logit[:rows], found.logit))
    return Change(*(_moved(before, now, before.isfinite()) for before, now in pairs))


def _moved(expected: Tensor, found: Tensor, chosen: Tensor) -> float:
    """Largest change of those chosen, in standard deviations of those expected."""
    if expected.shape != found.shape:
        return math.inf
    if not chosen.any():
        return 0.0
    deviation = expected[chosen].std(correction=0).clamp_min(torch.finfo(torch.float64).tiny)
    return float((found - expected)[chosen].abs().max() / deviation)
