"""A small network that bounds the logit by the latent alone, and how it is fitted."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot, relu
from torch.nn.utils import parameters_to_vector

from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN
from drs_fast.gan.where import conditions
from drs_fast.training.fitting import Draws, descend

TINY, LARGE = (16,), (64, 64, 64)  # widths
ROWS_A_STEP = 1024
EPOCHS = 32
LEAST_STEPS = 400
RATE = 1e-2
STEEPEST = 1.0  # longest gradient: where the spread is small, one batch could undo the fit
DECAY = 2e4  # weight decay times the number of rows, to avoid fitting what few rows cannot show
MOST_DECAY = 2.0
DEEP = 30.0  # nats below the largest logit; anything lower is hardly ever accepted
SPREADS = 4.0  # nats by which the log spread may differ from that of all the logits
LEAST_SHARE = 1e-6  # of finite logits
ODDS = 8.0  # nats: what log odds of 1 are to a network, whose outputs stay small


class LatentBound(nn.Module):
    """z (n, d) [, y (n,)] -> mean (n,) and spread (n,) of the logit, float32.

    rare: whether most logits are -inf, as with drs.where. Mean and spread are then those of the
        others, and there is a third result: the log odds (n,) that the logit is one of them.
    """

    def __init__(self, d: int, classes: int, widths: tuple[int, ...], rare: bool = False) -> None:
        super().__init__()
        self.classes, self.rare = classes, rare
        inputs = (d + classes, *widths)
        pairs = zip(inputs, widths, strict=False)
        self.hidden = nn.ModuleList(nn.Linear(a, b, dtype=torch.float32) for a, b in pairs)
        self.last = nn.Linear(inputs[-1], 3 if rare else 2, dtype=torch.float32)
        # The mean and standard deviation of the logits, and the log odds that they are finite.
        scale = torch.empty(3 if rare else 2, dtype=torch.float32)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, z: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        rows = z if y is None else torch.cat([z, one_hot(y, self.classes).to(z.dtype)], dim=1)
        for layer in self.hidden:
            rows = relu(layer(rows))
        mean, spread, *odds = self.last(rows).unbind(dim=1)
        centre, scale, *most = self.scale
        likely = (most[0] + ODDS * odds[0],) if self.rare else ()
        return centre + scale * mean, scale * spread.clamp(-SPREADS, SPREADS).exp(), *likely

    def scores(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self(z, y)
        return found

    def raised(self, margin: float, *scores: Tensor) -> Tensor:
        """The mean plus `margin` spreads, (n,).

        A finite logit whose log odds are below -margin is bounded by the logit of a row that is
        accepted as rarely as they say.
        """
        mean, spread, *odds = scores
        bound = mean + margin * spread
        return bound if not odds else bound + (odds[0] + margin).clamp(max=0.0)


def build(gan: GAN, widths: tuple[int, ...], draws: Draws) -> LatentBound:
    """A new bound, on the generator's device."""
    network = draws.build(lambda: _of(gan, widths))
    with torch.no_grad():
        network.scale.zero_()[1] = 1.0
    return network.to(gan.device)


def _of(gan: GAN, widths: tuple[int, ...]) -> LatentBound:
    return LatentBound(gan.latent_dim, gan.labels or 0, widths, bool(conditions(gan)))


def packed(networks: tuple[LatentBound, ...]) -> Tensor:
    """All weights of the networks as one vector."""
    return torch.cat([parameters_to_vector(network.parameters()) for network in networks]).detach()


def unpacked(gan: GAN, weights: Tensor) -> tuple[LatentBound, ...]:
    """The tiny and the large bound whose weights were given by `packed`; they share its memory."""
    with torch.device("meta"):
        networks = tuple(_of(gan, widths) for widths in (TINY, LARGE))
    for network in networks:
        own = {}
        for name, parameter in network.named_parameters():
            own[name] = weights[: parameter.numel()].view_as(parameter)
            weights = weights[parameter.numel() :]
        network.load_state_dict(own, assign=True)
    return networks


@one_thread()
def fit(network: LatentBound, z: Tensor, y: Tensor | None, logit: Tensor, draws: Draws) -> None:
    """Trains it on latents (n, d), labels (n,) and valid logits (n,), assumed to be normal."""
    finite = torch.isfinite(logit)
    logit = logit.clamp(min=float(logit.max()) - DEEP)
    steps = steps_of_fit(len(z))
    with torch.inference_mode(False), torch.enable_grad():
        with torch.no_grad():
            known = logit[finite] if network.rare else logit
            spread = known.std(correction=0).clamp(min=1e-6)
            odds = (torch.logit(finite.float().mean(), LEAST_SHARE),) if network.rare else ()
            network.scale.copy_(torch.stack([known.mean(), spread, *odds]))
        weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
        decay = min(MOST_DECAY, DECAY / len(z))
        optimizer = torch.optim.AdamW(weights, RATE, weight_decay=decay, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for rows in _minibatches(len(z), steps, draws):
            rows = rows.to(z.device)
            mean, spread, *likely = network(z[rows], None if y is None else y[rows])
            surprise = ((logit[rows] - mean) / spread).square() / 2 + spread.log()
            if likely:
                own = finite[rows].float()
                surprise = own * surprise
                surprise = surprise + binary_cross_entropy_with_logits(
                    likely[0], own, reduction="none"
                )
            descend(optimizer, surprise.mean(), steepest=STEEPEST)
            schedule.step()


def steps_of_fit(n: int) -> int:
    """Number of training steps for n rows."""
    return max(LEAST_STEPS, EPOCHS * n // ROWS_A_STEP)


def _minibatches(n: int, steps: int, draws: Draws) -> Iterator[Tensor]:
    """Yields `steps` minibatches of n rows; over all of them, rows are used equally often."""
    size = min(n, ROWS_A_STEP)
    order, at = draws.permutation(n), 0
    for _ in range(steps):
        if at + size > n:
            order, at = draws.permutation(n), 0
        yield order[at : at + size]
        at += size
