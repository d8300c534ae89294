"""A GAN whose logit is easily told from the latent, and exact rejection."""

from drs_fast import GAN, samplers

EXACT = samplers.DRS(gamma=0.0)


def hill(labels=None):
    """A GAN whose logit is easily told from the latent; class k is shifted by k."""

    def generator(z, y=None):
        return z if y is None else z + y[:, None].to(z.dtype)

    def discriminator(x, y=None):
        shift = 0.0 if y is None else y.to(x.dtype)
        return 2.0 * x[:, 0] + (x[:, 1] - shift).sin() - 0.2 * x.square().sum(dim=1) + shift

    return GAN(generator, discriminator, 4, labels=labels, block=256, name="hill")
