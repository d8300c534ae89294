"""A generator, its discriminator, and how to read them."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from drs_fast.core import fingerprint
from drs_fast.core.arguments import integer, usable
from drs_fast.gan import blocks, calls, classes, images, links, real_data
from drs_fast.gan.images import Images
from drs_fast.gan.networks import PRECISIONS, Networks

PRIORS = ("normal", "uniform", "truncated normal")
Real = Tensor | tuple[Tensor, Tensor]


class GAN(Networks):
    """A generator, its discriminator, and how to read them.

    generator: z (n, latent_dim) float32 [, y (n,) int64] -> x (n, ...).
    discriminator: x [, y] -> one number per sample: (n,), (n, 1), or a tuple that starts with it.
    prior: "normal", "uniform" on [-1, 1), "truncated normal" on [-2, 2], or a callable that maps
        (n, latent_dim) normals row by row. A callable always runs on one thread and gets 256 rows;
        rows nobody asked for are zeros.
    link: what the discriminator returns: "logit", "probability", another name from
        drs_fast.gan.links.LINKS, or a callable that turns it into a log ratio.
    labels: number of classes of a conditional GAN.
    label_weights: how often each class is proposed, (labels,) numbers; by default equally often.
    real: real samples, (x, y) with labels, or a callable n -> real samples.
    value_range: the least and the largest number of a sample, for runs with images="uint8".
    block: rows per call of G and D, rounded up to a power of two or, from 256 on, to a multiple of
        256. Smaller batches are zero-padded: on a CPU to 128 rows or a multiple of 256, which gave
        equal bits there; elsewhere to a whole block. Blocks of fewer than 128 rows may round
        differently.
    Modules are put in eval mode, including those inside wrappers.
    """

    def __init__(
        self,
        generator: Callable[..., Any],
        discriminator: Callable[..., Any],
        latent_dim: int,
        *,
        prior: str | Callable[[Tensor], Tensor] = "normal",
        link: str | links.Link = "logit",
        labels: int | None = None,
        label_weights: Sequence[float] | Tensor | None = None,
        real: Real | Callable[[int], Real] | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        block: int = 4096,
        name: str = "custom",
    ) -> None:
        calls.check_callable("generator", generator)
        if not (callable(prior) or (isinstance(prior, str) and prior in PRIORS)):
            raise ValueError(f"prior must be one of {PRIORS} or a callable, got {prior!r}")
        super().__init__()
        self.generator = generator
        self.latent_dim = integer("latent_dim", latent_dim, 1)
        self.prior = prior
        self.labels = None if labels is None else integer("labels", labels, 1)
        self.label_weights = classes.weights(self.labels, label_weights)
        self.real = real
        self.value_range = images.value_range(value_range)
        self.images: Images | None = None
        self.name = name
        self._device = torch.device("cpu")
        self.block = blocks.block_rows(block)
        self._criticised(discriminator, link)

    def __repr__(self) -> str:
        held = {
            id(each): each.numel()
            for part in (self.generator, self.discriminator)
            if isinstance(part, torch.nn.Module)
            for each in part.parameters()
        }
        labels = "" if self.labels is None else f"{self.labels} labels, "
        return (
            f"<GAN {self.name}: latent_dim {self.latent_dim}, prior {_named(self.prior)}, "
            f"link {_named(self.link)}, {labels}{self.device}, block {self.block}, "
            f"{self.precision}, {sum(held.values()):,} parameters>"
        )

    @property
    def energy(self) -> bool:
        """Whether the critic's score is an energy (hinge, Wasserstein), not a density ratio."""
        return self.link in links.ENERGIES

    @property
    def device(self) -> torch.device:
        """Where the generator's weights are; if it has none, the device given to `on`."""
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
        """This GAN on a device, with blocks of `block` rows; modules are moved, not copied.

        precision: "fp32", or "bf16" for G and D under autocast; logits are float32 in any case.
        """
        gan = copy.copy(self)
        gan._row = None
        if precision is not None:
            if precision not in PRECISIONS:
                raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
            gan.precision = precision
        if block is not None:
            gan.block = blocks.block_rows(block)
        if device is not None:
            gan._device = usable(device)
            for function in (gan.generator, gan.discriminator, gan.link, gan.prior):
                if isinstance(function, torch.nn.Module):
                    function.to(device)
        return gan

    def labelled(self, weights: Sequence[float] | Tensor | None) -> "GAN":
        """This GAN, with classes proposed in these proportions; None: equally often."""
        gan = copy.copy(self)
        gan.label_weights = classes.weights(self.labels, weights)
        return gan

    def stored_as(self, form: str | None) -> "GAN":
        """This GAN, whose samples a run stores as "uint8" or "float16"; None: as they are."""
        gan = copy.copy(self)
        gan.images = None if form is None else Images(form, *self.value_range)
        return gan

    def ranging(self, low: float, high: float) -> "GAN":
        """This GAN with another value_range, for runs that store images."""
        gan = copy.copy(self)
        gan.value_range = images.value_range((low, high))
        return gan

    def stored(self, x: Tensor) -> dict[str, Tensor]:
        """The columns that a run stores of samples x (n, ...): "x", and more where it converts."""
        return {"x": x} if self.images is None else self.images.stored(x)

    def changed(self, change: Callable[[Any], Any]) -> "GAN":
        """This GAN, which from now on runs change(G) and change(D)."""
        gan = copy.copy(self)
        gan._row = None
        gan._runs = {
            role: change(self._runs.get(role, getattr(self, role)))
            for role in ("generator", "discriminator")
        }
        return gan

    def unchanged(self) -> "GAN":
        """This GAN with the G and D that it was made of, whatever `changed` made of them."""
        gan = copy.copy(self)
        gan._row, gan._runs = None, {}
        return gan

    def timed(self, on: Callable[[str], AbstractContextManager[None]]) -> "GAN":
        """This GAN, whose calls of G and D run within on("generator") and on("discriminator")."""
        gan = copy.copy(self)
        gan._timed = on
        return gan

    def judged(
        self,
        discriminator: Callable[..., Any] | None = None,
        link: str | links.Link = "logit",
    ) -> "GAN":
        """This GAN with another discriminator (None: the same one) and link."""
        gan = copy.copy(self)
        if discriminator is not None:
            gan._runs = {role: run for role, run in self._runs.items() if role == "generator"}
        gan._criticised(self.discriminator if discriminator is None else discriminator, link)
        return gan

    def made_by(self, generator: Callable[..., Any], latent_dim: int) -> "GAN":
        """This GAN with another generator, for latents of this width, and its own discriminator."""
        gan = copy.copy(self)
        gan._row = None
        gan._runs = {role: run for role, run in self._runs.items() if role == "discriminator"}
        gan.generator, gan.latent_dim = generator, latent_dim
        return gan

    def sha256(self) -> str:
        """Hash of the weights and of all else that turns latents into logits; not of the name."""
        return fingerprint.sha256(
            self.latent_dim, self.labels, self.prior, self.link, self.generator, self.discriminator
        )

    def logits(
        self, z: Tensor, y: Tensor | None = None, *, alone: bool = False
    ) -> tuple[Tensor, Tensor]:
        """x = G(z) and its logit, in zero-padded blocks.

        z (n, latent_dim), y (n,) int64 if and only if the GAN has labels. alone: no other rows need
            the bits that a whole block gives, so that few rows take a smaller call on a GPU too,
            unless G and D are tuned.
        Returns x (n, ...) and logit (n,) float32: log p_data/p_model + const, in nats.
        """
        self._check(z, y)
        x, logit = self._blocks(self._logits, z, y, room=self._room if alone else None)
        return x, logit

    def row(self, differentiate: bool = False) -> Tensor:
        """One row shaped like x, for its shape and dtype; runs G and D if they have not run yet.

        differentiate: whether gradients will be asked for, so that what G and D keep of their first
            call must serve for them too.
        """
        if self._row is None:
            z = torch.zeros(1, self.latent_dim, dtype=torch.float32, device=self.device)
            y = None if self.labels is None else z[:, 0].long()
            self._blocks(self._logits, z, y, differentiate)
        assert self._row is not None
        return self._row

    def samples(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """x = G(z) alone, (n, ...), with the same bits as from `logits`."""
        self._check(z, y)
        return self._blocks(self._samples, z, y)[0]

    def scores(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits (n,) float32 of given samples x (n, ...) [, y (n,) int64]."""
        self._check_labels(x, y)
        return self._blocks(self._scores, x, y)[0]

    def gradients(self, z: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x = G(z), its logit, and the logit's gradient with respect to z, (n, latent_dim)."""
        self._check(z, y)
        x, logit, gradient = self._blocks(self._gradients, z, y, differentiate=True)
        return x, logit, gradient

    def score_gradients(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (n,) of given samples x (n, ...), and their gradients with respect to x."""
        self._check_labels(x, y)
        logit, gradient = self._blocks(self._score_gradients, x, y, differentiate=True)
        return logit, gradient

    def call_rows(self, rows: int) -> int:
        """Rows in the call of G and D that serves `rows` rows; the missing ones are zeros."""
        # Elsewhere another shape rounds differently.
        return self._room(rows) if self.device.type == "cpu" else self.block

    def _room(self, rows: int) -> int:
        """The least rows of a call for so many. Tuned modules are tuned for one shape."""
        if self._runs:
            return self.block
        return blocks.block_rows(min(max(rows, blocks.SMALLEST), self.block))

    def from_normals(self, normals: Tensor) -> Tensor:
        """Latents (n, latent_dim) float32 from normals of that shape, for a callable prior."""
        return calls.latents(self._call("prior", normals), normals)

    def real_samples(self, n: int, rows: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Up to n real samples, the first ones, and their labels, on the generator's device.

        rows: which of them to return, (k,) int64; all by default.
        """
        if self.real is None:
            raise ValueError("real samples are needed, got none; build GAN(..., real=x or n -> x)")
        given = self._call("real", n) if callable(self.real) else self.real
        x, y = real_data.chosen(given, self.labels, n, rows)
        return x.to(self.device), None if y is None else y.to(self.device)

    def _blocks(
        self,
        function: Callable[..., Iterator[Tensor]],
        rows: Tensor,
        y: Tensor | None,
        differentiate: bool = False,
        room: Callable[[int], int] | None = None,
    ) -> list[Tensor]:
        if differentiate:
            calls.check_differentiable(rows)
        given = (rows.detach(),) if y is None else (rows.detach(), y)
        room = self.call_rows if room is None else room
        return blocks.called(function, given, self.block, room, differentiate)

    def _check(self, z: Tensor, y: Tensor | None) -> None:
        calls.check_latents(z, self.latent_dim)
        self._check_labels(z, y)

    def _check_labels(self, rows: Tensor, y: Tensor | None) -> None:
        calls.check_samples(rows)
        classes.check(self.labels, y, len(rows))


def _named(choice: str | Callable[..., Any]) -> str:
    """A prior or a link in a word."""
    if isinstance(choice, str):
        return choice
    return choice.__name__ if isinstance(choice, FunctionType) else type(choice).__name__
