"""The shared types: named random numbers, a GAN, a batch of samples, and what a sampler is."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from drs_fast import fingerprint
from drs_fast.arguments import describe, integer, usable

RNG_VERSION = 1
LATENT, ACCEPT, SELECT, CHAIN, NOISE, LABEL, AUDIT, FITTING = range(8)
BURN_IN_ROW = 2**62

PRIORS = ("normal", "uniform", "truncated normal")
PRECISIONS = ("fp32", "bf16")
BLOCK_MULTIPLE = 256


@dataclass(frozen=True)
class Rng:
    """Names random numbers: the row's words are a pure function of (seed, row, stream, draw).

    Nothing is consumed: using the same Rng twice gives the same numbers.
    0 <= seed < 2^64; 0 <= row < 2^63 is the number of the first proposal.
    """

    seed: int
    row: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", integer("seed", self.seed, 0, 2**64))
        object.__setattr__(self, "row", integer("row", self.row, 0, 2**63))

    @property
    def signed_seed(self) -> int:
        """The seed's 64 bits as a signed integer."""
        return self.seed - 2**64 if self.seed >= 2**63 else self.seed

    def at(self, row: int) -> "Rng":
        """The same seed, another first row."""
        return Rng(self.seed, row)


@dataclass(frozen=True)
class Batch:
    """Samples: rows [0, count) of every tensor."""

    x: Tensor  # (N, ...)
    z: Tensor  # (N, d)
    y: Tensor | None  # (N,) int64 with labels
    logit: Tensor  # (N,) float32
    ids: Tensor  # (N,) int64
    count: Tensor  # () int64
    stats: dict[str, Tensor]  # 0-d tensors


class Sampler(Protocol):
    """A frozen dataclass, all fields with defaults; tensors live in the state.

    A sampler may also have `appending(gan, state, ring, names)`, which returns a function of (z, y)
    that does what `step` does for the ring's next rows, and adds the named ones of x, z and y.
    """

    State: ClassVar[Any]  # a named tuple of tensors

    @property
    def group(self) -> int:
        """Rows that belong together: 1 for rejection, K where K candidates compete."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether the state changes from step to step, so that rows must be taken in order."""
        ...

    @property
    def law(self) -> str:
        """ "data" if the output follows p_data when the logit is exact, else what it follows."""
        ...

    def init(self, gan: "GAN", rng: Rng) -> Any:
        """Burn-in: everything that changes the law is found here and frozen."""
        ...

    def step(
        self, gan: "GAN", state: Any, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[Any, Batch]:
        """N latents in (rows rng.row, rng.row + 1, ...), at most N finished rows out."""
        ...


class GAN:
    """A generator, its discriminator, and how to read them.

    generator: z (n, latent_dim) float32 [, y (n,) int64] -> x (n, ...).
    discriminator: x [, y] -> a number per sample: (n,), (n, 1), or a tuple that starts with it.
    prior: "normal", "uniform" on [-1, 1), "truncated normal" on [-2, 2], or a callable that maps
        (n, latent_dim) normals row by row.
    link: what the discriminator returns: "logit", "probability", or a callable to a log ratio.
    labels: number of classes of a conditional GAN. real: real samples, or a callable n -> samples.
    block: rows in one call of G and D, rounded up to a multiple of 256.
    Modules are put in eval mode, those inside wrappers too.
    """

    def __init__(
        self,
        generator: Callable[..., Any],
        discriminator: Callable[..., Any],
        latent_dim: int,
        *,
        prior: str | Callable[[Tensor], Tensor] = "normal",
        link: str | Callable[[Tensor], Tensor] = "logit",
        labels: int | None = None,
        real: Tensor | Callable[[int], Tensor] | None = None,
        block: int = 4096,
        name: str = "custom",
    ) -> None:
        for role, function in (("generator", generator), ("discriminator", discriminator)):
            if not callable(function):
                raise ValueError(f"{role} must be callable, got {type(function).__name__}")
        if not (callable(prior) or (isinstance(prior, str) and prior in PRIORS)):
            raise ValueError(f"prior must be one of {PRIORS} or a callable, got {prior!r}")
        if not (callable(link) or (isinstance(link, str) and link in LINKS)):
            raise ValueError(f"link must be one of {tuple(LINKS)} or a callable, got {link!r}")
        for module in fingerprint.modules(generator, discriminator):
            module.eval()
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = integer("latent_dim", latent_dim, 1)
        self.prior = prior
        self.link = link
        self.labels = None if labels is None else integer("labels", labels, 1)
        self.real = real
        self.name = name
        self._device = torch.device("cpu")
        self.precision = PRECISIONS[0]
        self._runs: dict[str, Callable[..., Any]] = {}
        self.block = block_rows(block)

    @property
    def device(self) -> torch.device:
        """Where the generator's weights are, or where `on` put a generator without any."""
        if isinstance(self.generator, torch.nn.Module):
            for parameter in self.generator.parameters():
                return parameter.device
        return self._device

    def on(
        self,
        device: torch.device | str | None = None,
        block: int | None = None,
        precision: str | None = None,
    ) -> "GAN":
        """This GAN on a device, in blocks of that many rows; modules are moved, not copied.

        precision: "fp32", or "bf16" for G and D under autocast; logits are float32 in any case.
        """
        gan = copy.copy(self)
        if precision is not None:
            if precision not in PRECISIONS:
                raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
            gan.precision = precision
        if block is not None:
            gan.block = block_rows(block)
        if device is not None:
            gan._device = usable(device)
            for function in (gan.generator, gan.discriminator):
                if isinstance(function, torch.nn.Module):
                    function.to(device)
        return gan

    def changed(self, change: Callable[[Any], Any]) -> "GAN":
        """This GAN, with G and D run as change(G) and change(D) from here on."""
        gan = copy.copy(self)
        gan._runs = {
            role: change(self._runs.get(role, getattr(self, role)))
            for role in ("generator", "discriminator")
        }
        return gan

    def sha256(self) -> str:
        """Of the weights and of all else that turns latents into logits, but not of the name."""
        return fingerprint.sha256(
            self.latent_dim, self.labels, self.prior, self.link, self.generator, self.discriminator
        )

    def logits(self, z: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x = G(z) and its logit, in zero-padded blocks of one shape.

        z (n, latent_dim), y (n,) int64 if and only if the GAN has labels.
        Returns x (n, ...) and logit (n,) float32: log p_data/p_model + const, in nats.
        """
        self._check(z, y)
        n = len(z)
        if n <= self.block:
            return self._block(z, y)
        x, logit = None, torch.empty(n, dtype=torch.float32, device=z.device)
        for start in range(0, n, self.block):
            rows = slice(start, min(start + self.block, n))
            made, logit[rows] = self._block(z[rows], None if y is None else y[rows])
            if x is None:
                x = made.new_empty((n, *made.shape[1:]))
            x[rows] = made
        return cast(Tensor, x), logit

    def _block(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        n, label = len(z), () if y is None else (y,)
        made = self._samples(z, *label)
        # Before the discriminator, which may write to what it is given.
        x = _first(made, n).clone(memory_format=torch.contiguous_format)
        return x, _first(self._scores(made, *label), n).to(torch.float32, copy=True)

    @torch.inference_mode()
    def _samples(self, *rows: Tensor) -> Tensor:
        made = self._call("generator", *(_pad(row, self.block) for row in rows))
        if not isinstance(made, Tensor) or made.shape[:1] != (self.block,):
            raise ValueError(
                f"generator must return a tensor of {self.block} samples for {self.block} latents, "
                f"got {describe(made)}"
            )
        return made

    @torch.inference_mode()
    def _scores(self, made: Tensor, *label: Tensor) -> Tensor:
        score = self._call("discriminator", made, *(_pad(y, self.block) for y in label))
        score = _one_per_sample("discriminator", score, self.block)
        if self.link == "logit":  # checked already
            return score
        link = LINKS[self.link] if isinstance(self.link, str) else self.link
        return _one_per_sample("link", link(score), self.block)

    def _call(self, role: str, *arguments: Tensor) -> Any:
        try:
            function = self._runs.get(role, getattr(self, role))
            if self.precision == "fp32":
                return function(*arguments)
            with torch.autocast(arguments[0].device.type, torch.bfloat16, cache_enabled=False):
                return function(*arguments)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, OSError) as error:
            given = ", ".join(describe(argument) for argument in arguments)
            raise ValueError(
                f"{role} failed on {given}: {error}; is latent_dim={self.latent_dim} right, and "
                f"labels={self.labels} (the number of classes, for a class-conditional GAN)?"
            ) from error

    def _check(self, z: Tensor, y: Tensor | None) -> None:
        if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z must be (n, {self.latent_dim}), got {describe(z)}")
        if (y is None) != (self.labels is None):
            raise ValueError(
                "y was given, but this GAN has no labels; drop it or build GAN(..., labels=K)"
                if y is not None
                else f"this GAN has {self.labels} classes; pass y (n,) int64"
            )
        if y is not None and not (
            isinstance(y, Tensor) and y.shape == z.shape[:1] and y.dtype == torch.int64
        ):
            raise ValueError(f"y must be ({len(z)},) int64, got {describe(y)}")


class BadLogits(RuntimeError):
    """The discriminator's output cannot be sampled from."""


class Starvation(RuntimeError):
    """Too few accepted rows; `partial` holds the samples of a run in memory."""

    partial: Batch | None = None


MAX_INVALID_SHARE = 1e-4


def check_invalid(invalid: int, rows: int) -> None:
    """Raises BadLogits when more than 0.01 % of the logits are NaN or +inf, chance allowed for."""
    expected = MAX_INVALID_SHARE * max(rows, 10_000)
    if invalid > expected + 2.0 * math.sqrt(expected):
        raise BadLogits(
            f"{invalid:,} of {rows:,} logits are NaN or +inf, more than {MAX_INVALID_SHARE:.2%}; "
            "run G and D in float32, and look for overflow, or for a sigmoid that reaches 1 "
            "(link='probability')"
        )


def block_rows(rows: int) -> int:
    """The block that serves a batch of this many rows: the next multiple of 256."""
    return -(-integer("batch_size", rows, 1) // BLOCK_MULTIPLE) * BLOCK_MULTIPLE


def _logit_of_probability(probability: Tensor) -> Tensor:
    wide = probability.double()
    return torch.log(wide) - torch.log1p(-wide)


LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "logit": lambda score: score,
    "probability": _logit_of_probability,
}


def _first(rows: Tensor, n: int) -> Tensor:
    return rows if len(rows) == n else rows[:n]


def _pad(rows: Tensor, size: int) -> Tensor:
    # Always a copy: what a model does in place must not reach the rows that are kept.
    if len(rows) == size:
        return rows.clone()
    return torch.cat([rows, rows.new_zeros((size - len(rows), *rows.shape[1:]))])


def _one_per_sample(role: str, score: Any, n: int) -> Tensor:
    if isinstance(score, dict):
        raise ValueError(
            f"{role} returned a dict with keys {sorted(map(str, score))}; wrap it: "
            'GAN(G, lambda x: D(x)["the key of its logit"], ...)'
        )
    if isinstance(score, (tuple, list)) and score:
        score = score[0]
    if not (
        isinstance(score, Tensor)
        and score.is_floating_point()
        and score.shape[:1] == (n,)
        and score.numel() == n
    ):
        raise ValueError(
            f"{role} must return one floating-point number per sample, ({n},) or ({n}, 1), "
            f"got {describe(score)}; reduce patches or classes in a wrapper, for example "
            "GAN(G, lambda x: D(x).mean(dim=(1, 2, 3)), ...)"
        )
    return score.reshape(n)
