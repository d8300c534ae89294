"""The same G and D in a lower precision: how they run, what they cost, and how far they are off.

Nobody needs their bits, so they run in whatever way is fast.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng, fingerprint
from drs_fast.gan import GAN, memory
from drs_fast.gan.precision import AUTOCAST, BF16, FP16, FP32, TF32, nearest
from drs_fast.tune import tuning

# Where they apply. Folding traces modules, which disturbs other threads while it lasts, so it must
# have been asked for.
FAST = (tuning.CAST, "channels_last")
CPU_ROWS = 256  # in a call on a CPU, where more are no faster
BYTES = {FP32: 4, TF32: 4, BF16: 2, FP16: 2}  # of a weight
ROUNDS, ROUND_SECONDS, MOST_CALLS = 3, 0.02, 1_000


class Lower(NamedTuple):
    """What a lower precision costs, and how far its logits are from those of the GAN, in nats.

    cost: the time of a row, as a share of one in the GAN's own precision. error: root mean square
    of the changes of finite logits. worst: the largest. spread: standard deviation of the logits.
    infinite: the share of rows whose logit is finite, and not finite in the lower precision.
    """

    precision: str
    cost: float
    error: float
    worst: float
    spread: float
    infinite: float

    def in_spreads(self, change: float) -> float:
        """A change of logits, in standard deviations of all of them."""
        return change / self.spread if self.spread else math.inf


def lower_than(gan: GAN) -> tuple[str, ...]:
    """The precisions below the GAN's own that its device has, and that may be faster there."""
    if gan.precision in AUTOCAST:
        return ()
    if gan.device.type != "cuda":
        return (BF16,)
    tf32 = gan.precision == FP32 and nearest(TF32, gan.device) == TF32
    return (*((TF32,) if tf32 else ()), BF16, FP16)


def lowered(gan: GAN, precision: str) -> GAN:
    """The GAN in a lower precision, with weights of its own, made once.

    Its weights are cast and laid out with channels innermost, where this works, beside all that the
    GAN is tuned by. ValueError if the weights do not fit into memory, or G or D fails.
    """
    return gan.once(precision, lambda own: _lowered(own, precision))


def weight_bytes(gan: GAN, precision: str) -> int:
    """What the weights of G and D take in a lower precision."""
    held = {
        id(weight): weight.numel()
        for module in fingerprint.modules(gan.generator, gan.discriminator)
        for weight in module.parameters()
    }
    return BYTES[precision] * sum(held.values())


def _lowered(gan: GAN, precision: str) -> GAN:
    if precision not in lower_than(gan):
        # A precision that the device lacks is refused by the GAN, and others are no faster.
        gan.on(precision=precision)
        here = f"precision={gan.precision!r} on {gan.device.type}"
        raise ValueError(f"{precision} is not known to be faster than {here}")
    needed = weight_bytes(gan, precision)
    memory.check_weights(f"the weights of G and D in {precision}", needed, gan.device)
    block = gan.block if gan.device.type == "cuda" else min(gan.block, CPU_ROWS)
    low = gan.unchanged().on(block=block, precision=precision)
    for name in (each for each in tuning.VARIANTS if each in (*FAST, *gan.tuned)):
        with contextlib.suppress(ValueError):
            low = tuning.made(low, (name,), tuning.LEAST_ROWS)[0]
    low.row()
    return low


def measured(gan: GAN, precision: str, rows: int = 1024) -> Lower:
    """What the precision costs on this machine now, and its error on burn-in rows."""
    low = lowered(gan, precision)
    rows = max(rows, gan.call_rows(min(low.block, rows)))
    z, y = _rows(gan, rows)
    pair = [one.verdicts(z, y).double() for one in (gan, low)]
    return Lower(precision, cost(gan, low, rows), *differences(*pair))


def cost(gan: GAN, low: GAN, rows: int = 1024, seconds: float = ROUND_SECONDS) -> float:
    """The time of a row in the lower precision, as a share of one of the GAN, measured now.

    seconds: about how long a round of calls of the GAN takes.
    """
    z, y = _rows(gan, gan.call_rows(min(low.block, rows)))
    return _ratio(gan, lambda: low.verdicts(z, y), lambda: gan.verdicts(z, y), seconds)


def _rows(gan: GAN, n: int) -> tuple[Tensor, Tensor | None]:
    rng = Rng(0, BURN_IN_ROW)
    return ops.latents(gan, rng, n), ops.labels(gan, rng, n)


def differences(logit: Tensor, low: Tensor) -> tuple[float, float, float, float]:
    """Error, worst and spread in nats, and the share that is not finite, as in `Lower`."""
    finite = torch.isfinite(logit)
    both = finite & torch.isfinite(low)
    if not bool(both.any()):
        return math.inf, math.inf, math.nan, float(finite.double().mean())
    moved = (low - logit)[both]
    infinite = float((finite & ~both).double().mean())
    spread = float(logit[finite].std(correction=0))
    return float(moved.square().mean().sqrt()), float(moved.abs().max()), spread, infinite


def _ratio(
    gan: GAN, call: Callable[[], object], other: Callable[[], object], seconds: float
) -> float:
    """The least time of a call by that of the other; they take turns."""
    times = max(1, min(MOST_CALLS, int(seconds / max(_seconds(gan, other, 1), 1e-9))))
    rounds = [(_seconds(gan, call, times), _seconds(gan, other, times)) for _ in range(ROUNDS)]
    mine: float = min(each for each, _ in rounds)
    theirs: float = min(each for _, each in rounds)
    return mine / max(theirs, sys.float_info.min)


def _seconds(gan: GAN, call: Callable[[], object], times: int) -> float:
    _wait(gan)
    start = time.perf_counter()
    for _ in range(times):
        call()
    _wait(gan)
    return (time.perf_counter() - start) / times


def _wait(gan: GAN) -> None:
    if gan.device.type == "cuda":
        torch.cuda.synchronize(gan.device)
