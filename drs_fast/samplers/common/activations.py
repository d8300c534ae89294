"""Where samples can be moved: at the output of a part of the generator, or as they are."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from drs_fast.core.arguments import describe
from drs_fast.core.tensors import plain
from drs_fast.gan import GAN
from drs_fast.training import frozen


class Space(Protocol):
    """Points (n, ...) float32, one per row, from which samples are made."""

    start: Tensor  # the points of the rows' own latents

    def climb(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n,) and their gradients with respect to the points."""
        ...

    def finish(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Samples x (n, ...) and their logits (n,)."""
        ...


class Samples:
    """The samples themselves."""

    def __init__(self, gan: GAN, z: Tensor, y: Tensor | None) -> None:
        made = gan.samples(z, y)
        self._gan, self._y, self._dtype = gan, y, made.dtype
        self.start = made.float()

    def climb(self, points: Tensor) -> tuple[Tensor, Tensor]:
        logit, slope = self._gan.score_gradients(points.to(self._dtype), self._y)
        return logit, slope.float()

    def finish(self, points: Tensor) -> tuple[Tensor, Tensor]:
        x = points.to(self._dtype)
        return x, self._gan.scores(x, self._y)


class Activations:
    """The output of a part of the generator, flattened: (n, size).

    The whole generator runs, with the part's output replaced, so that later parts still see the
    row's own latent and label.
    """

    def __init__(self, gan: GAN, name: str, z: Tensor, y: Tensor | None) -> None:
        network = part_of(gan, name)
        seen = gan.made_by(Head(network, name, gan.latent_shape), gan.latent_dim).samples(z, y)
        self.start = seen[:, gan.latent_dim :]
        self._z, self._y = z, y
        self._tail = gan.made_by(
            Tail(network, name, gan.latent_shape, gan.latent_dim), seen.shape[1]
        )

    def climb(self, points: Tensor) -> tuple[Tensor, Tensor]:
        _, logit, slope = self._tail.gradients(self._rows(points), self._y)
        return logit, slope[:, self._z.shape[1] :]

    def finish(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self._tail.logits(self._rows(points), self._y)

    def _rows(self, points: Tensor) -> Tensor:
        return torch.cat([self._z, points], dim=1)


class Cut(nn.Module):
    """A generator in which one part is watched while it runs.

    shape: of one latent as the generator takes it; None for a vector.
    """

    def __init__(self, generator: nn.Module, name: str, shape: tuple[int, ...] | None) -> None:
        super().__init__()
        self.generator, self.name, self.shape = generator, name, shape

    def run(self, change: Callable[[Tensor], Tensor], z: Tensor, *label: Tensor) -> Any:
        """The generator's output when its part returns change(what it would have returned)."""
        calls = 0

        def hook(part: nn.Module, given: tuple[Any, ...], returned: Any) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise ValueError(f"the part {self.name!r} is called more than once; use another")
            part_name = f"the part {self.name!r}"
            wanted = f"a floating-point tensor with one row for each of {len(z)} latents"
            returned = plain(part_name, returned, wanted, "return")
            if not returned.is_floating_point() or returned.shape[:1] != z.shape[:1]:
                raise ValueError(
                    f"{part_name} must return {wanted}, got {describe(returned)}; use another part"
                )
            return change(returned)

        # Only for this call: a hook that stayed would change the GAN's sha256.
        handle = self.generator.get_submodule(self.name).register_forward_hook(hook)
        try:
            shaped = z if self.shape is None else z.reshape(len(z), *self.shape)
            made = self.generator(shaped, *label)
        finally:
            handle.remove()
        if not calls:
            raise ValueError(f"the generator never calls its part {self.name!r}; use another part")
        return made


class Head(Cut):
    """z [, y] -> z and the part's output, side by side, (n, d + size) float32."""

    def forward(self, z: Tensor, *label: Tensor) -> Tensor:
        seen = []

        def keep(returned: Tensor) -> Tensor:
            seen.append(returned.flatten(1).float().clone())  # the next part may write to it
            return returned

        self.run(keep, z.clone(), *label)
        return torch.cat([z, *seen], dim=1)


class Tail(Cut):
    """The rows of Head [, y] -> the generator's samples."""

    def __init__(
        self, generator: nn.Module, name: str, shape: tuple[int, ...] | None, latent_dim: int
    ) -> None:
        super().__init__(generator, name, shape)
        self.latent_dim = latent_dim

    def forward(self, rows: Tensor, *label: Tensor) -> Any:
        # Contiguous like G's own, or the next part may round differently; z takes no gradient.
        points = rows[:, self.latent_dim :].contiguous()
        z = rows[:, : self.latent_dim].detach().clone()
        return self.run(lambda old: points.view(old.shape).to(old.dtype), z, *label)


def part_of(gan: GAN, name: str) -> nn.Module:
    """The generator; ValueError unless it is a module with a part of that name."""
    network = gan.generator
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"to move {name!r}, a part of the generator, the generator must be an nn.Module, got "
            f"{describe(network)}; pass the module itself, or move the samples: layer=''"
        )
    if name not in dict(network.named_modules()):
        raise ValueError(f"the generator has no part {name!r}; it has {frozen.parts(network)}")
    return network
