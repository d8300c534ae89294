"""A GAN on another device, with another critic, or otherwise changed: each returns a copy."""

import copy
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor

from drs_fast.core.arguments import usable
from drs_fast.gan import blocks, classes, images, links
from drs_fast.gan import precision as precisions
from drs_fast.gan.images import Images
from drs_fast.gan.networks import Networks

_once = threading.RLock()


class Variants(Networks):
    """What turns a GAN into another that shares its modules."""

    block: int
    label_weights: tuple[float, ...] | None
    value_range: tuple[float, float]
    images: Images | None
    tuned: tuple[str, ...]
    _device: torch.device

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
    ) -> Self:
        """This GAN on a device, with blocks of `block` rows; modules are moved, not copied.

        precision: of G and D: "fp32"; "tf32", on GPUs; "bf16" or "fp16", under autocast. Logits are
            float32 in any case, and "fp32" never is TF32, whatever torch.backends allows.
        """
        gan = self._other()
        if block is not None:
            gan.block = blocks.block_rows(block)
        if device is not None:
            gan._device = usable(device)
            for function in gan.functions:
                if isinstance(function, torch.nn.Module):
                    function.to(device)
        if precision is not None:
            gan.precision = precision
        precisions.check(gan.precision, gan.device)
        return gan

    def labelled(self, weights: Sequence[float] | Tensor | None) -> Self:
        """This GAN, with classes proposed in these proportions; None: equally often."""
        gan = copy.copy(self)
        gan.label_weights = classes.weights(self.labels, weights)
        return gan

    def stored_as(self, form: str | None) -> Self:
        """This GAN, whose samples a run stores as "uint8" or "float16"; None: as they are."""
        gan = copy.copy(self)
        gan.images = None if form is None else Images(form, *self.value_range)
        return gan

    def ranging(self, low: float, high: float) -> Self:
        """This GAN with another value_range, for runs that store images."""
        gan = copy.copy(self)
        gan.value_range = images.value_range((low, high))
        return gan

    def changed(self, change: Callable[[Any], Any]) -> Self:
        """This GAN, which from now on runs change(G) and change(D)."""
        gan = self._other()
        gan._runs = {
            role: change(self._runs.get(role, getattr(self, role)))
            for role in ("generator", "discriminator")
            if getattr(self, role) is not None
        }
        return gan

    def unchanged(self) -> Self:
        """This GAN with the G and D that it was made of, whatever `changed` made of them."""
        gan = self._other()
        gan._runs, gan.tuned = {}, ()
        return gan

    def once(self, name: str, make: Callable[[Self], Self]) -> Self:
        """make(this GAN), called once for it and for copies that run the same G and D."""
        with _once:
            if name not in self._once:
                self._once[name] = make(self)
        made: Self = self._once[name].timed(self._timed)
        return made

    def wrapped(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Self:
        """This GAN, which calls wrap(G) and wrap(D), however they are changed later."""
        gan = self._other()
        gan._wrap = wrap
        gan._once = {name: made.wrapped(wrap) for name, made in self._once.items()}
        return gan

    def _other(self) -> Self:
        """A copy that is to run G and D in another way."""
        gan = copy.copy(self)
        gan._row, gan._once, gan._wrapped = None, {}, {}
        return gan

    def undecoded(self) -> Self:
        """This GAN without `decode`: runs keep samples as the generator makes them."""
        gan = copy.copy(self)
        gan.decode = None
        return gan

    def timed(self, on: Callable[[str], AbstractContextManager[None]]) -> Self:
        """This GAN, whose calls of G and D run within on("generator") and on("discriminator")."""
        gan = copy.copy(self)
        gan._timed = on
        return gan

    def watched(self, on_draw: Callable[[Self], None]) -> Self:
        """This GAN, which calls on_draw(gan) if PyTorch's random numbers move in its first call."""
        gan = copy.copy(self)
        gan._row, gan._on_draw = None, on_draw
        return gan

    def judged(
        self,
        discriminator: Callable[..., Any] | None = None,
        link: str | links.Link = "logit",
    ) -> Self:
        """This GAN with another discriminator (None: the same one) and link."""
        gan = copy.copy(self)
        gan._once, gan._wrapped = {}, {}
        if discriminator is not None:
            gan._runs = {role: run for role, run in self._runs.items() if role == "generator"}
        gan._criticised(self.discriminator if discriminator is None else discriminator, link)
        return gan

    def made_by(self, generator: Callable[..., Any], latent_dim: int) -> Self:
        """This GAN with another generator, for latents of this width, and its own discriminator."""
        gan = self._other()
        gan.latent_shape = None
        gan._runs = {role: run for role, run in self._runs.items() if role == "discriminator"}
        gan.generator, gan.latent_dim = generator, latent_dim
        return gan
