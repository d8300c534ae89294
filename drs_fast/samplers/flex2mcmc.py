"""FlEx2MCMC: Ex2MCMC with jumps proposed by a normalising flow that is fitted in burn-in.

Source: Samsonov, Lagutin, Gabrie, Durmus, Naumov and Moulines, Local-global MCMC kernels: the best
of both worlds, NeurIPS 2022.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from drs_fast.core import Batch, Rng
from drs_fast.core.arguments import integer, number
from drs_fast.core.layout import Layout, Scalar
from drs_fast.core.rows import FLOW_ROW
from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN
from drs_fast.samplers.common import flow, moving
from drs_fast.samplers.common.flow import Flow
from drs_fast.samplers.common.local_global import FromPrior, LocalGlobal
from drs_fast.samplers.common.metropolis import Point
from drs_fast.training.fitting import Draws

RATE = 3e-3
DECAY = 1.0  # weight decay; without it the flow memorises the few chains
DESCENTS = 4  # updates of the flow's weights after every step of the chains
LONGEST = 1.0  # longest norm of the gradient of all weights; longer ones are clipped


class FlEx2MCMCState(NamedTuple):
    step_size: Scalar
    weights: Annotated[Tensor, Layout(torch.float32, (("w",),))]  # of the flow
    acceptance: Scalar  # every row becomes a sample


@dataclass(frozen=True)
class FlEx2MCMC(LocalGlobal):
    """Like Ex2MCMC, but every second jump, starting with the first, is to latents from a flow.

    These compete with weights exp(logit) p0/q, where q is the flow's density, so the law is that of
    Ex2MCMC whatever the flow; a good flow makes chains jump more often. The other jumps are to
    latents from the prior; without them no chain could enter or leave a mode that the flow lost.
    candidates: latents that compete at every jump, of which one is where the chain is now.
    moves: MALA moves after every jump.
    steps: steps per chain. Each costs candidates - 1 logits and moves + 1 gradients of the logit.
    step_size: of MALA. Found in burn-in by default, as in Ex2MCMC.
    target: the share of moves that MALA accepts at the step_size that burn-in finds.
    burn_in: chains used to find step_size and to fit the flow.
    rounds: steps of these chains, each followed by updates of the flow's weights.
    backward: in [0, 1], the share of KL(q | target) in the loss, which ignores places where q is
        not; the rest is KL(target | q), which counts every place where the chains are.
    With labels, a chain keeps its row's label, as in Ex2MCMC, and the flow is given it. The latents
    must be normal. Tallies: as in Ex2MCMC.

    Source: Samsonov et al. (2022), algorithm 3, in which all jumps are to the flow's latents; their
    code has backward=0.4, with which the flow loses small modes.
    """

    rounds: int = 50
    backward: float = 0.1

    State: ClassVar[Any] = FlEx2MCMCState

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rounds", integer("rounds", self.rounds, 1))
        object.__setattr__(self, "backward", number("backward", self.backward, 0.0, 1.0))

    @torch.inference_mode(False)
    def init(self, gan: GAN, rng: Rng) -> FlEx2MCMCState:
        if gan.prior != "normal":
            raise ValueError(
                f"FlEx2MCMC needs normal latents, got prior={gan.prior!r}; make the prior part of "
                "the generator: GAN(lambda z: G(prior(z)), ..., prior='normal'), where "
                "2 * torch.special.ndtr(z) - 1 is uniform; or use Ex2MCMC"
            )
        fit = Fit(gan, rng, self.rounds, self.backward)
        proposals = (Pushed(fit.flow), FromPrior())
        size = self.found_in_burn_in(gan, rng, proposals, self.rounds, fit)
        one = torch.ones((), dtype=torch.float64, device=gan.device)
        return FlEx2MCMCState(size * one, flow.packed(fit.flow), one)

    def step(
        self, gan: GAN, state: FlEx2MCMCState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[FlEx2MCMCState, Batch]:
        proposals = (Pushed(flow.unpacked(gan, state.weights)), FromPrior())
        return state, self.run(gan, proposals, float(state.step_size), z, y, rng)


@dataclass(frozen=True)
class Pushed:
    """Proposes fresh latents that went through a flow."""

    flow: Flow

    def of(self, fresh: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        z, log_det = self.flow.of(fresh, y)
        return z, _log_normal(z) - _log_normal(fresh) + log_det

    def correction(self, z: Tensor, y: Tensor | None) -> Tensor:
        normal, log_det = self.flow.of(z, y, inverse=True)
        return _log_normal(z) - _log_normal(normal) + log_det


class Fit:
    """Minimises both divergences between the flow and the target.

    Source: Samsonov et al. (2022), section 4.
    """

    def __init__(self, gan: GAN, rng: Rng, rounds: int, backward: float) -> None:
        self.gan, self.backward, self.draws = gan, backward, Draws(rng.seed, FLOW_ROW)
        self.flow = flow.build(gan, self.draws)
        self.optimizer = torch.optim.AdamW(
            self.flow.parameters(), RATE, weight_decay=DECAY, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, RATE, total_steps=rounds * DESCENTS
        )

    def __call__(self, here: Point, y: Tensor | None) -> None:
        """Runs one round, with the chains where they are."""
        for _ in range(DESCENTS):
            base = self.draws.normal(*here.z.shape).to(here.z.device)
            _, _, slope = self.gan.gradients(self.flow.of(base, y)[0], y)
            with one_thread(), torch.enable_grad():
                loss = (1.0 - self.backward) * self._forward(here, y)
                loss = loss + self.backward * self._backward(base, y, slope)
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = clip_grad_norm_(self.flow.parameters(), LONGEST)
                if not bool(torch.isfinite(norm)):
                    self.optimizer.zero_grad()  # so that the step changes nothing
                self.optimizer.step()
            self.schedule.step()

    def _forward(self, here: Point, y: Tensor | None) -> Tensor:
        """KL(target | q) up to a constant, with the chains as samples of the target."""
        normal, log_det = self.flow(here.z, y, inverse=True)
        surprise = normal.square().sum(dim=1) / 2 + log_det
        return torch.where(torch.isfinite(here.target), surprise, 0.0).mean()

    def _backward(self, base: Tensor, y: Tensor | None, slope: Tensor) -> Tensor:
        """A loss with the gradient of KL(q | target), given the logit's at the flow's latents."""
        x, log_det = self.flow(base, y)
        uphill = (moving.steady(slope) * x).sum(dim=1)
        loss: Tensor = (x.square().sum(dim=1) / 2 - uphill - log_det).mean()
        return loss


def _log_normal(z: Tensor) -> Tensor:
    """Log density of normal latents, up to a constant; (n,) float64."""
    return moving.row_sum(z.double().square()) / -2
