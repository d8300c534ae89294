"""Counts work. A search decides by it, because equal commands must decide alike at any time.

The unit is one floating-point operation of a matrix product or convolution, taken as 0.01 ns;
everything else is converted by time. Measured on one core of an AMD EPYC (Zen 5, AVX-512) with
float32 and PyTorch 2.13, least of 15 calls: such an operation takes 0.006 ns (the linear layers of
25gaussians and swissroll) to 0.018 ns (the convolutions of digits).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.gan import GAN
from drs_fast.squeeze.bounds.bound import above
from drs_fast.squeeze.bounds.latent import LARGE, TINY, LatentBound, build
from drs_fast.squeeze.slices import SLICE, drawn
from drs_fast.training.fitting import Draws
from drs_fast.tune.tuning import COMPILE

ELEMENT = 40.0  # an element written by any other operator: 0.35 to 0.5 ns
OPERATOR = 200_000.0  # a call of an operator: 2 us
NORMAL = 75.0  # drawing a normal: 0.75 ns
ROW = 200.0  # accepting or rejecting a row: 2 ns
BOUNDED = 1_200.0  # what a bound adds per row, besides its networks: 12 ns
FASTER = {"cuda": 100.0}  # how much faster than a CPU, roughly


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the work of all operators that run within the block.

    If PyTorch has no formula for an operator, such as a quantized one, only its output counts.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # takes half a second, for Triton

        super().__init__()  # type: ignore[no-untyped-call]
        self.formulas = flop_registry
        self.work: float = 0.0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            return func(*args, **kwargs)
        formula = self.formulas.get(func.overloadpacket)
        if formula is None:
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        found = func(*args, **kwargs)
        if func.is_view:
            return found
        self.work += OPERATOR
        if formula is not None:
            self.work += formula(*args, **kwargs, out_val=found)
        written = found if isinstance(found, (tuple, list)) else (found,)
        self.work += ELEMENT * sum(part.numel() for part in written if isinstance(part, Tensor))
        return found


def counted(call: Callable[[], object]) -> float:
    """The work of a call. It is made twice, because TorchScript optimizes during the first."""
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        call()
        counter = Counter()
        with counter:
            call()
    return counter.work


class Costs(NamedTuple):
    """Work per row: to draw it and decide on it, to call G and D, and to call each bound.

    low: of G and D in low precision, which takes a share of the time of `call`.
    """

    row: float
    call: float
    tiny: float
    large: float
    low: float = math.inf

    @staticmethod
    def of(judge: GAN, low_cost: float = math.inf) -> "Costs":
        """Costs of calling G and D with one block, and the networks with one slice."""
        if COMPILE in judge.tuned:
            judge = judge.unchanged()  # compiled code cannot be counted
        rng = Rng(0, BURN_IN_ROW)
        z, y = ops.latents(judge, rng, judge.block), ops.labels(judge, rng, judge.block)
        _, _, some, label = next(drawn(judge, rng, SLICE))
        tiny, large = (build(judge, widths, Draws(0)) for widths in (TINY, LARGE))

        def asked(network: LatentBound) -> float:
            return counted(lambda: above(network, 0.0, some, label)) / SLICE

        row, prior = ROW + NORMAL * judge.latent_dim, judge.prior
        if callable(prior):
            row += counted(lambda: prior(some)) / SLICE
        call = counted(lambda: judge.logits(z, y)) / judge.block
        return Costs(row, call, asked(tiny), asked(large), low_cost * call)

    def without(self, acceptance: float) -> float:
        """Work per sample without a bound."""
        return (self.row + self.call) / acceptance

    def with_bounds(
        self, acceptance: float, calls: float, looked_at: tuple[float, float, float]
    ) -> float:
        """Work per sample at `calls` calls of G and D in full precision.

        looked_at: the share of rows that the tiny network looks at, the large one, and low
            precision.
        """
        shares = zip(looked_at, (self.tiny, self.large, self.low), strict=True)
        asked = sum(share * each for share, each in shares if share)
        return (self.row + BOUNDED + asked) / acceptance + calls * self.call

    def with_the_best_network(self, acceptance: float) -> float:
        """Work per sample with a tiny network that passes only accepted rows."""
        return self.with_bounds(acceptance, 1.0, (1.0, 0.0, 0.0))

    def with_low_precision(self, acceptance: float) -> float:
        """Work per sample with a low precision that passes only accepted rows."""
        return self.with_bounds(acceptance, 1.0, (0.0, 0.0, 1.0))


def in_the_time_of(work: float, device: torch.device) -> float:
    """The work that a device does in the time a CPU takes for this much."""
    return work * FASTER.get(device.type, 1.0)
