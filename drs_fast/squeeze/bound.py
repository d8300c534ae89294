"""A small network that bounds the logit of a latent, and how it is fitted."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot, relu
from torch.nn.utils import parameters_to_vector

from drs_fast import ops
from drs_fast.core import Rng
from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN
from drs_fast.gan.where import conditions
from drs_fast.training.fitting import Draws, descend

TINY, LARGE = (16,), (64, 64, 64)  # widths
SLICE = 2**14  # rows per call of a bound: always the same number, so that bits do not vary
ROWS_A_STEP = 1024
EPOCHS = 32
LEAST_STEPS = 400
RATE = 1e-2
STEEPEST = 1.0  # longest gradient: where the spread is small, one batch could undo the fit
DECAY = 2e4  # weight decay times the number of rows, to avoid fitting what few rows cannot show
MOST_DECAY = 2.0
CERTAIN = 3e38
DEEP = 30.0  # nats below the largest logit; anything lower is hardly ever accepted
SPREADS = 4.0  # nats by which the log spread may differ from that of all the logits
LEAST_SHARE = 1e-6  # of finite logits
ODDS = 8.0  # nats: what log odds of 1 are to a network, whose outputs stay small


class Bound(nn.Module):
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

    def above(self, margin: float, z: Tensor, y: Tensor | None) -> Tensor:
        """The mean plus `margin` spreads, (n,)."""
        with torch.inference_mode():
            bound = raised(margin, *self(z, y))
        # Rows the network cannot judge pass.
        return bound.nan_to_num(nan=CERTAIN, posinf=CERTAIN)


def raised(margin: float, mean: Tensor, spread: Tensor, *odds: Tensor) -> Tensor:
    """The bound (n,) at a margin, from what a network returns.

    A finite logit whose log odds are below -margin is bounded by the logit of a row that is
    accepted as rarely as they say.
    """
    bound = mean + margin * spread
    return bound if not odds else bound + (odds[0] + margin).clamp(max=0.0)


def build(gan: GAN, widths: tuple[int, ...], draws: Draws) -> Bound:
    """A new bound, on the generator's device."""
    network = draws.build(lambda: _of(gan, widths))
    with torch.no_grad():
        network.scale.zero_()[1] = 1.0
    return network.to(gan.device)


def _of(gan: GAN, widths: tuple[int, ...]) -> Bound:
    return Bound(gan.latent_dim, gan.labels or 0, widths, bool(conditions(gan)))


def packed(networks: tuple[Bound, ...]) -> Tensor:
    """All weights of the networks as one vector."""
    return torch.cat([parameters_to_vector(network.parameters()) for network in networks]).detach()


def unpacked(gan: GAN, weights: Tensor) -> tuple[Bound, ...]:
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
def fit(network: Bound, z: Tensor, y: Tensor | None, logit: Tensor, draws: Draws) -> None:
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


Slice = tuple[Rng, int, Tensor, Tensor | None]  # first row, rows that count, SLICE latents, labels


def drawn(gan: GAN, rng: Rng, n: int) -> Iterator[Slice]:
    """Slices of rows rng.row to rng.row + n, with their latents drawn."""
    for start in range(0, n, SLICE):
        own = rng.at(rng.row + start)
        z, y = ops.latents(gan, own, SLICE), ops.labels(gan, own, SLICE)
        yield own, min(SLICE, n - start), z, y


def given(z: Tensor, y: Tensor | None, rng: Rng) -> Iterator[Slice]:
    """Slices of given latents."""
    for start in range(0, len(z), SLICE):
        own, size = slice(start, start + SLICE), min(SLICE, len(z) - start)
        label = None if y is None else padded(y[own], SLICE)
        yield rng.at(rng.row + start), size, padded(z[own], SLICE), label


def slices(n: int, size: int) -> list[slice]:
    """Ranges of `size` that cover n rows; at least one."""
    return [slice(start, start + size) for start in range(0, max(1, n), size)]


def padded(rows: Tensor, size: int) -> Tensor:
    """The rows, zero-padded to `size` rows."""
    if len(rows) == size:
        return rows
    return torch.cat([rows, rows.new_zeros((size - len(rows), *rows.shape[1:]))])
