"""Counted work: what a search decides by, because equal commands must decide alike at any time.

The unit is a floating-point operation of a matrix product or a convolution. All else is counted in
what takes about as long: measured on one core of an AMD EPYC (Zen 5, AVX-512) with float32 and
PyTorch 2.13, as the least of 15 calls, such an operation takes 0.006 ns (the linear layers of
25gaussians and swissroll) to 0.018 ns (the convolutions of digits), and 0.01 ns is taken for it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.gan import GAN
from drs_fast.squeeze.bound import LARGE, SLICE, TINY, Bound, build, drawn
from drs_fast.training.fitting import Draws

ELEMENT = 40.0  # one that any other operator writes: 0.35 to 0.5 ns
OPERATOR = 200_000.0  # a call of one: 2 us
NORMAL = 75.0  # to draw one: 0.75 ns
ROW = 200.0  # to accept or reject a row: 2 ns
BOUNDED = 1_200.0  # what a bound adds to that, beside its networks: 12 ns
FASTER = {"cuda": 100.0}  # than a CPU, about


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the work of all operators that run within it.

    Of those that PyTorch has no formula for, such as quantized ones, only what they write counts.
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
    """The work of a call, which is made twice: TorchScript optimizes within the first one."""
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        call()
        counter = Counter()
        with counter:
            call()
    return counter.work


class Costs(NamedTuple):
    """The work for a row of drawing it, with what decides on it, of G and D, and of two bounds."""

    row: float
    call: float
    tiny: float
    large: float

    @staticmethod
    def of(judge: GAN) -> "Costs":
        """G and D are called with a block, the bounds with a slice."""
        rng = Rng(0, BURN_IN_ROW)
        z, y = ops.latents(judge, rng, judge.block), ops.labels(judge, rng, judge.block)
        _, _, some, label = next(drawn(judge, rng, SLICE))
        networks = (build(judge, widths, Draws(0)) for widths in (TINY, LARGE))

        def asked(network: Bound) -> float:
            return counted(lambda: network.above(0.0, some, label)) / SLICE

        row, prior = ROW + NORMAL * judge.latent_dim, judge.prior
        if callable(prior):
            row += counted(lambda: prior(some)) / SLICE
        call = counted(lambda: judge.logits(z, y)) / judge.block
        return Costs(row, call, *(asked(network) for network in networks))

    def without(self, acceptance: float) -> float:
        """Work for a sample without a bound."""
        return (self.row + self.call) / acceptance

    def with_bounds(self, acceptance: float, calls: float, left: float, twice: bool) -> float:
        """Work for a sample with the large bound or both, where it has so many calls of G and D.

        left: the share of rows that the large bound is asked for.
        """
        asked = left * self.large + (self.tiny if twice else 0.0)
        return (self.row + BOUNDED + asked) / acceptance + calls * self.call

    def with_the_best_bound(self, acceptance: float) -> float:
        """Work for a sample with a tiny bound that lets no other row pass."""
        return self.with_bounds(acceptance, calls=1.0, left=0.0, twice=True)


def in_the_time_of(work: float, device: torch.device) -> float:
    """The work that a device does while a CPU does this much."""
    return work * FASTER.get(device.type, 1.0)
