"""Makes samples again, for samplers whose samples are what G makes of the latents of their rows."""

from torch import Tensor

from drs_fast import ops
from drs_fast.core import Rng
from drs_fast.core.sampler import Remade
from drs_fast.gan import GAN


def of_rows(gan: GAN, ids: Tensor, y: Tensor | None, rng: Rng, judged: bool) -> Remade:
    """The samples of these rows (n,) with these labels. judged: whether logits are wanted."""
    z = ops.latents(gan, rng, len(ids), ids=ids)
    x, logit = gan.logits(z, y) if judged else (gan.samples(z, y), None)
    return Remade(x, z, logit)
