"""A generator, its discriminator, and how to read them."""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from drs_fast.core import fingerprint
from drs_fast.core.arguments import integer
from drs_fast.gan import (
    blocks,
    calls,
    classes,
    decoding,
    drawing,
    images,
    latents,
    links,
    packed,
    real_data,
    row_noise,
    sources,
)
from drs_fast.gan.around import named
from drs_fast.gan.classified import Classified
from drs_fast.gan.images import Images
from drs_fast.gan.latents import PRIORS, Prior
from drs_fast.gan.packed import Packed
from drs_fast.gan.pictures import Pictures
from drs_fast.gan.precision import FP32, arithmetic
from drs_fast.gan.row_noise import RowNoise
from drs_fast.gan.variants import Variants

UNNAMED = "custom"  # what a run's manifest calls a GAN without a name

__all__ = ["GAN", "PRIORS", "UNNAMED", "Real"]

Real = Tensor | tuple[Tensor, Tensor]


class GAN(Variants):
    """A generator, its discriminator, and how to read them.

    generator: z (n, latent_dim) float32 [, y (n,) int64] -> x (n, ...).
    discriminator: x [, y] -> one number per sample: (n,), (n, 1), or a tuple that starts with it.
        None if it is lost: drs.density_ratio and drs.keep_train make one from real samples.
        drs.wrap turns other calls and results into these.
    latent_shape: of one latent as the generator takes it, such as (100, 1, 1), in place of
        latent_dim.
    prior: "normal", "uniform" on [-1, 1), "uniform01" on [0, 1), "truncated normal" on [-2, 2], or
        a callable that maps (n, latent_dim) normals row by row. A callable always runs on one
        thread and gets 256 rows; rows nobody asked for are zeros.
    truncation: in (0, 1], a factor of latents from the truncated normal, which is what the
        checkpoints of BigGAN mean by it. (Its paper means normals drawn anew beyond a threshold.)
    link: what the discriminator returns: "logit", "probability", another name from
        drs_fast.gan.links.LINKS, or a callable that turns it into a log ratio.
    labels: number of classes of a conditional GAN.
    classifier: x -> logits (n, labels) of its class, of a GAN whose discriminator takes no labels
        (AC-GAN): log p(y|x) is added to the discriminator's log ratio.
    pack: how many samples the discriminator judges together, if it does: 10 for a pac of 10, or
        "minibatch-std" for StyleGAN's groups of 4. Each sample is then judged among the same
        `companions`, real samples as in `real`, which gives them by default.
    label_weights: how often each class is proposed, (labels,) numbers; by default equally often.
    real: real samples, (x, y) with labels, tensors or arrays; a callable n -> real samples; a torch
        Dataset, DataLoader or list, of which the first are taken, in the dataset's own order; or a
        folder of pictures, scaled to value_range, with a subfolder for each class if there are
        labels.
    decode: x (n, ...) -> what a run keeps in place of x, such as a recovery network; a function of
        each row, called only for samples that are kept. D judges x itself.
    noise: what becomes of random numbers that G or D draws itself. "rows": they are made a function
        of the row. "own": they stay as they are, so that samples cannot be made again. By default,
        runs refuse a G or D whose results depend on them.
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
        discriminator: Callable[..., Any] | None,
        latent_dim: int | None = None,
        *,
        latent_shape: Sequence[int] | None = None,
        prior: Prior = "normal",
        truncation: float | None = None,
        link: str | links.Link = "logit",
        labels: int | None = None,
        label_weights: Sequence[float] | Tensor | None = None,
        classifier: Callable[[Tensor], Any] | None = None,
        pack: int | str | None = None,
        companions: Any = None,
        noise: str | None = None,
        real: Any = None,
        decode: Callable[[Tensor], Any] | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        block: int = 4096,
        name: str = UNNAMED,
    ) -> None:
        calls.check_callable("generator", generator)
        if decode is not None:
            calls.check_callable("decode", decode)
        super().__init__()
        self.noise = row_noise.checked(noise)
        if noise == row_noise.ROWS:
            generator = RowNoise(generator, "generator")
            if discriminator is not None:
                calls.check_callable("discriminator", discriminator)
                discriminator = RowNoise(discriminator, "discriminator")
        self.generator, self.decode = generator, decode
        self.prior, self.truncation = latents.prior(prior, truncation)
        self.latent_shape, self.latent_dim = latents.shape(latent_dim, latent_shape)
        self.labels = None if labels is None else integer("labels", labels, 1)
        self.label_weights = classes.weights(self.labels, label_weights)
        self.value_range = images.value_range(value_range)
        self.real = real
        self.images: Images | None = None
        self.tuned: tuple[str, ...] = ()  # names of the variants that `changed` was given
        self.name = name
        self._device = torch.device("cpu")
        self.block = blocks.block_rows(block)
        if pack is not None:
            labels = self.labels if classifier is None else None  # which the critic takes
            discriminator = self._packed(discriminator, pack, companions, labels)
        elif companions is not None:
            raise ValueError(
                "companions are for pack=, which says how many samples the discriminator judges "
                "together; give it, or leave companions out"
            )
        if classifier is not None:
            discriminator = Classified(discriminator, link, classifier, self.labels)
            link = "logit"
        self._criticised(discriminator, link)

    def __repr__(self) -> str:
        held = {
            id(each): each.numel()
            for part in (self.generator, self.discriminator)
            if isinstance(part, torch.nn.Module)
            for each in part.parameters()
        }
        truncated = "" if self.truncation == 1.0 else f" x {self.truncation:g}"
        labels = "" if self.labels is None else f"{self.labels} labels, "
        return (
            f"<GAN {self.title}: latent_dim {self.latent_dim}, prior {named(self.prior)}"
            f"{truncated}, link {named(self.link)}, {labels}{self.device}, block {self.block}, "
            f"{self.precision}, {sum(held.values()):,} parameters>"
        )

    @property
    def real(self) -> Any:
        """Real samples, or a function of n; a dataset or a folder is such a function here."""
        return self._real

    @real.setter
    def real(self, given: Any) -> None:
        self._real = sources.source(given, self.labels, self.value_range)

    @property
    def title(self) -> str:
        """Its name; of a GAN without one, the classes of G and D."""
        if self.name != UNNAMED:
            return self.name
        parts = (self.generator, self.discriminator)
        return " and ".join(named(part) for part in parts if part is not None)

    @property
    def energy(self) -> bool:
        """Whether the critic's score is an energy (hinge, Wasserstein), not a density ratio."""
        return self.link in links.ENERGIES

    def sha256(self) -> str:
        """Hash of the weights and of all else that makes samples and logits; not of the name."""
        usual = self.latent_dim, self.labels, self.prior, self.link
        return fingerprint.sha256(*usual, self.generator, self.discriminator, *self._unusual)

    def stored(self, x: Tensor) -> dict[str, Tensor]:
        """The columns that a step gives of samples x (n, ...): "x", and more where it converts.

        Where there is `decode`, a step gives x as it is, and `kept` does the rest.
        """
        if self.images is None or self.decode is not None:
            return {"x": x}
        return self.images.stored(x)

    def kept(self, x: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """The columns that a run keeps of samples x (n, ...) with these ids, not yet converted."""
        if self.decode is not None:
            x = self._decoded(x, ids)
        return {"x": x} if self.images is None else self.images.stored(x)

    def decoded(self, x: Tensor, ids: Tensor | None = None) -> Any:
        """What `decode` makes of samples x (n, ...); if that is no tensor, of all in one call.

        ids: (n,) int64 of a run's samples, for its last bits.
        """
        calls.check_samples(x)
        if self.decode is None:
            return x
        ids = torch.arange(len(x), device=x.device) if ids is None else ids.to(x.device)
        try:
            return self._decoded(x, ids)
        except decoding.NoTensor:
            return self._call("decode", x.clone())

    def _decoded(self, x: Tensor, ids: Tensor) -> Tensor:
        rows = min(self.block, decoding.ROWS)
        return decoding.decoded(functools.partial(self._call, "decode"), x, ids, rows)

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

    def verdicts(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The logits (n,) of G(z) as from `logits`, without keeping the samples."""
        self._check(z, y)
        return self._blocks(self._verdicts, z, y)[0]

    def row(self, differentiate: bool = False) -> Tensor:
        """One row shaped like x, for its shape and dtype; runs G and D if they have not run yet.

        differentiate: whether gradients will be asked for, so that what G and D keep of their first
            call must serve for them too.
        """
        if self._row is None:
            z = torch.zeros(1, self.latent_dim, dtype=torch.float32, device=self.device)
            y = None if self.labels is None else z[:, 0].long()
            called = self._samples if self.discriminator is None else self._logits
            self._blocks(called, z, y, differentiate)
        assert self._row is not None
        return self._row

    def samples(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """x = G(z) alone, (n, ...), with the same bits as from `logits`."""
        self._check(z, y)
        return self._blocks(self._samples, z, y)[0]

    def scores(self, x: Tensor, y: Tensor | None = None, *, alone: bool = False) -> Tensor:
        """Logits (n,) float32 of given samples x (n, ...) [, y (n,) int64]; alone: as `logits`."""
        self._check_labels(x, y)
        return self._blocks(self._scores, x, y, room=self._room if alone else None)[0]

    def applied(
        self,
        role: str,
        function: Callable[..., Any],
        advice: str,
        x: Tensor,
        y: Tensor | None = None,
    ) -> Tensor:
        """function(x [, y]), (n, ...), called as the discriminator is.

        role, advice: what it is in errors, and what to check where shapes may be the reason.
        """
        self._check_labels(x, y)

        def one(start: int, *rows: Tensor) -> Iterator[Tensor]:
            yield calls.result(role, function, rows, self.takes.check, FP32)

        return self._blocks(one, x, y)[0]

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
        if isinstance(self.real, Pictures):
            self.real.check(self.row())
        x, y = real_data.chosen(given, self.labels, n, rows)
        return x.to(self.device), None if y is None else y.to(self.device)

    def _packed(
        self,
        discriminator: Callable[..., Any] | None,
        pack: int | str,
        companions: Real | Callable[[int], Real] | None,
        labels: int | None,
    ) -> Packed:
        source = copy.copy(self)
        source._criticised(None, "logit")  # G is in eval mode when pictures are compared with it
        source.real = self.real if companions is None else companions
        if source.real is None:
            raise ValueError(
                f"pack={pack!r} needs companions=, or real=: samples to judge others among"
            )
        asked = packed.asked(pack, labels) if callable(source.real) else blocks.MOST_ROWS
        x, y = source.real_samples(asked)
        return Packed(discriminator, pack, x, None if labels is None else y, labels)

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
        with arithmetic(self.precision, rows.device):
            if self._row is not None:
                return blocks.called(function, given, self.block, room, differentiate)
            before = drawing.position(self.device)
            result = blocks.called(function, given, self.block, room, differentiate)
        if drawing.position(self.device) != before:
            self._on_draw(self)
        return result

    def _check(self, z: Tensor, y: Tensor | None) -> None:
        calls.check_latents(z, self.latent_dim)
        self._check_labels(z, y)

    def _check_labels(self, rows: Tensor, y: Tensor | None) -> None:
        calls.check_samples(rows)
        classes.check(self.labels, y, len(rows))
