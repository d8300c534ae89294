"""How G and D are called on the rows of one block, and what their results must be like."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from drs_fast.core import fingerprint
from drs_fast.gan import calls, links, mending
from drs_fast.gan.precision import FP32


def _untimed(role: str) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def _unwatched(gan: Any) -> None:
    return None


class Networks:
    """A generator and a discriminator, called on blocks.

    What gives several tensors yields each before it makes the next, so that it can be copied.
    """

    generator: Callable[..., Any]
    discriminator: Callable[..., Any] | None
    link: str | links.Link
    prior: str | Callable[[Tensor], Tensor]
    truncation: float
    decode: Callable[[Tensor], Any] | None
    latent_dim: int
    latent_shape: tuple[int, ...] | None
    labels: int | None
    noise: str | None

    def __init__(self) -> None:
        self.precision = FP32
        self._row: Tensor | None = None  # one sample, for its shape and dtype
        self._runs: dict[str, Callable[..., Any]] = {}  # what runs in place of G or D
        self._timed: Callable[[str], AbstractContextManager[None]] = _untimed
        self._on_draw: Callable[[Any], None] = _unwatched
        self._once: dict[str, Any] = {}  # what `once` has made
        self._wrap: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
        self._wrapped: dict[str, Callable[..., Any]] = {}  # G and D, as `wrapped` has them

    @property
    def functions(self) -> tuple[Any, ...]:
        """All that is called to make samples and logits of normals."""
        usual = self.generator, self.discriminator, self.link, self.prior
        return usual if self.decode is None else (*usual, self.decode)

    @property
    def _unusual(self) -> tuple[Any, ...]:
        """What else decides the samples and logits, in a GAN that has it."""
        settings = {
            "latent_shape": self.latent_shape,
            "truncation": None if self.truncation == 1.0 else self.truncation,
            "decode": self.decode,
        }
        found = {name: value for name, value in settings.items() if value is not None}
        return (found,) if found else ()

    def _criticised(self, discriminator: Callable[..., Any] | None, link: str | links.Link) -> None:
        if discriminator is not None:
            calls.check_callable("discriminator", discriminator)
        links.check(link)
        for role, function in (("generator", self.generator), ("discriminator", discriminator)):
            calls.check_classes(role, function, self.labels)
        self.discriminator, self.link = discriminator, link
        for module in fingerprint.modules(*self.functions):
            with contextlib.suppress(NotImplementedError):  # an exported module has only one mode
                module.eval()

    def shaped(self, z: Tensor) -> Tensor:
        """Latents (n, latent_dim) as the generator takes them."""
        return z if self.latent_shape is None else z.reshape(len(z), *self.latent_shape)

    def _logits(self, start: int, z: Tensor, *label: Tensor) -> Iterator[Tensor]:
        made = self._generate(start, z, *label)
        yield made  # copied before the discriminator runs, which may write to its input
        yield self._judge(made, *label)

    def _verdicts(self, start: int, z: Tensor, *label: Tensor) -> Iterator[Tensor]:
        yield self._judge(self._generate(start, z, *label), *label)

    def _samples(self, start: int, z: Tensor, *label: Tensor) -> Iterator[Tensor]:
        yield self._generate(start, z, *label)

    def _scores(self, start: int, x: Tensor, *label: Tensor) -> Iterator[Tensor]:
        yield self._judge(x, *label)

    def _gradients(self, start: int, z: Tensor, *label: Tensor) -> Iterator[Tensor]:
        leaf = z.requires_grad_()
        # G and D get copies, because they may write to their input.
        made = self._generate(start, leaf.clone(), *label)
        yield made
        logit = self._judge(made.clone(), *label)
        yield logit
        yield calls.slope(logit, leaf)

    def _score_gradients(self, start: int, x: Tensor, *label: Tensor) -> Iterator[Tensor]:
        leaf = x.requires_grad_()
        logit = self._judge(leaf.clone(), *label)
        yield logit
        yield calls.slope(logit, leaf)

    def _generate(self, start: int, z: Tensor, *label: Tensor) -> Tensor:
        made = self._call("generator", self.shaped(z), *(y.clone() for y in label))
        made = calls.samples(made, len(z), self.generator)
        if self._row is None:
            with torch.inference_mode(False):
                self._row = made.new_empty((1, *made.shape[1:]), requires_grad=False)
        else:
            calls.check_alike(made, self._row, start)
        return made

    def _judge(self, made: Tensor, *label: Tensor) -> Tensor:
        if self.discriminator is None:
            raise ValueError(calls.NO_CRITIC)
        n, device = len(made), made.device
        score = self._call("discriminator", made, *(y.clone() for y in label))
        score = calls.one_per_sample(
            "discriminator", score, n, device, self.discriminator, self.labels
        )
        if isinstance(self.link, str):
            return links.LINKS[self.link](score).float()
        return calls.one_per_sample("link", self._call("link", score), n, device).float()

    @property
    def takes(self) -> mending.Takes:
        """What G and D are given, for the errors of their calls."""
        return mending.Takes(self.latent_dim, self.latent_shape, self.labels)

    def _call(self, role: str, *arguments: Any) -> Any:
        function = self._runs.get(role, getattr(self, role))
        if role in calls.ADVICE:
            # decode as G, whose samples it is given
            own = self.precision if role == "decode" else FP32
            return calls.result(role, function, arguments, calls.ADVICE[role], own)
        if self._wrap is not None:
            if role not in self._wrapped:
                self._wrapped[role] = self._wrap(function)
            function = self._wrapped[role]
        advice = calls.TUNED if role in self._runs else self.takes
        with self._timed(role):
            return calls.result(role, function, arguments, advice, self.precision)
