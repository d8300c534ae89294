"""What G proposed to a run, and what became of it. Needs the run's GAN."""

from dataclasses import dataclass

import torch
from torch import Tensor

from drs_fast import ops, zoo
from drs_fast.core import Rng
from drs_fast.core.sampler import Thresholds
from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN
from drs_fast.store import Conflict, Samples

IMAGES, POINTS = 4_096, 65_536  # rows that are looked at for pictures of images, and of points
STRIPS, STEPS, FIRST = 6, 9, 64


@dataclass(frozen=True)
class Proposals:
    """The first rows of a run. x (n, ...), z (n, d), y (n,) or None, the rest (n,)."""

    x: Tensor
    z: Tensor
    y: Tensor | None
    probability: Tensor  # of being accepted, float64
    accepted: Tensor  # bool

    def sorted(self, accepted: bool, most: int) -> Tensor:
        """The first rows of one kind, (k,) int64, the likeliest to be accepted first."""
        rows = (self.accepted == accepted).nonzero().flatten()[:most]
        return rows[self.probability[rows].argsort(descending=True, stable=True)]


@dataclass(frozen=True)
class Strips:
    """Images on the way from an accepted latent to a rejected one.

    x (strips, steps, ...), probability (strips, steps) of being accepted.
    """

    x: Tensor
    probability: Tensor


def model_of(samples: Samples, gan: GAN | None) -> GAN | None:
    """The GAN that made the run: the one given, or the zoo's. Conflict if another is given."""
    manifest = samples.manifest
    name, sha256 = manifest.get("model"), manifest["model_sha256"]
    found = zoo.load(str(name)) if gan is None and name in zoo.NAMES else gan
    if found is None or found.sha256() == sha256:
        return found
    if gan is None:
        return None  # it only has the name of a zoo GAN
    raise Conflict(
        f"{samples.path} was made by a GAN with the sha256 {sha256[:8]}..., and {gan.name} has "
        f"{found.sha256()[:8]}...; give the GAN that the run was made with"
    )


@one_thread()
def of_run(samples: Samples, gan: GAN, thresholds: Thresholds, most: int) -> Proposals:
    """The first rows of the run, at most so many, or up to its last sample."""
    manifest = samples.manifest
    if gan.labels is not None:
        gan = gan.labelled(manifest["label_weights"])
    ids = samples.ids[: most + 1].to(torch.int64)
    last = int(ids.max()) + 1 if len(ids) else 0
    n = min(most, last)
    parts: list[tuple[Tensor, ...]] = []
    for row in range(0, n, gan.block):
        rng, size = Rng(manifest["seed"], row), min(gan.block, n - row)
        z, y = ops.latents(gan, rng, size), ops.labels(gan, rng, size)
        x, logit = gan.logits(z, y)
        p = ops.probability(logit, **thresholds.of_rows(y))
        parts.append((x, z, p) if y is None else (x, z, p, y))
    joined = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    accepted = torch.isin(torch.arange(n, device="cpu"), ids)
    labels = joined[3] if len(joined) > 3 else None
    return Proposals(joined[0], joined[1], labels, joined[2], accepted)


@one_thread()
def strips(gan: GAN, found: Proposals, thresholds: Thresholds) -> Strips | None:
    """Interpolations of latents, each from an accepted row to a rejected one.

    The likeliest of the first accepted rows are joined to the unlikeliest of the rejected ones.
    Normal latents move on a great circle, so that they stay as long as such latents are; others on
    a line. With labels, all of a strip have that of the accepted row.
    Source: Azadi et al. (2019), latent interpolation.
    """
    kept = found.sorted(True, FIRST)[:STRIPS]
    lost = found.sorted(False, FIRST).flip(0)[:STRIPS]
    count = min(len(kept), len(lost))
    if not count:
        return None
    t = torch.linspace(0.0, 1.0, STEPS, device="cpu")
    ways = [
        between(a, b, t, curved=gan.prior == "normal")
        for a, b in zip(found.z[kept[:count]], found.z[lost[:count]], strict=True)
    ]
    z = torch.cat(ways).to(gan.device)
    y = None
    if found.y is not None:
        y = found.y[kept[:count]].repeat_interleave(STEPS).to(gan.device)
    x, logit = gan.logits(z, y)
    p = ops.probability(logit, **thresholds.of_rows(y)).cpu()
    return Strips(x.cpu().view(count, STEPS, *x.shape[1:]), p.view(count, STEPS))


def between(a: Tensor, b: Tensor, t: Tensor, *, curved: bool) -> Tensor:
    """Latents (k, d) from a to b, (d,) each, at the shares t (k,) of the way."""
    share = t[:, None]
    line = (1 - share) * a + share * b
    if not curved:
        return line
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=1e-12)
    angle = torch.acos(cosine.clamp(-1.0, 1.0))
    if float(angle.sin()) < 1e-3:
        return line
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / angle.sin()
